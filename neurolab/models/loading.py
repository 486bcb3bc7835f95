"""Build open_clip's networks and give them their weights."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurolab.errors import UnknownModelError
from neurolab.models.checkpoints import State, fit, is_image_only, read_state_dict
from neurolab.models.hub import cache_only_if_offline, fetch, not_to_be_had
from neurolab.models.zoo import Model

RANDOM = "random"
RANDOM_SEED = 0


class ImageTower(nn.Module):
    """An open_clip image tower without its text tower; site paths are those of the whole CLIP."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def encode_image(self, images: Tensor) -> Any:
        return self.visual(images)

    def forward(self, images: Tensor) -> Any:
        return self.encode_image(images)


def load_open_clip(name: str, pretrained: str | None, weights: str | Path | None) -> Model:
    """An open_clip architecture with hub weights, a local checkpoint, or seeded random weights."""
    import open_clip

    config = open_clip.get_model_config(name)
    seen = _preprocessing({})
    if weights is not None:
        state, where = read_state_dict(weights), str(weights)
    elif pretrained == RANDOM:
        state, where = None, RANDOM
    else:
        tag = _known_tag(name, pretrained, bool(config.get("quick_gelu")))
        path = fetch(tag, f"the weights {pretrained!r} of {name}")
        state, where, seen = read_state_dict(path), str(path), _preprocessing(tag)
    module = build(config, name, state)
    if state is not None:
        _load(module, state, where, name)
    return Model(
        module,
        name,
        image_size=pair(getattr(module.visual, "image_size", config["vision_cfg"].get("image_size", 224))),
        tokenizer=None if isinstance(module, ImageTower) else _Tokenizer(name, config["text_cfg"]),
        **seen,
    )


def build(config: dict[str, Any], name: str, state: State | None = None) -> Any:
    """The network of an open_clip configuration, its weights random (the same every time).

    Where the weights to come are those of an image tower alone, only that is built: no random text tower is
    left to be used. Raises UnknownModelError where a text tower is described on the hub only.
    """
    config = deepcopy(config)
    on_hub = "hf_model_name" in config["text_cfg"]
    custom = config.pop("custom_text", False) or on_hub
    config["vision_cfg"]["timm_model_pretrained"] = False
    config["text_cfg"]["hf_model_pretrained"] = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        if state is not None and is_image_only(state):
            return ImageTower(_build_visual(config))
        try:
            with cache_only_if_offline() if on_hub else nullcontext():
                return _clip_class(config, custom)(**config)
        except OSError as error:
            raise not_to_be_had(f"the description of {name}'s text tower", error) from error


def _build_visual(config: dict[str, Any]) -> nn.Module:
    from open_clip.model import _build_vision_tower

    return _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))


def _clip_class(config: dict[str, Any], custom: bool) -> Callable[..., nn.Module]:
    from open_clip import CLIP, CoCa, CustomTextCLIP

    if not custom:
        return CLIP
    return CoCa if "multimodal_cfg" in config else CustomTextCLIP


def _load(module: Any, state: State, where: str, name: str) -> None:
    """Give a network its weights, in the forms that open_clip's own loader knows."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    if not isinstance(module, ImageTower):
        state = convert_state_dict(module, state)  # MobileCLIP's names
        if "positional_embedding" in state and not hasattr(module, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
    elif "logit_scale" in state or "logit_bias" in state:
        state = {key: value for key, value in state.items() if key.startswith("visual.")}
    fit(module, state, where, name)


def _known_tag(name: str, tag: str | None, quick_gelu: bool) -> dict[str, Any]:
    """open_clip's description of a hub tag; UnknownModelError lists the tags of the architecture."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    all_tags = open_clip.list_pretrained_tags_by_model(name)
    closest = [*difflib.get_close_matches(tag or "", all_tags, 3), *all_tags]
    tags = ", ".join(list(dict.fromkeys(closest))[:6]) + (", ..." if len(all_tags) > 6 else "")
    tags = tags or "none is known"
    if tag is None:
        raise UnknownModelError(
            f'{name} needs weights: pass weights=FILE, pretrained=TAG ({tags}), or pretrained="random"'
        )
    config = get_pretrained_cfg(name, tag)
    if not config:
        hint = f"; {tag} is a file: pass it as weights=" if Path(tag).is_file() else ""
        raise UnknownModelError(f"{name} has no weights called {tag!r}, but {tags}{hint}")
    if bool(config.get("quick_gelu")) != quick_gelu:
        other = name.removesuffix("-quickgelu") if quick_gelu else f"{name}-quickgelu"
        warnings.warn(
            f"the weights {tag!r} were trained with another activation function than {name} has; use {other}",
            stacklevel=4,
        )
    return config


def _preprocessing(config: dict[str, Any]) -> dict[str, Any]:
    """How a checkpoint's images are prepared; open_clip's defaults where it does not say."""
    from open_clip.transform import PreprocessCfg

    default = PreprocessCfg()
    return {
        "mean": tuple(config.get("mean") or default.mean),
        "std": tuple(config.get("std") or default.std),
        "resize_mode": config.get("resize_mode") or default.resize_mode,
        "interpolation": config.get("interpolation") or default.interpolation,
    }


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a size that may be one number."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


class _Tokenizer:
    """An architecture's tokenizer, made when the first text comes: some have to be fetched from the hub."""

    def __init__(self, name: str, text_config: dict[str, Any]) -> None:
        self.name = name
        self._tokenizer: Callable[[list[str]], Tensor] | None = None
        if "hf_tokenizer_name" not in text_config and "siglip" not in name.lower():
            self._tokenizer = self._make()

    def __call__(self, texts: list[str]) -> Tensor:
        if self._tokenizer is None:
            self._tokenizer = self._make()
        return self._tokenizer(texts)

    def _make(self) -> Callable[[list[str]], Tensor]:
        import open_clip

        try:
            with cache_only_if_offline():
                return open_clip.get_tokenizer(self.name)
        except Exception as error:  # of many kinds, where a tokenizer is neither cached nor to be had
            raise not_to_be_had(f"the tokenizer of {self.name}", error) from error
