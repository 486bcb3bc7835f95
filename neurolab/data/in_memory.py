"""Images that are in memory already, as a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from neurolab.data.decode import decode_image
from neurolab.data.hashing import ContentHash
from neurolab.data.sources import Record, Shard, Source


@dataclass(frozen=True)
class Shown:
    """The drawing of an image that there is."""

    image: Image.Image

    def __call__(self) -> Image.Image:
        return self.image


class InMemorySource(Source):
    """PIL images in one shard; their keys are their numbers, from "0" on."""

    kind = "memory"

    def __init__(self, images: Sequence[Image.Image]) -> None:
        self.images = list(images)
        self.location = f"{len(self.images)} images in memory"

    def shards(self) -> list[Shard]:
        return [Shard("images", len(self.images))]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for number in range(len(self.images))[start:stop]:
            yield Record(str(number), Shown(self.images[number]))

    def content_hash(self) -> str:
        """SHA-256 over the sizes and the pixels, upright and in RGB."""
        total = ContentHash(self.kind)
        for image in self.images:
            picture = decode_image(image)
            total.add_text(f"{picture.width} x {picture.height}")
            total.add_bytes(picture.tobytes())
        return total.hexdigest()
