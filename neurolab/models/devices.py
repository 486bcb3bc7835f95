"""Devices by name, and what to say of one that is not there."""

from __future__ import annotations

import torch

from neurolab.errors import DeviceError


def find_device(name: str | torch.device) -> torch.device:
    """The device of this name; DeviceError, naming those that are there, where nothing can be put on it."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    # An unknown name, no driver, a number too high, a torch built without: each has a type of its own.
    except Exception as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise DeviceError(f"nothing can be computed on {str(name)!r} ({why}): use {_there()}") from error
    return device


def _there() -> str:
    """The devices that this machine has."""
    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return " or ".join([*names, "mps"] if torch.backends.mps.is_available() else names)
