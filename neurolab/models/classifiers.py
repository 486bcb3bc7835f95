"""Networks of torchvision and timm, with the normalization and image size that they were trained with."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurolab.errors import UnknownModelError
from neurolab.models.checkpoints import fit, read_state_dict
from neurolab.models.hub import cache_only_if_offline, host_answers, not_to_be_had
from neurolab.models.loading import RANDOM, RANDOM_SEED, pair
from neurolab.models.zoo import Model

# What torchvision's own loader sets for its pretrained weights, which were ported from other frameworks.
_TORCHVISION_EXTRAS = {
    "googlenet": {"transform_input": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
}


def load_torchvision(name: str, pretrained: str | None, weights: str | Path | None) -> Model:
    """Load "torchvision:NAME", one of its classifiers; pretrained names its weights, as "DEFAULT".

    Images are resized so that their short side has the network's size; torchvision's own evaluation resizes a
    little larger and crops more.
    """
    import torchvision

    architecture = name.removeprefix("torchvision:")
    known = torchvision.models.list_models(module=torchvision.models)
    _need_known(name, architecture, known)
    _need_weights(name, pretrained, weights)
    choices = torchvision.models.get_model_weights(architecture)
    chosen = choices.DEFAULT
    if pretrained not in (None, RANDOM):
        if pretrained not in choices.__members__:
            raise UnknownModelError(
                f"{name} has no weights called {pretrained!r}, but {', '.join(choices.__members__)}"
            )
        chosen = choices[pretrained]
    extras = {} if pretrained == RANDOM else _TORCHVISION_EXTRAS.get(architecture, {})
    module = _seeded(torchvision.models.get_model, architecture, weights=None, **extras)
    if weights is not None:
        fit(module, read_state_dict(weights), str(weights), name)
    elif pretrained != RANDOM:
        module.load_state_dict(_torchvision_state(chosen, f"the weights {pretrained!r} of {name}"))
    seen = chosen.transforms()
    return Model(
        module,
        name,
        image_size=pair(seen.crop_size[0]),
        mean=tuple(seen.mean),
        std=tuple(seen.std),
        interpolation=seen.interpolation.value,
    )


def _torchvision_state(weights: Any, what: str) -> dict[str, torch.Tensor]:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        if not file.is_file() and not host_answers(weights.url):
            raise ConnectionError(f"{weights.url} cannot be reached")
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise not_to_be_had(what, error, "TORCH_HOME") from error


def load_timm(name: str, pretrained: str | None, weights: str | Path | None) -> Model:
    """Load "timm:NAME"; pretrained is "DEFAULT" or one of timm's tags for the architecture."""
    import timm

    architecture = name.removeprefix("timm:")
    _need_known(name, architecture.partition(".")[0], timm.list_models())
    _need_weights(name, pretrained, weights)
    tag = "" if pretrained in (None, RANDOM, "DEFAULT") else f".{pretrained}"
    if tag and architecture + tag not in timm.list_pretrained(f"{architecture}.*"):
        known = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
        raise UnknownModelError(
            f"{name} has no weights called {pretrained!r}, but {', '.join(known) or 'none'}"
        )
    hosted = pretrained not in (None, RANDOM)
    try:
        with cache_only_if_offline():
            module = _seeded(timm.create_model, architecture + tag, pretrained=hosted)
    except (OSError, RuntimeError) as error:
        if not hosted:
            raise
        raise not_to_be_had(f"the weights {pretrained!r} of {name}", error) from error
    if weights is not None:
        fit(module, read_state_dict(weights), str(weights), name)
    seen = timm.data.resolve_model_data_config(module)
    return Model(
        module,
        name,
        image_size=pair(seen["input_size"][1:]),
        mean=tuple(seen["mean"]),
        std=tuple(seen["std"]),
        resize_mode="squash" if seen["crop_mode"] == "squash" else "shortest",
        interpolation=seen["interpolation"] if seen["interpolation"] == "bilinear" else "bicubic",
    )


def _seeded(make: Any, *args: Any, **kwargs: Any) -> nn.Module:
    """Make a network whose random weights are the same every time, without touching the global seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return make(*args, **kwargs)


def _need_known(name: str, architecture: str, known: list[str]) -> None:
    if architecture not in known:
        close = ", ".join(difflib.get_close_matches(architecture, known, 4, 0.4)) or "none"
        raise UnknownModelError(f"there is no model {name!r}; the closest names after the colon are {close}")


def _need_weights(name: str, pretrained: str | None, weights: str | Path | None) -> None:
    if pretrained is None and weights is None:
        raise UnknownModelError(
            f'{name} needs weights: pass weights=FILE, pretrained="DEFAULT", or pretrained="random"'
        )
