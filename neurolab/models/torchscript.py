"""Read the tensors of a TorchScript archive, as OpenAI published CLIP, without running anything in it.

torch.jit.load compiles and may run the program in the archive, and torch.load(weights_only=True) refuses
such files. The weights themselves are in an ordinary zip: `data.pkl` describes the tree of modules,
`data/0`, `data/1`, ... hold the numbers. Here `data.pkl` is read by an unpickler that can make tensors, and
objects that do nothing but hold attributes; any other name in it is refused.
"""

from __future__ import annotations

import collections
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Inert:
    """Stands for a scripted module: its attributes, without its code."""

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with the program's constants in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of an archive by path in the tree of modules: parameters, buffers and constants alike.

    Raises pickle.UnpicklingError for an archive that is damaged, or holds anything but modules, tensors and
    plain values.
    """
    found: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            main = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(main) as file:
                root = _Reader(file, archive, main.removesuffix("data.pkl")).load()
        _collect(root, "", found)
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # what a crafted or broken pickle can raise has no bounds
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error
    return found


def _collect(value: object, path: str, found: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        found[path] = value
    elif isinstance(value, _Inert):
        for name, attribute in getattr(value, "attributes", {}).items():
            _collect(attribute, f"{path}.{name}" if path else str(name), found)


# Callables without attributes to set: a pickle may set those of whatever it is given.
class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage: Tensor, offset: int, size: Any, stride: Any, *rest: object) -> Tensor:
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min([offset, *size, *stride]) < 0 or math.prod(size) > len(storage):
            raise pickle.UnpicklingError("a tensor has impossible sizes")
        if math.prod(size) and last >= len(storage):
            raise pickle.UnpicklingError("a tensor reaches beyond its data")
        return storage.as_strided(tuple(size), tuple(stride), offset).clone()


class _WithoutTag:
    __slots__ = ()

    def __call__(self, value: object, tag: object) -> object:
        return value


_ALLOWED = {
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch.jit._pickle", "restore_type_tag"): _WithoutTag(),
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Inert
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed in a TorchScript archive")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of one file of the archive, as a flat tensor."""
        kind, dtype, key, _, size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"{kind!r} is not allowed in a TorchScript archive")
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            if len(data) < size * dtype.itemsize:
                raise pickle.UnpicklingError(f"data/{key} has {len(data)} bytes, too few for {size} numbers")
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]
