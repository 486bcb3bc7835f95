from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neurolab.featurevis.methods import METHODS
from neurolab.featurevis.objectives import Unit
from neurolab.featurevis.parametrizations.alpha import TransparentImage
from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.parametrizations.pixels import BoundedPixels
from neurolab.featurevis.regularizers import L2, PICTURE, Opacity
from neurolab.featurevis.render import render
from neurolab.featurevis.seeds import generator
from neurolab.featurevis.transforms import Frame
from neurolab.featurevis.views import Views, backgrounds
from neurolab.models.zoo import Model


@pytest.mark.parametrize("size", [(7, 10), (8, 9)])
def test_alpha_agrees_with_numpy(size: tuple[int, int]) -> None:
    image = TransparentImage(FourierImage([3, 4], size), decay=1.0, sd=0.2)
    opacity = image.opacity.detach().double().numpy()
    f = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    scale = np.sqrt(size[0] * size[1]) / np.maximum(f, 1 / max(size))
    waves = np.fft.irfft2((opacity[..., 0] + 1j * opacity[..., 1]) * scale, s=size) / 4
    shown = image().detach()
    assert shown.shape == (2, 4, *size)
    np.testing.assert_allclose(shown[:, 3], 1 / (1 + np.exp(-waves)), atol=1e-5)
    torch.testing.assert_close(shown[:, :3], FourierImage([3, 4], size)().detach())


def test_items_have_their_own_alpha_and_settle() -> None:
    alone, among = (TransparentImage(FourierImage(seeds, (8, 8))) for seeds in ([5], [4, 5]))
    torch.testing.assert_close(alone()[0], among()[1])
    assert not torch.equal(among()[0, 3], among()[1, 3])
    bounded = TransparentImage(BoundedPixels([0], (8, 8)))
    with torch.no_grad():
        bounded.colours.pixels.add_(5)  # type: ignore[operator]
    bounded.settle()
    assert bounded().max() <= 1


def test_views_of_opaque_and_of_absent_pictures() -> None:
    """Where alpha is 1 a view shows the picture, where it is 0 the background, and nothing of the picture."""
    frame = Frame((8, 8), (8, 8))
    views = Views((), [0, 1], frame, steps=1, count=2)
    colours = torch.rand(2, 3, 8, 8)
    opaque = views(torch.cat([colours, torch.ones(2, 1, 8, 8)], 1), 0)
    torch.testing.assert_close(opaque, colours.repeat_interleave(2, 0), atol=1e-5, rtol=0)
    views = Views((), [0, 1], frame, steps=1, count=2)
    absent = views(torch.cat([colours, torch.zeros(2, 1, 8, 8)], 1), 0)
    expected = backgrounds(2, (8, 8), [generator(seed, "colours") for seed in (0, 1)]).flatten(0, 1)
    torch.testing.assert_close(absent, expected)
    assert not torch.equal(absent[0], absent[1])  # each view has its own


def test_opacity_is_the_mean_alpha() -> None:
    pictures = torch.rand(2, 4, 3, 3)
    torch.testing.assert_close(Opacity()({PICTURE: pictures}), pictures[:, 3].mean((1, 2)))
    torch.testing.assert_close(L2()({PICTURE: pictures}), L2()({PICTURE: pictures[:, :3]}))
    with pytest.raises(ValueError, match="alpha=True"):
        Opacity()({PICTURE: pictures[:, :3]})


def test_what_does_not_help_is_left_out(tiny_clip: Model, tmp_path: Path) -> None:
    """A unit at one place of the map sees the middle: the rest of the picture becomes transparent."""
    unit = Unit("layer2.0", 5, "center")
    (picture,) = render(tiny_clip, unit, alpha=True, steps=60, transforms="none", progress=False)
    assert picture.rgba is not None
    assert picture.rgba.shape == (64, 64, 4)
    assert picture.settings["alpha"]
    colours, alpha = picture.rgba[..., :3].astype(float), picture.rgba[..., 3] / 255
    assert alpha[:8].mean() < alpha[28:40, 28:40].mean() - 0.1
    on_white = colours * alpha[..., None] + 255 * (1 - alpha[..., None])
    np.testing.assert_allclose(picture.image, on_white, atol=2)
    assert Image.open(picture.save(tmp_path / "a.png")).mode == "RGBA"
    assert Image.open(picture.save(tmp_path / "a.jpg")).mode == "RGB"
    (plain,) = render(tiny_clip, unit, steps=2, progress=False)
    assert plain.rgba is None
    assert plain.to_pil().mode == "RGB"
    assert not METHODS["fourier"].alpha
