"""Float32 that is float32, on every device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_before: list[Any] = []
_inside = 0
_lock = threading.Lock()


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, convolutions and matrix products of float32 are computed in float32, also on NVIDIA's tensor
    cores.

    By default torch lets cuDNN's convolutions round their input to TensorFloat-32, of 10 bits of mantissa:
    activations are off by a thousandth then, on a GPU only. cuDNN also keeps to algorithms that give the same
    bytes each time. What was set before is set again when the last thread has left.
    """
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _before[:] = [getattr(where, name) for where, name, _ in _settings()]
            for where, name, value in _settings():
                setattr(where, name, value)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for (where, name, _), value in zip(_settings(), _before, strict=True):
                    setattr(where, name, value)


def _settings() -> list[tuple[Any, str, Any]]:
    """What is set: where, under which name, to what."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    settings: list[tuple[Any, str, Any]] = [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    if hasattr(cudnn, "conv"):  # torch 2.9 and later, where reading the older settings may be an error
        settings += [(cudnn.conv, "fp32_precision", "ieee"), (matmul, "fp32_precision", "ieee")]
    else:
        settings += [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
    return settings
