"""Methods as data, and what each draws."""

import math

import numpy as np
import pytest
import torch

from neurolab.featurevis.methods import METHODS, Method, find_method, maco
from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.regularizers import L2
from neurolab.featurevis.render import render
from neurolab.featurevis.transforms import Jitter
from neurolab.models.zoo import Model
from tests.featurevis.parametrizations.test_maco import small_spectrum

UNITS = ["layer4.0/3", "layer3.0/7"]
EVERY = pytest.mark.parametrize("method", METHODS)


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
        assert picture.kind == METHODS[method].parametrization([0], (4, 4)).kind
        assert picture.settings["views"] == METHODS[method].views


@EVERY
def test_same_seed_same_bytes_and_another_seed_another_picture(tiny_clip: Model, method: str) -> None:
    def drawn(seed: int) -> bytes:
        (picture,) = render(tiny_clip, UNITS[:1], method=method, steps=3, seed=seed, progress=False)
        return picture.image.tobytes()

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].is_shared])
def test_a_picture_does_not_depend_on_its_batch(tiny_clip: Model, method: str) -> None:
    (alone,) = render(tiny_clip, UNITS[:1], method=method, steps=3, seed=[5], progress=False)
    among = render(tiny_clip, UNITS[::-1], method=method, steps=3, seed=[9, 5], progress=False)[1]
    assert np.abs(alone.image.astype(int) - among.image.astype(int)).mean() < 0.05
    np.testing.assert_allclose(alone.history, among.history, rtol=1e-3, atol=1e-5)


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
