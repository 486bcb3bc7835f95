"""What is remembered of a site: its summaries together, as they are updated, merged, saved and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas.reductions import Reduced
from neurolab.errors import AtlasError
from neurolab.mining.buckets import MOST_BUCKETS
from neurolab.mining.histogram import SAMPLE
from neurolab.mining.observations import images_and_places
from neurolab.mining.summaries import ActivationBuckets, BottomK, CoActivation, Histogram, Moments, TopK

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Kept:
    """How much is remembered of each unit.

    k: exemplars. bins: of the histogram, whose edges come from the first `sample` images. bottom: images that
    excite it least. buckets: levels of activation, bucket_images: images of each (0: none are drawn).
    concepts: that are counted in the buckets. coactivation: random projections (0: none).
    """

    k: int = 100
    bins: int = 64
    sample: int = SAMPLE
    bottom: int = 9
    buckets: int = 16
    bucket_images: int = 16
    concepts: int = 0
    coactivation: int = 0

    def __post_init__(self) -> None:
        least = {"k": 1, "bins": 1, "sample": 1, "bottom": 0, "bucket_images": 0, "concepts": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise AtlasError(f"{name} is at least {bound}, not {getattr(self, name)}")
        if self.concepts and not self.bucket_images:
            raise AtlasError("concepts are counted in buckets, of which there are none: bucket_images is 0")
        if self.coactivation < 0 or self.coactivation % 64:
            raise AtlasError(f"coactivation is a multiple of 64, or 0, not {self.coactivation}")
        if not 2 <= self.buckets <= MOST_BUCKETS:
            raise AtlasError(f"buckets is from 2 to {MOST_BUCKETS}, not {self.buckets}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Kept:
        """As a build's settings have it."""
        return cls(**{name: int(settings[name]) for name in cls.__dataclass_fields__})


@dataclass
class SiteSummaries:
    """The summaries of one site. Those after the histogram may be left out."""

    top: TopK
    moments: Moments
    histogram: Histogram
    lowest: BottomK | None = None
    buckets: ActivationBuckets | None = None
    coactivation: CoActivation | None = None

    @classmethod
    def empty(cls, units: int, kept: Kept, edges: NDArray[np.float64] | None = None) -> SiteSummaries:
        """Of a site of which nothing was seen. edges: of the histogram, where they are known."""
        return cls(
            TopK(units, kept.k),
            Moments(units),
            Histogram(units, kept.bins, edges=edges, sample=kept.sample),
            BottomK(units, kept.bottom) if kept.bottom else None,
            ActivationBuckets(units, kept.buckets, kept.bucket_images, kept.concepts)
            if kept.bucket_images
            else None,
            CoActivation(units, kept.coactivation) if kept.coactivation else None,
        )

    def parts(self) -> dict[str, Any]:
        """The summaries that there are, by name."""
        every = {name: getattr(self, name) for name in _KINDS}
        return {name: summary for name, summary in every.items() if summary is not None}

    def update(
        self,
        reduced: Reduced,
        images: NDArray[np.int64],
        hashes: NDArray[np.uint64],
        concepts: NDArray[np.int64] | None = None,
    ) -> None:
        """Take in the values of a batch of images, the hashes they are drawn by, their concepts (or -1)."""
        self.top.update(reduced.values, images, reduced.positions)
        self.moments.update(reduced.values)
        self.histogram.update(reduced.values)
        if self.lowest is not None:
            self.lowest.update(reduced.values, images, reduced.positions)
        if self.buckets is not None:
            self.buckets.update(reduced.values, images, hashes, concepts)
        if self.coactivation is not None:
            self.fix()
            self.coactivation.update(reduced.values, hashes)

    def fix(self) -> None:
        """What waits for the edges of the histogram gets them, once they are there."""
        if self.coactivation is not None and self.histogram.edges is not None:
            self.coactivation.fix(self.histogram.edges)

    def append(self, after: SiteSummaries) -> None:
        """Take in what another pass has seen of the images that come next."""
        self.histogram.append(after.histogram)
        self.fix()
        if self.coactivation is not None and after.coactivation is not None:
            self.coactivation.append(after.coactivation)
        for name, summary in self.parts().items():
            if name not in ("histogram", "coactivation"):
                summary.merge(getattr(after, name))

    def shift_images(self, by: int) -> None:
        """Number the images from `by` on."""
        for summary in (self.top, self.lowest, self.buckets):
            if summary is not None:
                summary.shift_images(by)

    def exemplars(self) -> Arrays:
        """values, images, position, [units, k] each, for the atlas."""
        return self.top.arrays()

    def others(self) -> dict[str, Arrays]:
        """The arrays of what may be left out, by the atlas's names: lowest, buckets, coactivation."""
        self.histogram.finish()
        self.fix()
        left = {"lowest": self.lowest, "buckets": self.buckets, "coactivation": self.coactivation}
        return {name: summary.arrays() for name, summary in left.items() if summary is not None}

    def statistics(self) -> Arrays:
        """count, mean, sd, min, max [units]; histogram [units, bins + 2] and its edges, for the atlas.

        The first and the last column count what fell below and above the bins. They reach to the smallest and
        to the largest value seen, and have no width where nothing fell outside.
        """
        self.histogram.finish()
        inner = self.histogram.edges
        assert inner is not None
        low, high = (np.nan_to_num(ends, nan=0.0, posinf=0.0, neginf=0.0) for ends in self._ends())
        first = np.where(self.histogram.below > 0, np.minimum(low, inner[:, 0]), inner[:, 0])
        last = np.where(self.histogram.above > 0, np.maximum(high, inner[:, -1]), inner[:, -1])
        counts = [self.histogram.below[:, None], self.histogram.counts, self.histogram.above[:, None]]
        return {
            "count": self.moments.count,
            "mean": self.moments.mean,
            "sd": self.moments.sd,
            "min": self.moments.min,
            "max": self.moments.max,
            "histogram": np.concatenate(counts, axis=1),
            "edges": np.concatenate([first[:, None], inner, last[:, None]], axis=1),
        }

    def _ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.moments.min.astype(np.float64), self.moments.max.astype(np.float64)

    def state(self) -> Arrays:
        """All arrays of the summaries, SUMMARY.ARRAY."""
        return {
            f"{part}.{name}": array
            for part, summary in self.parts().items()
            for name, array in summary.state().items()
        }

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[np.generic]]) -> SiteSummaries:
        """The summaries whose `state()` this is."""
        parts: dict[str, Arrays] = {}
        for key, array in state.items():
            part, _, name = key.partition(".")
            parts.setdefault(part, {})[name] = array
        return cls(**{part: _KINDS[part].from_state(arrays) for part, arrays in parts.items()})


