"""Random numbers that belong to one picture: they depend on its seed, and never on the batch it is in."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one picture.

    Always on the CPU, so that a seed gives the same start and the same transforms on every device. Streams of
    different purposes are independent: a longer start does not shift the transforms.
    """
    digest = hashlib.sha256(f"{int(seed)}\0{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
