import numpy as np
import pytest
import torch

from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.parametrizations.shared import SharedImage
from neurolab.featurevis.render import render
from neurolab.featurevis.together import interpolation
from neurolab.models.zoo import Model
from tests.featurevis.test_colour import numpy_to_rgb


@pytest.mark.parametrize("size", [(16, 16), (9, 14)])
def test_pictures_start_as_the_coarse_part_of_one(size: tuple[int, int]) -> None:
    """NumPy: the Fourier image of the first seed, without what lies above the finest common frequency."""
    image = SharedImage([3, 4, 5], size, finest=3, sd=0.2)
    one = FourierImage([3], size, decay=1.5, sd=0.2)
    cycles = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])) * max(size)
    with torch.no_grad():
        one.spectrum *= torch.from_numpy(cycles <= 3)[..., None]
    torch.testing.assert_close(image().detach(), one().detach().expand(3, -1, -1, -1))


@pytest.mark.parametrize("size", [(16, 16), (9, 14)])
def test_pictures_agree_with_numpy(size: tuple[int, int]) -> None:
    """What all share is coarse; what is a picture's own reaches to the finest detail."""
    image = SharedImage([3, 4], size, finest=3, decay=1.0, sd=0.2)
    with torch.no_grad():
        image.own.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    common, own = (p.detach().double().numpy() for p in (image.common, image.own))
    cycles = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])) * max(size)
    # For a decay of 1 lucid's: sqrt(width height) / frequency, with the frequency in cycles per pixel.
    scale = np.sqrt(size[0] * size[1]) * max(size) / np.maximum(cycles, 1)
    together = common * (cycles <= 3)[..., None] + own
    colours = np.fft.irfft2((together[..., 0] + 1j * together[..., 1]) * scale, s=size) / 4
    np.testing.assert_allclose(image().detach(), numpy_to_rgb(colours), atol=2e-5)


def test_the_common_part_moves_all_and_the_own_part_one() -> None:
    image = SharedImage([0, 0], (8, 8))
    before = image().detach()
    with torch.no_grad():
        image.own[1, 0, 1, 1] += 0.1
    changed = (image().detach() - before).abs().amax((1, 2, 3))
    assert changed[0] == 0
    assert changed[1] > 0
    with torch.no_grad():
        image.common[0, 0, 1, 1] += 0.1
    assert ((image().detach() - before).abs().amax((1, 2, 3)) > 0).all()


def test_shared_pictures_are_more_alike_than_separate_ones(tiny_clip: Model) -> None:
    objectives = interpolation("layer4.0/3", "layer4.0/9", 4)

    def distance(method: str) -> float:
        # The batch size does not divide what belongs together.
        drawn = render(tiny_clip, objectives, method=method, steps=24, batch_size=2, progress=False)
        images = np.stack([picture.image.astype(float) for picture in drawn])
        return float(np.abs(images[1:] - images[:-1]).mean())

    assert distance("shared") < 0.9 * distance("fourier")
