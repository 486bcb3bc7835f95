"""Decode workers: processes behind threads, which outlive images that kill their decoder."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image

from neurolab.data import patience
from neurolab.data.decode import ImageTransform
from neurolab.data.items import Decoded, Skip
from neurolab.data.sources import Record
from neurolab.data.worker import receive, receive_decoded, send, write
from neurolab.errors import SourceError

PAUSE_SECONDS = 2.0  # in which a machine that was short of memory may find some
KILLED = -9  # the exit status where somebody killed: the system for memory, or a person


class WorkerDied(Exception):
    """A decode worker ended in the middle of a task. `killed`: not by what it did itself."""

    def __init__(self, how: str = "", killed: bool = False) -> None:
        super().__init__(how)
        self.killed = killed


class WorkerProcess:
    """One process that runs neurolab.data.worker, and the pipes to it."""

    def __init__(self, transform: ImageTransform) -> None:
        # Decoding uses no linear algebra: threads for it would only take time and memory to start.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        program = f"import sys; sys.path[:] = {sys.path!r}; from neurolab.data.worker import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        try:
            send(self.input, (Image.MAX_IMAGE_PIXELS, patience.DISK_WAITS, transform))
            receive(self.output)
        except (OSError, EOFError) as error:
            # Not WorkerDied: that would put the blame on the images.
            how = self.close()
            raise SourceError(f"a decode worker does not start ({sys.executable}, {how})") from error

    def decode(self, task: bytes) -> Decoded | SourceError | str:
        """Decode a pickled group of records; WorkerDied if the process ended over it."""
        try:
            write(self.input, task)
            return receive_decoded(self.output)
        except (OSError, EOFError, ValueError) as error:
            # What ends it is told by its status, which `close` would make that of its own kill.
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
            raise WorkerDied(killed=self.process.returncode == KILLED) from error

    def close(self) -> str:
        """End the process, wait for it, and say how it ended."""
        self.process.kill()
        code = self.process.wait()
        self.output.close()
        # What was not sent yet cannot be sent any more.
        with suppress(OSError):
            self.input.close()
        return f"signal {-code}" if code < 0 else f"exit status {code}"


class DecodePool:
    """Decodes groups of records in ``workers`` processes; groups are given and taken as futures.

    A record over which the decoder dies (a crash in a C library) is skipped with that reason: its group is
    decoded again record by record, and the process is replaced. Where it is killed from outside, as by a
    system that is short of memory, the record is tried once more, and is not to blame if that fails, too:
    SourceError.
    """

    def __init__(self, transform: ImageTransform, workers: int) -> None:
        self.transform = transform
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._free: list[WorkerProcess] = []
        self._all: set[WorkerProcess] = set()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="neurolab-decode")

    def submit(self, records: Sequence[Record]) -> Future[Decoded]:
        return self._threads.submit(self._decode, list(records))

    def close(self) -> None:
        """Kill the workers and wait for them; unfinished groups are dropped."""
        with self._lock:
            self._closed.set()
            workers = list(self._all)
        for worker in workers:
            worker.process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in list(self._all):
            self._end(worker)

    def _decode(self, records: list[Record]) -> Decoded:
        try:
            return self._run(records)
        except WorkerDied:
            parts = [self._decode_alone(record) for record in records]
        return Decoded(
            np.concatenate([part.images for part in parts]),
            [item for part in parts for item in part.items],
            [skip for part in parts for skip in part.skipped],
            [note for part in parts for note in part.notes],
        )

    def _decode_alone(self, record: Record) -> Decoded:
        try:
            try:
                return self._run([record])
            except WorkerDied as death:
                if not death.killed:
                    raise
            self._closed.wait(PAUSE_SECONDS)
            return self._run([record])
        except WorkerDied as death:
            if death.killed:
                raise SourceError(_short_of_memory(record.key)) from death
            reason = f"the decoder died of it ({death})"
        return Decoded(np.empty((0, *self.transform.size, 3), np.uint8), [], [Skip(record.key, reason)])

    def _run(self, records: list[Record]) -> Decoded:
        """Decode in any free worker; WorkerDied, saying how, if it did not survive that."""
        task = _pickled(records)
        worker = self._take()
        try:
            decoded = worker.decode(task)
        except WorkerDied as death:
            how = self._end(worker)
            if self._closed.is_set():
                raise SourceError("the decode workers were closed") from death
            raise WorkerDied(how, death.killed) from death
        with self._lock:
            self._free.append(worker)
        if isinstance(decoded, SourceError):
            raise decoded
        if isinstance(decoded, str):
            raise SourceError(f"{_cannot_send(records)}: {decoded}")
        return decoded

    def _take(self) -> WorkerProcess:
        with self._lock:
            if self._closed.is_set():
                raise SourceError("the decode workers were closed")
            if self._free:
                return self._free.pop()
            worker = WorkerProcess(self.transform)
            self._all.add(worker)
            return worker

    def _end(self, worker: WorkerProcess) -> str:
        how = worker.close()
        with self._lock:
            self._all.discard(worker)
        return how


def _short_of_memory(key: str) -> str:
    return (
        f"the decode workers that had {key} were killed from outside (signal 9), one after the other: the "
        "machine is probably short of memory. Give fewer workers (--workers, workers=), or end other "
        "programs, and start again: a build goes on where it was"
    )


def _pickled(records: list[Record]) -> bytes:
    try:
        return pickle.dumps(records, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise SourceError(f"{_cannot_send(records)}: {error}") from error


def _cannot_send(records: Sequence[Record]) -> str:
    drawn: list[Any] = [record for record in records if callable(record.payload)]
    key = drawn[0].key if drawn else records[0].key
    return (
        f"the drawing of {key} cannot be sent to a decode worker (its class must be in a module that can be "
        "imported, not in the main script or a notebook; or use workers=0)"
    )
