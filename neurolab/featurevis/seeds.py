"""Random numbers that belong to one picture: they depend on its seed, and never on the batch it is in."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose of one picture.

    On the CPU a seed gives the same numbers for every device that they are moved to: starts and the places of
    transforms are drawn so. What is as large as the picture itself at every step (noise) is drawn on the
    device, whose numbers are its own. Streams of different purposes are independent: a longer start does not
    shift the transforms.
    """
    digest = hashlib.sha256(f"{int(seed)}\0{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
