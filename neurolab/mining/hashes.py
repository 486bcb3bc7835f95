"""Numbers as good as random that depend on an image's key alone, whatever else is mined."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

HASH_BITS = 59  # so that a bucket's number fits above a hash
EMPTY = np.uint64(2**HASH_BITS - 1)  # the hash of a place without an image: larger than any image's


def draw_hashes(keys: Sequence[str], seed: int = 0) -> Hashes:
    """A number below 2**59 - 1 for each image key; the images with the lowest are drawn.

    Keyed BLAKE2b: as good as random, but a key has the same whatever else is mined; with another seed,
    others.
    """
    secret = seed.to_bytes(8, "little")
    texts = (key.encode("utf-8", "backslashreplace") for key in keys)
    digests = b"".join(hashlib.blake2b(text, digest_size=8, key=secret).digest() for text in texts)
    drawn = np.frombuffer(digests, "<u8") >> np.uint64(64 - HASH_BITS)
    return np.minimum(drawn, EMPTY - np.uint64(1)).astype(np.uint64)


def token_hashes(hashes: Hashes, tokens: int) -> Hashes:
    """[images, tokens]: a number below 2**59 - 1 for each token of images with these hashes [images].

    The upper bits of splitmix64's sequence with the image's hash as its seed: as good as random, and the same
    whatever else is mined.
    """
    drawn = splitmix64(hashes, tokens) >> np.uint64(64 - HASH_BITS)
    return np.minimum(drawn, EMPTY - np.uint64(1))


def splitmix64(seeds: Hashes, count: int) -> Hashes:
    """[n, count]: the first numbers that splitmix64 (Steele, Lea and Flood 2014) gives for seeds [n]."""
    mixed = seeds[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def random_signs(hashes: Hashes, count: int) -> NDArray[np.float32]:
    """[images, count] of 1 and -1, which depend on an image's hash alone; count: a multiple of 64.

    The bits of splitmix64's sequence with the hash as its seed.
    """
    bits = np.unpackbits(splitmix64(hashes, count // 64).astype("<u8").view(np.uint8), axis=1)
    return bits.astype(np.float32) * 2 - 1
