"""The state of a pass over a source: everything that a killed build needs to go on where it was."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas.reductions import Reduced
from neurolab.atlas.writing import read_npz, write_npz
from neurolab.errors import AtlasError
from neurolab.mining.summaries import Histogram, Moments, TopK

Arrays = dict[str, NDArray[np.generic]]


@dataclass
class SiteSummaries:
    """What is remembered of one site."""

    top: TopK
    moments: Moments
    histogram: Histogram

    @classmethod
    def empty(cls, units: int, k: int, bins: int) -> SiteSummaries:
        """Of a site of which nothing was seen."""
        return cls(TopK(units, k), Moments(units), Histogram(units, bins))

    def update(self, reduced: Reduced, images: NDArray[np.int64]) -> None:
        """Take in the values of a batch of images."""
        self.top.update(reduced.values, images, reduced.positions)
        self.moments.update(reduced.values)
        self.histogram.update(reduced.values)

    def exemplars(self) -> Arrays:
        """values, images, position, [units, k] each, for the atlas."""
        state = self.top.state()
        return {name: state[name] for name in ("values", "images", "position")}

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
        """All arrays of the three summaries."""
        top, moments, histogram = self.top.state(), self.moments.state(), self.histogram.state()
        parts = {"top": top, "moments": moments, "histogram": histogram}
        return {f"{part}.{name}": array for part, state in parts.items() for name, array in state.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[np.generic]]) -> SiteSummaries:
        """The summaries whose `state()` this is."""
        parts: dict[str, Arrays] = {"top": {}, "moments": {}, "histogram": {}}
        for key, array in state.items():
            part, _, name = key.partition(".")
            parts[part][name] = array
        return cls(
            TopK.from_state(parts["top"]),
            Moments.from_state(parts["moments"]),
            Histogram.from_state(parts["histogram"]),
        )


@dataclass
class MiningState:
    """A pass so far: the summaries by site, the groups done of each shard, and the images kept and skipped.

    `images` is how many were kept, and the number that the next one gets. `torn` is True while a batch is
    being taken in, and stays so when that fails: such a state must not be saved.
    """

    sites: dict[str, SiteSummaries]
    done: dict[str, int] = field(default_factory=dict)
    images: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    torn: bool = False

    @property
    def records(self) -> int:
        """How many records of the source are done, bad ones included."""
        return self.images + len(self.skipped)

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Around the taking in of a batch: Ctrl-C waits, and an error leaves the state marked as torn."""
        with interrupts_deferred():
            self.torn = True
            yield
            self.torn = False

    def save(self, path: str | Path) -> None:
        """Write everything to one file, atomically."""
        about = {"done": self.done, "images": self.images, "skipped": self.skipped, "sites": list(self.sites)}
        text = json.dumps(about, ensure_ascii=True).encode()
        arrays = {
            f"{number}.{name}": array
            for number, summaries in enumerate(self.sites.values())
            for name, array in summaries.state().items()
        }
        write_npz(path, about=np.frombuffer(text, np.uint8), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> MiningState:
        """The state that `save` wrote; AtlasError where the file is damaged."""
        try:
            arrays = read_npz(path)
            about = json.loads(arrays.pop("about").tobytes())
            by_site: list[Arrays] = [{} for _ in about["sites"]]
            for key, array in arrays.items():
                number, _, name = key.partition(".")
                by_site[int(number)][name] = array
            restored = [SiteSummaries.from_state(state) for state in by_site]
            sites = dict(zip(about["sites"], restored, strict=True))
            skipped = [(key, reason) for key, reason in about["skipped"]]
            return cls(sites, dict(about["done"]), int(about["images"]), skipped)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise AtlasError(
                f"the checkpoint {path} is damaged ({error}); overwrite=True (--overwrite) starts afresh"
            ) from error


def fresh_state(units: Mapping[str, int], k: int, bins: int) -> MiningState:
    """The state before the first image; units: how many each site has."""
    return MiningState({site: SiteSummaries.empty(count, k, bins) for site, count in units.items()})


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Inside, Ctrl-C is noted and raised as KeyboardInterrupt on leaving.

    Only the main thread is ever interrupted, so in others there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: Sequence[object] = []
    before = signal.signal(signal.SIGINT, lambda *what: noted.append(what))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if noted:
        raise KeyboardInterrupt
