"""A small build that tests start, kill and start again; as a script, a server of such builds."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from neurolab.atlas import Atlas
from neurolab.data.sources import Record, Shard, Source
from neurolab.mining.miner import mine
from neurolab.models.zoo import Model, wrap_model

SITES = ["0", "2"]
SHARDS = {"first": 37, "second": 26}
BAD = {("first", 3), ("second", 25)}


class Embedder(nn.Sequential):
    """Two convolutions, and their mean as the embedding of an image. May take its time over a batch."""

    seconds = 0.0

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return self(images).mean(dim=(2, 3))


def small_model(seed: int = 0) -> Model:
    """The same weights for the same seed; embeddings of 6 numbers."""
    torch.manual_seed(seed)
    module = Embedder(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 6, 3, stride=2))
    return wrap_model(module, image_size=16, name="small")


class NoiseSource(Source):
    """63 noise images in two shards, two of them bad. Notes what was read, and may fail at the n-th."""

    kind, location = "noise", "noise"

    def __init__(self, log: Path | None = None, fail_at: int | None = None) -> None:
        self.log, self.fail_at = log, fail_at
        self.count = 0
        self.error: type[BaseException] = KeyboardInterrupt

    def shards(self) -> list[Shard]:
        return [Shard(name, size) for name, size in SHARDS.items()]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for number in range(start, min(stop or SHARDS[shard.name], SHARDS[shard.name])):
            self.count += 1
            if self.count == self.fail_at:
                raise self.error
            if self.log:
                with self.log.open("a") as log:
                    log.write(f"{shard.name}/{number}\n")
            labels = {"parity": "even" if number % 2 == 0 else "odd"} if number % 5 else {}
            image = self.encoded(shard.name, number)
            yield Record(f"{shard.name}/{number}", image, (f"noise {number}",), labels)

    def encoded(self, shard: str, number: int) -> bytes:
        if (shard, number) in BAD:
            return b"no image"
        rng = np.random.default_rng([len(shard), number])
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    def content_hash(self) -> str:
        return "50" * 32


class Unmeasured(NoiseSource):
    """The same records, in shards whose length only reading tells."""

    def shards(self) -> list[Shard]:
        return [Shard(name, None) for name in SHARDS]


def small_build(
    out: Path, source: Source | None = None, model: Model | None = None, **settings: object
) -> Atlas:
    """Mine the small model on the noise, saving after every batch unless told otherwise."""
    given: dict[str, object] = {
        "k": 5,
        "batch_size": 8,
        "bins": 6,
        "workers": 0,
        "threads": 1,
        "progress": False,
    }
    given |= {"checkpoint_seconds": 0} | settings
    sites = given.pop("sites", SITES)
    return mine(model or small_model(), source or NoiseSource(), sites, out, **given)  # type: ignore[arg-type]


def serve() -> None:
    """For every line OUT SECONDS_PER_BATCH WORKERS: build in a process of its own.

    Says first the process's number and then, when it has ended, its exit status. Forked from a process that
    has imported everything and computed nothing, a build is up at once.
    """
    for line in sys.stdin:
        out, seconds, workers = line.split()
        process = os.fork()
        if process:
            print(process, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
            continue
        try:
            folder, Embedder.seconds = Path(out), float(seconds)
            small_build(folder, NoiseSource(folder.with_suffix(".log")), workers=int(workers))
        except BaseException as error:
            folder.with_suffix(".error").write_text(repr(error))
            os._exit(1)
        os._exit(0)


if __name__ == "__main__":
    serve()
