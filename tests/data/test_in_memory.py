"""Images in memory as a source."""

from __future__ import annotations

import numpy as np
from PIL import Image

from neurolab.data.decode import ImageTransform
from neurolab.data.in_memory import InMemorySource
from neurolab.data.loader import load_batches


def pictures(count: int, seed: int = 3) -> list[Image.Image]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


def test_images_keep_their_numbers() -> None:
    source = InMemorySource(pictures(5))
    assert len(source) == 5 and [record.key for record in source] == list("01234")
    (shard,) = source.shards()
    assert [record.key for record in source.read(shard, 2, 4)] == ["2", "3"]


def test_the_hash_is_of_what_is_in_them() -> None:
    found = InMemorySource(pictures(5)).content_hash()
    assert found == InMemorySource(pictures(5)).content_hash()
    turned = [image.transpose(Image.Transpose.ROTATE_180) for image in pictures(5)]
    others = (pictures(4), pictures(5, seed=4), turned, pictures(5)[::-1])
    assert all(found != InMemorySource(other).content_hash() for other in others)


def test_they_are_loaded_as_they_are_here_and_by_workers() -> None:
    given = pictures(5)
    transform = ImageTransform((6, 8), "squash", thumbnail=None)
    for workers in (0, 1):
        batches = list(load_batches(InMemorySource(given), transform, batch_size=2, workers=workers))
        loaded = np.concatenate([batch.images for batch in batches])
        np.testing.assert_array_equal(loaded, np.stack([np.asarray(image) for image in given]))
        assert [item.key for batch in batches for item in batch.items] == list("01234")
