"""Batches of decoded images from a source, always the same groups in the same order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice

from neurolab.data.decode import ImageTransform
from neurolab.data.items import Batch, Decoded, Item, Skip
from neurolab.data.pool import DecodePool
from neurolab.data.remote import fetched
from neurolab.data.sources import Record, Source
from neurolab.data.worker import decode_group
from neurolab.errors import SourceError

__all__ = ["ALL_DONE", "Batch", "Item", "Skip", "load_batches"]

ALL_DONE = -1


@dataclass
class Group:
    """Consecutive records of a shard, from record ``start`` on; ``ends``: it is known that none follow."""

    shard: str
    number: int
    start: int
    records: list[Record]
    ends: bool

    def batch(self, decoded: Decoded) -> Batch:
        stop = self.start + len(self.records)
        return Batch(
            *(self.shard, self.number, decoded.images, decoded.items, decoded.skipped, self.start, stop),
            notes=decoded.notes,
            ends=self.ends,
        )


def load_batches(
    source: Source,
    transform: ImageTransform,
    *,
    batch_size: int = 64,
    workers: int = 0,
    done: Mapping[str, int] | None = None,
) -> Iterator[Batch]:
    """Decode a source group by group, in its order.

    A group is ``batch_size`` consecutive records of a shard (the last of a shard is smaller). Which records
    form a group, and so every batch, does not depend on ``workers``, on bad images (they drop out, a batch
    may be empty), or on ``done``: the number of groups of each shard, by its name, that are finished and are
    not read again; ALL_DONE for a whole shard, which spares a stream reading to its end.

    ``workers`` processes decode; 0 decodes here, where an image that kills its decoder kills the process. At
    most 2 * workers + 2 groups are held at a time. The workers end when the iteration ends, is left, or
    fails. Raises SourceError when the source cannot be read on, and for numbers that cannot be.
    """
    if batch_size < 1:
        raise SourceError(f"batch_size is at least 1, not {batch_size}")
    if workers < 0:
        raise SourceError(f"workers is at least 0, which decodes in this process, not {workers}")
    groups = iterate_groups(source, batch_size, done or {})
    if workers == 0:
        return (group.batch(decode_group(group.records, transform)) for group in groups)
    return _decode_in_workers(groups, transform, workers)


def iterate_groups(source: Source, batch_size: int, done: Mapping[str, int]) -> Iterator[Group]:
    """The groups of a source that are not done."""
    for shard in source.shards():
        number = done.get(shard.name, 0)
        if number == ALL_DONE or (shard.size is not None and number * batch_size >= shard.size):
            continue
        records = fetched(source.read(shard, number * batch_size))
        while group := list(islice(records, batch_size)):
            start = number * batch_size
            # A full group of a shard of unknown size may be its last or not: only reading on would tell.
            ends = len(group) < batch_size or start + len(group) == shard.size
            yield Group(shard.name, number, start, group, ends)
            number += 1


def _decode_in_workers(groups: Iterator[Group], transform: ImageTransform, workers: int) -> Iterator[Batch]:
    pool = DecodePool(transform, workers)
    reader = _Reader(groups, pool, ahead=2 * workers)
    reader.start()
    try:
        while (entry := reader.take()) is not None:
            group, future = entry
            yield group.batch(future.result())
    finally:
        reader.stop()
        pool.close()
        # A reader that waits for the network is left to end by itself.
        reader.join(timeout=5)


class _Reader(threading.Thread):
    """Reads records ahead of their decoding, so that a slow disk or network does not hold up the consumer."""

    def __init__(self, groups: Iterator[Group], pool: DecodePool, ahead: int) -> None:
        super().__init__(name="neurolab-read", daemon=True)
        self._groups, self._pool = groups, pool
        self._room = threading.Semaphore(ahead)
        self._entries: queue.SimpleQueue[tuple[Group, Future[Decoded]] | BaseException | None]
        self._entries = queue.SimpleQueue()
        self._stopping = False

    def run(self) -> None:
        try:
            while True:
                self._room.acquire()
                group = None if self._stopping else next(self._groups, None)
                if group is None:
                    break
                self._entries.put((group, self._pool.submit(group.records)))
            self._entries.put(None)
        except BaseException as error:
            self._entries.put(error)

    def take(self) -> tuple[Group, Future[Decoded]] | None:
        """The next group and its decoding; None at the end. What reading raised is raised here."""
        entry = self._entries.get()
        if isinstance(entry, BaseException):
            raise entry
        self._room.release()
        return entry

    def stop(self) -> None:
        self._stopping = True
        self._room.release()
