"""A build of many small batches, to be killed again and again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from neurolab.atlas import Atlas
from neurolab.data.sources import Record, Shard
from tests.data.making import encoded
from tests.mining.small_build import Embedder, NoiseSource, small_build

SHARDS, RECORDS, BATCH = 5, 31, 2  # 80 batches, the last of each shard of a single record
KEYS = [f"shard-{shard}/{number}" for shard in range(SHARDS) for number in range(RECORDS)]


class LongSource(NoiseSource):
    """155 pictures in five shards, every thirtieth bad."""

    def shards(self) -> list[Shard]:
        return [Shard(f"shard-{shard}", RECORDS) for shard in range(SHARDS)]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for number in range(start, RECORDS if stop is None else min(stop, RECORDS)):
            key = f"{shard.name}/{number}"
            if self.log:
                with self.log.open("a") as log:
                    log.write(f"{key}\n")
            place = KEYS.index(key)
            yield Record(key, b"no image" if place % 30 == 7 else encoded(place))


def long_build(
    out: Path, log: Path | None = None, seconds: float = 0.0, checkpoint_seconds: float = 0.0
) -> Atlas:
    """Mine it; each batch takes so many seconds, and is saved unless told otherwise."""
    # A killed process loses nothing that it wrote, synced or not; only a power cut would.
    os.fsync = lambda handle: None  # type: ignore[assignment]
    Embedder.seconds = seconds
    return small_build(out, LongSource(log), batch_size=BATCH, checkpoint_seconds=checkpoint_seconds)
