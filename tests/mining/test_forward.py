"""What mining reads of a pass: maps that are reduced in its middle, and none that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurolab.data.items import Batch, Item
from neurolab.errors import UnknownSiteError
from neurolab.mining.forward import Forward
from neurolab.models.sites import find_site
from neurolab.models.zoo import Model, wrap_model


class Moody(nn.Module):
    """Leaves its second layer out for bright images, and works in place on what the first one gave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        bright = bool(images.mean() > 0.9)
        found = self.first(images)
        found.zero_() if bright else found.relu_()
        return found if bright else self.second(found)


@pytest.fixture(scope="module")
def moody() -> Model:
    torch.manual_seed(0)
    return wrap_model(Moody().eval(), image_size=12, mean=(0, 0, 0), std=(1, 1, 1), name="moody")


def batch_of(brightness: int) -> Batch:
    images = np.full((2, 12, 12, 3), brightness, np.uint8)
    return Batch("shard-7", 0, images, [Item(str(i), (), {}, 12, 12, b"") for i in range(2)], [], 0, 2)


def test_a_map_is_read_before_the_network_writes_over_it(moody: Model) -> None:
    batch = batch_of(100)
    with Forward(moody, [find_site(moody, "first:out")], "center") as forward:
        reduced, embeddings = forward(batch)
    with torch.no_grad():
        images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float() / 255
        middle = moody.module.first(images)[:, :, 5, 5].numpy()  # type: ignore[operator, union-attr]
    np.testing.assert_allclose(reduced["first:out"].values, middle, rtol=1e-5, atol=1e-6)
    assert embeddings is None and middle.min() < 0


@pytest.mark.parametrize(("precision", "expected"), [("float32", True), ("bfloat16", False)])
def test_float32_is_computed_in_full(
    precision: str, expected: bool, moody: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU would round its factors: the network runs inside what keeps it from that."""
    inside, seen = [False], []

    @contextmanager
    def full() -> Iterator[None]:
        inside[0] = True
        yield
        inside[0] = False

    monkeypatch.setattr("neurolab.mining.forward.full_float32", full)
    first = moody.module.get_submodule("first")
    with (
        first.register_forward_pre_hook(lambda *_: seen.append(inside[0])),
        Forward(moody, [find_site(moody, "first:out")], "max", precision) as forward,
    ):
        for brightness in (100, 200):
            forward(batch_of(brightness))
    assert seen == [expected] * 2 and inside == [False]


def test_a_site_that_the_network_skips_is_named(moody: Model) -> None:
    sites = [find_site(moody, name) for name in ("first:out", "second:out")]
    with Forward(moody, sites, "max") as forward:
        reduced, _ = forward(batch_of(100))
        assert set(reduced) == {"first:out", "second:out"}
        with pytest.raises(UnknownSiteError, match=r"second:out: not computed for the images of shard-7"):
            forward(batch_of(255))
        forward(batch_of(100))
