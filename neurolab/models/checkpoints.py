"""Read checkpoints, and fit them to the network that they belong to. Nothing in a file is ever executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurolab.errors import UnknownModelError
from neurolab.models.torchscript import is_torchscript, read_torchscript

# Under these names training programs keep the state dict in their checkpoints.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# What DistributedDataParallel and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")
# What OpenAI's checkpoints carry beside the weights.
_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")

State = dict[str, Tensor]


def read_state_dict(path: str | Path) -> State:
    """A checkpoint's tensors by name, numbers as float32.

    Reads safetensors, state dicts saved by torch (with weights_only=True), and OpenAI's TorchScript archives
    (their tensors only). Wrappers of training programs are taken off: {"state_dict": ...}, and "module."
    before every name. Raises UnknownModelError for a file that is missing, damaged, no state dict, or holds
    anything that would have to be executed.
    """
    path = Path(path)
    if not path.is_file():
        raise UnknownModelError(f"there is no checkpoint at {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state: Any = content
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UnknownModelError(f"{path} holds no state dict (tensors by name)")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if name not in _OPENAI_EXTRAS
    }


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UnknownModelError(f"{path} is not a whole safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        if is_torchscript(path):
            return read_torchscript(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = next(
            (line for line in str(error).splitlines() if "GLOBAL" in line), str(error).partition("\n")[0]
        )
        raise UnknownModelError(
            f"{path} is damaged, or holds more than tensors, and was not opened, since unpickling could run "
            f"code ({why}). Save the state dict alone, best with safetensors.torch.save_file"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise UnknownModelError(
            f"{path} is not a whole checkpoint: {str(error).partition(chr(10))[0]}"
        ) from error


def is_image_only(state: State) -> bool:
    """Whether a CLIP checkpoint holds the image tower alone."""
    towers = [name for name in state if name not in ("logit_scale", "logit_bias")]
    return bool(towers) and all(name.startswith("visual.") for name in towers)


def fit(module: nn.Module, state: State, where: str, name: str) -> None:
    """Load a state dict into the network it is made for.

    Raises UnknownModelError that names the first tensors that are missing, unexpected or of another shape.
    Counters of batch normalization may be missing: nothing reads them in eval mode.
    """
    own = module.state_dict()
    given = {key: value for key, value in state.items() if key in own or not _is_rebuilt(module, key)}
    for key in ("logit_scale", "logit_bias"):  # a number in some checkpoints, a vector of one in others
        if key in given and key in own and given[key].numel() == own[key].numel() == 1:
            given[key] = given[key].reshape(own[key].shape)
    faults = {
        "missing": [key for key in own if key not in given and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [
            f"{key} is {tuple(given[key].shape)} in the file and {tuple(own[key].shape)} in the network"
            for key in own
            if key in given and own[key].shape != given[key].shape
        ],
    }
    if any(faults.values()):
        parts = [f"{len(keys)} {what} ({_first(keys)})" for what, keys in faults.items() if keys]
        raise UnknownModelError(
            f"{where} does not fit {name}: {'; '.join(parts)}. Name the architecture that it was made for"
        )
    module.load_state_dict(given, strict=False)


def _is_rebuilt(module: nn.Module, key: str) -> bool:
    """Whether a tensor is made anew by the network itself (masks, position ids), whatever is saved."""
    path, _, name = key.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:
        return False
    return name in dict(owner.named_buffers(recurse=False)) or name == "position_ids"


def _first(keys: list[str], count: int = 3) -> str:
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")
