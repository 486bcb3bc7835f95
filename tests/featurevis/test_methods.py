"""Methods as data, and what each draws."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurolab.featurevis.methods import METHODS, Method, find_method, maco
from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.parametrizations.pixels import BoundedPixels
from neurolab.featurevis.regularizers import L2, PICTURE
from neurolab.featurevis.render import render
from neurolab.featurevis.transforms import Jitter, Pad
from neurolab.models.zoo import Model, wrap_model
from tests.featurevis.parametrizations.test_maco import small_spectrum
from tests.featurevis.test_regularizers import PICTURES, VALUES, numpy_total_variation

UNITS = ["layer4.0/3", "layer3.0/7"]
EVERY = pytest.mark.parametrize("method", METHODS)
SEPARATE = pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].is_shared])


@EVERY
def test_every_method_climbs(tiny_clip: Model, method: str) -> None:
    """Without transforms, whose chance would hide it."""
    for picture in render(
        tiny_clip, UNITS, method=method, steps=20, size=64, transforms="none", views=1, progress=False
    ):
        assert picture.history[-1] > picture.history[0] + 0.2 * abs(picture.history[0]), picture.history


@EVERY
def test_every_method_has_its_size_and_keeps_its_settings(tiny_clip: Model, method: str) -> None:
    for picture in render(tiny_clip, UNITS, method=method, steps=1, progress=False):
        assert picture.image.shape == (64, 64, 3)
        assert picture.kind == (METHODS[method].kind or METHODS[method].parametrization([0], (4, 4)).kind)
        assert picture.settings["views"] == METHODS[method].views


@EVERY
def test_same_seed_same_bytes_and_another_seed_another_picture(tiny_clip: Model, method: str) -> None:
    def drawn(seed: int) -> bytes:
        (picture,) = render(tiny_clip, UNITS[:1], method=method, steps=3, seed=seed, progress=False)
        return picture.image.tobytes()

    assert drawn(1) == drawn(1) != drawn(2)


@SEPARATE
def test_a_picture_does_not_depend_on_its_batch(tiny_clip: Model, method: str) -> None:
    (alone,) = render(tiny_clip, UNITS[:1], method=method, steps=3, seed=[5], progress=False)
    among = render(tiny_clip, UNITS[::-1], method=method, steps=3, seed=[9, 5], progress=False)[1]
    assert np.abs(alone.image.astype(int) - among.image.astype(int)).mean() < 0.05
    np.testing.assert_allclose(alone.history, among.history, rtol=1e-3, atol=1e-5)


@SEPARATE
def test_companions_change_no_byte(tiny_clip: Model, method: str) -> None:
    """In a batch of the same size nothing is rounded otherwise, over a whole run and with any others."""
    steps = 8 if METHODS[method].views > 1 else 40

    def drawn(units: list[str], seeds: list[int]) -> tuple[bytes, bytes]:
        pictures = render(tiny_clip, units, method=method, steps=steps, size=32, seed=seeds, progress=False)
        mine = pictures[seeds.index(5)]
        return mine.image.tobytes(), mine.history.tobytes()

    first = drawn(["layer4.0/3", "layer4.0/9", "layer4.0/11"], [5, 6, 7])
    assert first == drawn(["layer4.0/3", "layer3.0/7", "layer2.0/1"], [5, 8, 9])
    # Of a pyramid's level of one pixel the last numbers fill no vector, and the fused Adam rounds them
    # otherwise than the rest.
    if method != "pyramid":
        assert first == drawn(["layer2.0/1", "layer4.0/17", "layer4.0/3"], [8, 9, 5])


@SEPARATE
def test_batches_of_other_sizes_begin_alike(tiny_clip: Model, method: str) -> None:
    """Sums are rounded otherwise; a step that was another would differ by more at once."""
    (alone,) = render(tiny_clip, UNITS[:1], method=method, steps=2, seed=5, progress=False)
    for size in (2, 5):
        among = render(
            tiny_clip, UNITS[:1] * size, method=method, steps=2, seed=range(6 - size, 6), progress=False
        )
        np.testing.assert_allclose(among[-1].history, alone.history, rtol=1e-4, atol=1e-7)


def test_what_is_asked_for_comes_before_the_methods_own(tiny_clip: Model) -> None:
    before = METHODS["maco"]
    (picture,) = render(
        tiny_clip,
        UNITS[:1],
        method="maco",
        steps=2,
        progress=False,
        transforms=[Jitter(2)],
        border="reflect",
        views=2,
        lr=0.5,
        size=32,
    )
    kept = picture.settings
    assert (kept["border"], kept["views"], kept["lr"], kept["size"]) == ("reflect", 2, 0.5, [32, 32])
    assert kept["transforms"] == [repr(Jitter(2))] and kept["optimizer"] == "nadam"
    assert METHODS["maco"] == before != before.changed(None, None, 2, 0.5)


def test_a_cosine_falls_to_nothing() -> None:
    falling = Method(FourierImage, lr=2.0, schedule="cosine")
    expected = [1 + math.cos(math.pi * step / 8) for step in range(9)]
    np.testing.assert_allclose([falling.lr_at(step, 8) for step in range(9)], expected, atol=1e-12)
    assert Method(FourierImage, lr=2.0).lr_at(7, 8) == 2.0
    assert Method(FourierImage, lr=2.0, schedule="".join(["con", "stant"])).lr_at(7, 8) == 2.0  # as it says
    with pytest.raises(ValueError, match="constant"):
        Method(FourierImage, schedule="linear")


def test_the_penalty_is_subtracted_and_named(tiny_clip: Model) -> None:
    still, held = Method(FourierImage, lr=0.0), Method(FourierImage, lr=0.0, penalty=L2(0.0))
    (plain,) = render(tiny_clip, UNITS[:1], method=still, steps=2, progress=False)
    (less,) = render(tiny_clip, UNITS[:1], method=held, steps=2, progress=False)
    brightness = np.square(plain.image / 255).mean()
    np.testing.assert_allclose(plain.history - less.history, brightness, rtol=0.02)
    assert less.settings["penalty"] == "L2(0)" and plain.settings["penalty"] is None
    assert np.array_equal(plain.image, less.image)


def test_found_by_name_or_as_they_are() -> None:
    own = Method(FourierImage, lr=3.0)
    assert find_method("fourier").parametrization is FourierImage
    assert find_method(own) is own
    assert find_method(FourierImage) == Method(FourierImage)
    with pytest.raises(ValueError, match="fourier, pixels"):
        find_method("furrier")


def test_maco_draws_with_the_spectrum_given() -> None:
    spectrum = small_spectrum()
    image = maco(spectrum).parametrization([0], (8, 8))
    torch.testing.assert_close(
        dict(image.named_buffers())["magnitude"][:, 1, 1], spectrum.resampled((8, 8))[:, 1, 1]
    )


def test_the_recipe_for_transformers_is_ghiasis() -> None:
    """Ghiasi et al. 2022, as their code has it; its transforms are tested with the others."""
    method = METHODS["vit"]
    assert method.parametrization is BoundedPixels
    assert (method.transforms, method.views, method.border) == ("vit", 8, "wrap")
    np.testing.assert_allclose([method.lr_at(step, 400) for step in (0, 200, 400)], [0.1, 0.05, 0], atol=1e-9)
    optimizer = method.optimizer([nn.Parameter(torch.zeros(1))], lr=method.lr)
    assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["betas"] == (0.5, 0.99)
    assert method.penalty is not None
    held = method.penalty({PICTURE: PICTURES})
    np.testing.assert_allclose(held, 0.0005 * numpy_total_variation(VALUES), rtol=1e-5)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "vit"])
def test_what_lies_around_a_picture_is_grey(method: str) -> None:
    """The network sees medium grey and no black, whose edge would be the strongest in the picture."""
    model = wrap_model(nn.Conv2d(3, 2, 1), image_size=16, mean=(0, 0, 0), std=(1, 1, 1), name="one pixel")
    seen: list[Tensor] = []
    hook = model.module.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    render(model, ":out/0", method=method, steps=1, transforms=[Pad(8)], progress=False)
    hook.remove()
    edges = torch.cat([seen[-1][..., :3, :].flatten(), seen[-1][..., -3:].flatten()])
    torch.testing.assert_close(edges, torch.full_like(edges, 0.5))
