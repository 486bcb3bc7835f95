"""Load a model: any open_clip architecture, the pocket, a torchvision or timm network, any module."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurolab.errors import MissingTextTowerError, UnknownModelError

if TYPE_CHECKING:
    from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class StopForward(Exception):
    """Raised by `capture` when every site asked for has been read; it never leaves the library."""


@dataclass(eq=False)
class Model:
    """A network with what it takes to feed it: sizes, normalization, tokenizer.

    module: the network, in eval mode and without gradients for its weights; site paths are relative to it.
    image_size: (height, width). mean, std: of the normalization that the network was trained with; images are
    RGB in [0, 1] everywhere in neurolab, and normalizing is the model's first operation. tokenizer: None when
    there is no text tower. settings: how the weights were asked for, as `pretrained` and `weights`.
    """

    module: nn.Module
    name: str
    image_size: tuple[int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    tokenizer: Callable[[list[str]], Tensor] | None = None
    settings: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.module.eval().requires_grad_(False)

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Model({self.name!r}, {height} x {width}, text={self.has_text}, {self.device})"

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def has_text(self) -> bool:
        return self.tokenizer is not None

    def to(self, device: str | torch.device) -> Model:
        self.module.to(device)
        return self

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the state dict, in the order of the names."""
        digest = hashlib.sha256()
        for name, value in sorted(self.module.state_dict().items()):
            value = value.detach().cpu().contiguous()
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def embedding_dim(self) -> int | None:
        """The size of encode_image's output; None where it is no single vector per image."""
        with torch.inference_mode():
            out = self.encode_image(torch.zeros(1, 3, *self.image_size, device=self.device))
        return out.shape[1] if isinstance(out, Tensor) and out.ndim == 2 else None

    @property
    def is_clip(self) -> bool:
        """Whether encode_image gives an embedding rather than class scores."""
        return hasattr(self.module, "encode_image")

    def normalize(self, images: Tensor) -> Tensor:
        """Images in [0, 1] to what the network was trained on."""
        mean = torch.tensor(self.mean, device=images.device, dtype=images.dtype)[:, None, None]
        std = torch.tensor(self.std, device=images.device, dtype=images.dtype)[:, None, None]
        return (images - mean) / std

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor | None:
        """Embed images [batch, 3, height, width], RGB in [0, 1]; class scores where the network gives those.

        `normalize` scales the embeddings to unit length. Returns None when a `capture` around the call has
        stopped the pass at its deepest site.
        """
        forward = getattr(self.module, "encode_image", self.module)
        try:
            out = forward(self.normalize(images.to(self.device)))
        except StopForward:
            return None
        return F.normalize(out, dim=-1) if normalize else out

    def encode_text(self, texts: str | Sequence[str], normalize: bool = True) -> Tensor:
        """Embed texts as [texts, D], unit length by default; MissingTextTowerError without a text tower."""
        if self.tokenizer is None:
            raise MissingTextTowerError(
                f"{self.name} was loaded without a text tower, so it cannot embed text: load a checkpoint "
                'that has one (pretrained="openai", or a file with all weights), or use "pocket"'
            )
        tokens = self.tokenizer([texts] if isinstance(texts, str) else list(texts)).to(self.device)
        out: Tensor = self.module.encode_text(tokens)  # type: ignore[operator]
        return F.normalize(out, dim=-1) if normalize else out

    def preprocess(self, image: Image.Image) -> Tensor:
        """A picture as the model sees it: [3, height, width] in [0, 1], resized and cropped to its input."""
        from neurolab.data.decode import resize_crop

        pixels = resize_crop(image.convert("RGB"), self.image_size, self.resize_mode, self.interpolation)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def wrap_model(
    module: nn.Module,
    *,
    image_size: int | tuple[int, int],
    name: str | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Model:
    """Use any module that maps normalized images [batch, 3, height, width] to something."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return Model(module, name or type(module).__name__, size, mean, std)


def list_models() -> list[str]:
    """The names that `load_model` knows without a prefix."""
    import open_clip

    return ["pocket", *open_clip.list_models()]


def load_model(
    name: str = "pocket",
    *,
    pretrained: str | None = None,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Model:
    """Load a model by name.

    name: "pocket"; an open_clip architecture, as "ViT-B-16-quickgelu"; "torchvision:NAME"; "timm:NAME".
    pretrained: a tag of the model hub ("openai"), or "random" for seeded random weights.
    weights: a local checkpoint instead: safetensors, a state dict saved by torch (read with weights_only), or
    an archive as OpenAI publishes them, which belong to the architectures with "-quickgelu".
    A checkpoint of the image tower alone gives a model without text.
    Raises UnknownModelError for an unknown name, an architecture without weights, a checkpoint that does not
    fit, and hub weights that are neither cached nor to be had.
    """
    from neurolab.models import loading, pocket

    if pretrained and weights:
        raise UnknownModelError("give pretrained= or weights=, not both")
    if name == "pocket" and pretrained is None:
        model = pocket.load_pocket(weights=Path(weights) if weights else None)
    elif name.startswith("torchvision:"):
        model = loading.load_torchvision(name, pretrained, weights)
    elif name.startswith("timm:"):
        model = loading.load_timm(name, pretrained, weights)
    elif name in list_models():
        model = loading.load_open_clip(name, pretrained, weights)
    else:
        close = difflib.get_close_matches(name, list_models(), 4, 0.4)
        raise UnknownModelError(f"no model is called {name!r}; did you mean {', '.join(close) or 'pocket'}?")
    model.settings |= {"pretrained": pretrained, "weights": str(weights) if weights else None}
    return model.to(device)
