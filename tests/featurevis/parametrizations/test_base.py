"""What holds for every parametrization."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurolab.featurevis.methods import METHODS
from neurolab.featurevis.parametrizations.base import Parametrization
from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.parametrizations.pixels import PixelImage
from neurolab.featurevis.parametrizations.pyramid import PyramidImage

Make = Callable[..., Parametrization]
MAKERS = {name: method.parametrization for name, method in METHODS.items()}
EVERY = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
SEPARATE = {name: maker for name, maker in MAKERS.items() if not METHODS[name].is_shared}
EACH_ALONE = pytest.mark.parametrize("make", SEPARATE.values(), ids=SEPARATE.keys())
SIZES = st.tuples(st.integers(1, 23), st.integers(1, 23))


@EVERY
@given(size=SIZES, seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=3))
@settings(deadline=None, max_examples=20)
def test_pictures_of_any_size_are_rgb_between_0_and_1(
    make: Make, size: tuple[int, int], seeds: list[int]
) -> None:
    shown = make(seeds, size)()
    assert shown.shape == (len(seeds), 3, *size) and shown.dtype == torch.float32
    assert shown.min() >= 0 and shown.max() <= 1


@pytest.mark.parametrize("make", [FourierImage, PixelImage, PyramidImage])
def test_start_has_the_standard_deviation_asked_for(make: Make) -> None:
    values = torch.cat([p.flatten() for p in make(list(range(4)), (64, 64), sd=0.03).parameters()])
    assert values.std().item() == pytest.approx(0.03, rel=0.02)
    assert values.mean().item() == pytest.approx(0, abs=0.001)


@EACH_ALONE
def test_start_depends_on_the_items_own_seed_only(make: Make) -> None:
    alone, first, last = make([5], (16, 18)), make([5, 6, 7], (16, 18)), make([9, 5, 5], (16, 18))
    for a, f, b in zip(alone.parameters(), first.parameters(), last.parameters(), strict=True):
        assert len(a) == 1 and len(f) == len(b) == 3
        assert torch.equal(a[0], f[0])
        assert torch.equal(a[0], b[1])
        assert torch.equal(b[1], b[2])
    assert any(not torch.equal(p[0], p[1]) for p in last.parameters())
    one, two = make([5], (16, 18))().detach(), make([9, 5], (16, 18))().detach()
    torch.testing.assert_close(two[1], one[0], atol=1e-6, rtol=0)


@EVERY
def test_global_generator_is_neither_read_nor_moved(make: Make) -> None:
    torch.manual_seed(1)
    first = [p.detach().clone() for p in make([0], (8, 8)).parameters()]
    after = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(after, torch.get_rng_state())
    torch.manual_seed(2)
    second = list(make([0], (8, 8)).parameters())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@EACH_ALONE
def test_items_do_not_share_gradients(make: Make) -> None:
    image = make([0, 1, 2], (6, 5))
    image()[1].square().sum().backward()
    grads = [p.grad for p in image.parameters() if p.grad is not None]
    assert any(grad[1].any() for grad in grads)
    assert not any(grad[[0, 2]].any() for grad in grads)


@EVERY
def test_settings_are_plain_values(make: Make) -> None:
    assert all(isinstance(value, int | float | bool | str) for value in make([0], (8, 8)).settings().values())


@EVERY
def test_pictures_need_a_seed_and_a_pixel(make: Make) -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        make([], (4, 4))
    with pytest.raises(ValueError, match="one pixel"):
        make([0], (0, 4))
