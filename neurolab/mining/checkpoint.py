"""The state of a pass over a source: everything that a killed build needs to go on where it was."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from neurolab.atlas.reductions import Reduced
from neurolab.atlas.shards import ShardRow
from neurolab.atlas.writing import read_npz, write_npz_in_turn
from neurolab.data.items import Batch
from neurolab.data.loader import ALL_DONE
from neurolab.errors import AtlasError
from neurolab.mining.observations import check_number, check_rows, observations
from neurolab.mining.remembered import Arrays, Kept, SiteSummaries
from neurolab.mining.sieve import Sieve, Sifted, sieves
from neurolab.mining.summaries import draw_hashes
from neurolab.mining.threads import each


class HasUnits(Protocol):
    """A site, as far as its summaries need to know it."""

    @property
    def name(self) -> str: ...
    @property
    def units(self) -> int: ...


@dataclass
class MiningState:
    """A pass so far: the summaries by site, the groups done of each shard, and the images kept and skipped.

    `images` is how many were kept, and the number that the next one gets; `notes` say what was wrong beside
    some of them. `shards` has a row for every shard of which a record was read, in the order of the source;
    those whose last record is known to be read are ALL_DONE in `done`. `per_image` is how many observations
    an image is, by site; 1 where it does not say (`neurolab.mining.observations`). `torn` is True while a
    batch is being taken in, and stays so when that fails: such a state must not be saved. `sieves` hold on a
    device what `settle` brings into the summaries.
    """

    sites: dict[str, SiteSummaries]
    done: dict[str, int] = field(default_factory=dict)
    images: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    shards: list[ShardRow] = field(default_factory=list)
    per_image: dict[str, int] = field(default_factory=dict)
    torn: bool = False
    sieves: list[Sieve] = field(default_factory=list)

    @property
    def records(self) -> int:
        """How many records of the source are done, bad ones included."""
        return self.images + len(self.skipped)

    @property
    def finished(self) -> list[ShardRow]:
        """The rows of the shards of which nothing is left to read: they will not change."""
        return [row for row in self.shards if self.done[row.name] == ALL_DONE]

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Around the taking in of a batch: Ctrl-C waits, and an error leaves the state marked as torn."""
        with interrupts_deferred():
            self.torn = True
            yield
            self.torn = False

    def take(
        self,
        batch: Batch,
        found: Mapping[str, Reduced] | Sequence[Sifted],
        concepts: NDArray[np.int64] | None = None,
    ) -> None:
        """Take in a batch: the reduced values of its images by site (none where it has no images), or what
        each of the `sieves` let through; and the numbers of their concepts."""
        images = np.arange(self.images, self.images + len(batch.items), dtype=np.int64)
        check_number(self.images + len(images), self.per_image)
        if isinstance(found, Mapping):
            hashes = draw_hashes([item.key for item in batch.items])
            size = sum(values.values.size for values in found.values())
            each(lambda site: self._update(site, found[site], images, hashes, concepts), list(found), size)
        else:
            for sieve, sifted in zip(self.sieves, found, strict=True):
                sieve.take(sifted, images, concepts)
        kept, skipped = len(batch.items), len(batch.skipped)
        self._count(ShardRow(batch.shard, batch.records, kept, skipped, self.images))
        self.images += kept
        self.skipped += [(skip.key, skip.reason) for skip in batch.skipped]
        self.notes += [(note.key, note.reason) for note in batch.notes]
        self.done[batch.shard] = ALL_DONE if batch.ends else batch.number + 1

    def _update(
        self,
        site: str,
        reduced: Reduced,
        images: NDArray[np.int64],
        hashes: NDArray[np.uint64],
        concepts: NDArray[np.int64] | None,
    ) -> None:
        count = self.per_image.get(site, 1)
        check_rows(site, len(reduced.values), len(images), count)
        for rows, some in observations(images, hashes, concepts, count).some():
            part = Reduced(reduced.values[rows], reduced.positions[rows])
            self.sites[site].update(part, some.numbers, some.hashes, some.concepts)

    def sieves_on(self, device: torch.device) -> list[Sieve]:
        """The device's side of the summaries; none until the edges of the histograms are known."""
        if not self.sieves and self.edges() is not None:
            self.sieves = sieves(self.sites, device, self.per_image)
        return self.sieves

    def settle(self) -> None:
        """Bring into the summaries what the device has counted."""
        for sieve in self.sieves:
            sieve.drain()

    def append(self, after: MiningState) -> None:
        """Take in the state of another pass, over the records that come next; it is used up by that."""
        check_number(self.images + after.images, self.per_image)
        for site, summaries in self.sites.items():
            after.sites[site].shift_images(self.images * self.per_image.get(site, 1))
            summaries.append(after.sites[site])
        for row in after.shards:
            self._count(row._replace(first=self.images + row.first))
        self.images += after.images
        self.skipped += after.skipped
        self.notes += after.notes
        self.done |= after.done

    def end(self) -> None:
        """The source has no more records, so that its last shard is finished, too."""
        if self.shards:
            self.done[self.shards[-1].name] = ALL_DONE

    def _count(self, row: ShardRow) -> None:
        """Take in what was read of a shard: the one before it has ended, for the source goes in order."""
        before = self.shards[-1] if self.shards else None
        if before is not None and before.name == row.name:
            self.shards[-1] = before.joined(row)
            return
        if before is not None:
            self.done[before.name] = ALL_DONE
        self.shards.append(row)

    def edges(self) -> dict[str, NDArray[np.float64]] | None:
        """The edges of the sites' histograms; None while they are not known."""
        found = {site: summaries.histogram.edges for site, summaries in self.sites.items()}
        known = {site: edges for site, edges in found.items() if edges is not None}
        return known if len(known) == len(found) else None

    def save(self, path: str | Path) -> None:
        """Write everything to one file, atomically."""
        self.settle()
        about = {
            "done": self.done,
            "shards": self.shards,
            "per_image": self.per_image,
            "images": self.images,
            "skipped": self.skipped,
            "notes": self.notes,
            "sites": list(self.sites),
        }
        text = json.dumps(about, ensure_ascii=True).encode()
        of_sites = (
            {f"{number}.{name}": array for name, array in summaries.state().items()}
            for number, summaries in enumerate(self.sites.values())
        )
        write_npz_in_turn(path, chain([{"about": np.frombuffer(text, np.uint8)}], of_sites))

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
            skipped, notes = ([(key, why) for key, why in about[name]] for name in ("skipped", "notes"))
            if "shards" not in about:
                raise AtlasError(
                    f"{path} is of an earlier neurolab, which did not count what each shard gave; go on with "
                    "that one, or overwrite=True (--overwrite) starts afresh"
                )
            shards = [ShardRow(*row) for row in about["shards"]]
            done, images, per_image = dict(about["done"]), int(about["images"]), dict(about["per_image"])
            return cls(sites, done, images, skipped, notes, shards, per_image)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise AtlasError(
                f"the checkpoint {path} is damaged ({error}); overwrite=True (--overwrite) starts afresh"
            ) from error


def fresh_state(
    sites: Sequence[HasUnits],
    kept: Kept,
    edges: Mapping[str, NDArray[np.float64]] | None = None,
    per_image: Mapping[str, int] | None = None,
) -> MiningState:
    """The state before the first image of some sites.

    edges: of their histograms, where they are known. per_image: as in the state.
    """
    known = edges or {}
    return MiningState(
        {site.name: SiteSummaries.empty(site.units, kept, known.get(site.name)) for site in sites},
        per_image=dict(per_image or {}),
    )


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Inside, Ctrl-C is noted; on leaving, it is given to the handler that was there, as if it came then.

    Only the main thread is ever interrupted, so in others there is nothing to do; neither is there where
    interrupts are ignored, as in a job in the background, or are not Python's affair.
    """
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before is None or before is signal.SIG_IGN:
        yield
        return
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if noted:
            signal.raise_signal(signal.SIGINT)