_KINDS: dict[str, Any] = {
    "top": TopK,
    "moments": Moments,
    "histogram": Histogram,
    "lowest": BottomK,
    "buckets": ActivationBuckets,
    "coactivation": CoActivation,
}


def at_most(kept: Kept, images: int | None, per_image: int = 1) -> Kept:
    """What can be kept of so many images at most (None: nobody knows how many): no larger a sample."""
    return kept if images is None else replace(kept, sample=max(1, min(kept.sample, images * per_image)))


def bytes_per_unit(kept: Kept, per_image: int = 1) -> tuple[int, int]:
    """What is remembered of a unit takes in memory at most and, written down, in the atlas.

    Most it takes just before the edges of the histogram are known, for until then the sample waits, and for
    the co-activations once more. per_image: how many observations an image is.
    """
    few = min(64, max(1, 2**20 // (kept.k + kept.bottom + kept.buckets * kept.bucket_images)))
    edges = np.tile(np.linspace(0.0, 1.0, kept.bins + 1), (few, 1))
    summaries = SiteSummaries.empty(few, kept, edges)
    parts = [summaries.exemplars(), summaries.statistics(), *summaries.others().values()]
    written = [images_and_places(part, per_image) for part in parts]
    memory = sum(_array_bytes(part) for part in summaries.parts().values())
    waiting = kept.sample * np.dtype(np.float32).itemsize * (2 if kept.coactivation else 1)
    disk = sum(array.nbytes for arrays in written for array in arrays.values())
    return -(-memory // few) + waiting, -(-disk // few)


def _array_bytes(thing: Any) -> int:
    """Of the arrays that a summary holds, itself or in a part of it."""
    held = vars(thing).values()
    return sum(
        value.nbytes
        if isinstance(value, np.ndarray)
        else _array_bytes(value)
        if hasattr(value, "__dict__")
        else 0
        for value in held
    )
