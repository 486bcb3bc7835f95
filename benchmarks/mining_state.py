"""The state of mining at some point of a long pass, without the pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas.reductions import Reduced
from neurolab.data.items import Batch, Item
from neurolab.mining.checkpoint import MiningState, fresh_state
from neurolab.mining.remembered import Kept
from neurolab.models.sites import Site

KEPT = Kept()
SETTLING = 3  # batches until the network asks for no new memory


def started(sites: Sequence[Site], warm: int, kept: Kept = KEPT) -> MiningState:
    """The state before the first image of a pass whose histograms know their edges after `warm` images."""
    return fresh_state(sites, replace(kept, sample=max(1, min(kept.sample, warm))))


def warm_up(state: MiningState, reduced: dict[str, Reduced], images: int, size: int = 64) -> None:
    """Let a state see so many images whose values spread as those of a batch do, site by site."""
    rng = np.random.default_rng(0)
    spreads = {site: (of.values.mean(axis=0), of.values.std(axis=0)) for site, of in reduced.items()}
    for number, start in enumerate(range(0, images, size)):
        count = min(size, images - start)
        noise = {
            site: mean + sd * rng.standard_normal((count, len(mean)), dtype=np.float32)
            for site, (mean, sd) in spreads.items()
        }
        made = {site: in_the_corner(values.astype(np.float32)) for site, values in noise.items()}
        state.take(no_pixels(number, start, count), made)


def in_the_corner(values: NDArray[np.float32]) -> Reduced:
    """Values that are all from the first place of their map."""
    return Reduced(values, np.zeros(values.shape, np.int32))


def no_pixels(number: int, start: int, count: int) -> Batch:
    """A batch of which only the items are needed."""
    items = [Item(f"warm/{start + i:08d}", (), {}, 1, 1, b"") for i in range(count)]
    return Batch("warm", number, np.empty((count, 0, 0, 3), np.uint8), items, [], start, start + count)
