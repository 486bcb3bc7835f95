"""Read checkpoints and build the networks that they belong to. Nothing is unpickled."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurolab.errors import UnknownModelError
from neurolab.models.zoo import Model, wrap_model

RANDOM = "random"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """A checkpoint's tensors as float32 by name: safetensors, a state dict saved by torch, or TorchScript.

    Wrappers of training programs are taken off: {"state_dict": ...}, and "module." before every name.
    Raises UnknownModelError for a file that is missing, damaged, or would have to be unpickled.
    """
    path = Path(path)
    if not path.is_file():
        raise UnknownModelError(f"there is no checkpoint at {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state: Any = load_file(path)
        except SafetensorError as error:
            raise UnknownModelError(f"{path} is not a whole safetensors file: {error}") from error
    else:
        state = _read_torch(path)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UnknownModelError(f"{path} holds no state dict (names and tensors)")
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _read_torch(path: Path) -> Any:
    try:
        if _is_torchscript(path):
            # OpenAI publishes its CLIPs so. These archives are read in C++, which builds tensors and nothing
            # of Python's; the code in them is not run.
            return torch.jit.load(str(path), map_location="cpu").state_dict()
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        why = str(error).splitlines()[0] if str(error) else repr(error)
        raise UnknownModelError(
            f"{path} is no plain state dict and was not opened, since unpickling it could run code: save the "
            f"model's state_dict() with safetensors.torch.save_file and load that. ({why})"
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


def fit(module: nn.Module, state: Mapping[str, Tensor], where: str, name: str) -> None:
    """Load a state dict that must fit the module exactly; the error names what does not."""
    own = module.state_dict()
    missing = [key for key in own if key not in state and "attn_mask" not in key]
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if missing or unexpected or shapes:
        faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        parts = [f"{what}: {', '.join(keys[:3])}" for what, keys in faults.items() if keys]
        raise UnknownModelError(
            f"{where} does not fit {name} ({'; '.join(parts)}): name the architecture it was made for"
        )
    module.load_state_dict(state, strict=False)


# What OpenAI's checkpoints carry beside the weights.
_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def load_open_clip(name: str, pretrained: str | None, weights: str | Path | None) -> Model:
    """An open_clip architecture with hub weights, a local checkpoint, or seeded random weights."""
    import open_clip

    if weights is None and pretrained is None:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)[:6]) or "none is known"
        raise UnknownModelError(
            f'{name} needs weights: pass weights=FILE, pretrained=TAG ({tags}), or pretrained="random"'
        )
    hub = weights is None and pretrained != RANDOM
    torch.manual_seed(0)
    if hub:
        module = _from_hub(name, str(pretrained))
    else:
        module = open_clip.create_model(name, pretrained=None, load_weights=False)
    text = True
    if weights is not None:
        state = {k: v for k, v in read_state_dict(weights).items() if k not in _OPENAI_EXTRAS}
        text = not all(key.startswith("visual.") for key in state)
        if text:
            fit(module, state, str(weights), name)
        else:
            fit(
                module.get_submodule("visual"),
                {k.removeprefix("visual."): v for k, v in state.items()},
                str(weights),
                name,
            )
            remove_text_tower(module)
    preprocess = open_clip.get_model_preprocess_cfg(module)
    return Model(
        module,
        name,
        image_size=_pair(preprocess["size"]),
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        resize_mode=preprocess.get("resize_mode") or "shortest",
        interpolation=preprocess.get("interpolation") or "bicubic",
        tokenizer=open_clip.get_tokenizer(name) if text else None,
    )


def remove_text_tower(module: nn.Module) -> None:
    """Take away the parts that only texts go through, so that no random text tower is left to be used."""
    parts = ("text", "transformer", "token_embedding", "ln_final")
    tensors = ("text_projection", "positional_embedding", "attn_mask")
    for part in (*parts, *tensors):
        if hasattr(module, part):
            delattr(module, part)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _from_hub(name: str, tag: str) -> nn.Module:
    """Weights from the hub's cache, or from the hub; without either, the three ways out."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise UnknownModelError(f"{name} has no weights called {tag!r}; it has {', '.join(tags) or 'none'}")
    try:
        with _cache_only(not hub_answers()):
            return open_clip.create_model(name, pretrained=tag, weights_only=True)
    except Exception as error:  # the hub's client fails in many ways: offline, time-out, missing entry
        raise UnknownModelError(
            f"the weights {tag!r} of {name} are neither in the cache nor to be had from the hub. Either set "
            f"HF_HOME (now {os.environ.get('HF_HOME', 'not set')}) to a cache that holds them, or pass "
            'weights=FILE, or use load_model("pocket"), which ships with neurolab. '
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error


def hub_answers(seconds: float = 3.0) -> bool:
    """Whether the hub can be reached; through a proxy it is taken for granted."""
    import huggingface_hub.constants as hub

    if hub.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies().keys() & {"https", "all"}:
        return True
    try:
        host = urllib.parse.urlsplit(hub.ENDPOINT).hostname or ""
        socket.create_connection((host, 443), timeout=seconds).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _cache_only(wanted: bool) -> Iterator[None]:
    """Keep the hub's client to its cache: without a network it would try again for most of a minute."""
    import huggingface_hub.constants as hub

    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def load_torchvision(name: str, pretrained: str | None, weights: str | Path | None) -> Model:
    """Load "torchvision:NAME"; pretrained is the name of one of torchvision's weights, as "DEFAULT"."""
    import torchvision

    architecture = name.removeprefix("torchvision:")
    if architecture not in torchvision.models.list_models():
        raise UnknownModelError(f"torchvision has no model {architecture!r}")
    _need_weights(name, pretrained, weights)
    torch.manual_seed(0)
    choice = None if pretrained in (None, RANDOM) else pretrained
    module = torchvision.models.get_model(architecture, weights=choice)
    if weights is not None:
        fit(module, read_state_dict(weights), str(weights), name)
    known = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()
    return Model(
        module, name, _pair(known.crop_size[0]), tuple(known.mean), tuple(known.std), interpolation="bilinear"
    )


def load_timm(name: str, pretrained: str | None, weights: str | Path | None) -> Model:
    """Load "timm:NAME"; any `pretrained` but "random" asks timm's hub for the default weights."""
    import timm

    architecture = name.removeprefix("timm:")
    if not timm.is_model(architecture):
        raise UnknownModelError(f"timm has no model {architecture!r}")
    _need_weights(name, pretrained, weights)
    torch.manual_seed(0)
    module = timm.create_model(architecture, pretrained=pretrained not in (None, RANDOM))
    if weights is not None:
        fit(module, read_state_dict(weights), str(weights), name)
    config = timm.data.resolve_model_data_config(module)
    return wrap_model(
        module, image_size=config["input_size"][1:], name=name, mean=config["mean"], std=config["std"]
    )


def _need_weights(name: str, pretrained: str | None, weights: str | Path | None) -> None:
    if pretrained is None and weights is None:
        raise UnknownModelError(
            f'{name} needs weights: weights=FILE, pretrained="DEFAULT", or pretrained="random"'
        )
