import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from neurolab.data.decode import resize_crop
from neurolab.featurevis.colour import from_rgb
from neurolab.featurevis.methods import accentuation
from neurolab.featurevis.parametrizations.fourier import spectrum_scale
from neurolab.featurevis.parametrizations.seeded import SeededImage
from neurolab.featurevis.regularizers import PICTURE, Distance
from neurolab.featurevis.render import render
from neurolab.featurevis.transforms import Pad
from neurolab.models.zoo import Model, wrap_model

PHOTO = Image.fromarray(np.random.default_rng(0).integers(10, 245, (48, 48, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(48, 48), (24, 24), (17, 30)])
def test_it_starts_as_the_image(size: tuple[int, int]) -> None:
    image = SeededImage([0, 1], size, image=PHOTO)
    shown = image().detach()
    assert shown.shape == (2, 3, *size) and torch.equal(shown[0], shown[1])
    seen = resize_crop(PHOTO, size) / 255
    np.testing.assert_allclose(shown[0].permute(1, 2, 0), seen.clip(0.02, 0.98), atol=2e-5)
    lost = np.square(seen.clip(0.02, 0.98) - seen).mean()
    np.testing.assert_allclose(Distance(PHOTO)({PICTURE: shown}), [lost, lost], atol=1e-7, rtol=1e-2)


def test_a_change_agrees_with_numpy() -> None:
    image = SeededImage([0], (48, 48), image=PHOTO, decay=1.5).double()
    with torch.no_grad():
        image.change.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    change = image.change[0].detach().double().numpy()
    added = np.fft.irfft2(
        (change[..., 0] + 1j * change[..., 1]) * spectrum_scale((48, 48), 1.5).numpy(), s=(48, 48)
    )
    matrix = np.array([[0.26, 0.09, 0.02], [0.27, 0, -0.05], [0.27, -0.09, 0.03]])
    matrix /= np.linalg.norm(matrix, axis=0).max()
    colours = np.einsum("rc,bchw->brhw", matrix, from_rgb(np.asarray(PHOTO)[None] / 255) + added / 4)
    np.testing.assert_allclose(image().detach(), 1 / (1 + np.exp(-colours)), atol=2e-6)


def test_black_and_white_are_held_off_the_ends() -> None:
    shown = SeededImage([0], (8, 8), image=Image.new("L", (20, 30), 255))()
    torch.testing.assert_close(shown, torch.full((1, 3, 8, 8), 0.98), atol=1e-4, rtol=0)


def test_the_settings_name_the_image() -> None:
    other = Image.new("RGB", (48, 48), "red")
    settings = [SeededImage([0], (8, 8), image=image).settings() for image in (PHOTO, PHOTO.copy(), other)]
    assert settings[0] == settings[1] != settings[2]


def test_an_image_is_accentuated_and_kept_near(tiny_clip: Model) -> None:
    def drawn(nearness: float) -> tuple[float, float]:
        method = accentuation(PHOTO, nearness)
        (picture,) = render(tiny_clip, ["layer4.0/3"], method=method, steps=30, progress=False)
        shown = torch.from_numpy(picture.image / np.float32(255)).permute(2, 0, 1)[None]
        gained = float(picture.history[-5:].mean() - picture.history[:5].mean())
        return float(Distance(PHOTO)({PICTURE: shown})), gained

    (free, gained), (held, _) = drawn(0.0), drawn(100.0)
    assert gained > 0 and held < free / 2


def test_around_the_image_it_goes_on_mirrored() -> None:
    """A grey frame would be drawn on, too; of an image that began again the other side would be seen."""
    model = wrap_model(nn.Conv2d(3, 2, 1), image_size=16, mean=(0, 0, 0), std=(1, 1, 1), name="one pixel")
    seen: list[Tensor] = []
    hook = model.module.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    halves = np.zeros((16, 16, 3), np.uint8)
    halves[:, 8:] = 255
    method = accentuation(Image.fromarray(halves))
    render(model, ":out/0", method=method, steps=1, transforms=[Pad(4)], progress=False)
    hook.remove()
    torch.testing.assert_close(seen[-1][..., :2], torch.full((1, 3, 16, 2), 0.02), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[-1][..., -2:], torch.full((1, 3, 16, 2), 0.98), atol=1e-3, rtol=0)
