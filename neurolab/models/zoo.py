"""Models: a network with all that it takes to feed it, loaded by name or made of any module."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurolab.errors import MissingTextTowerError, UnknownModelError
from neurolab.models import layouts, passes
from neurolab.models.constants import constant
from neurolab.models.devices import find_device
from neurolab.models.tracing import tensors_in

if TYPE_CHECKING:
    from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Channels = tuple[float, float, float]


@dataclass(eq=False)
class Model:
    """A network with what it takes to feed it: sizes, normalization, tokenizer.

    module: the network, in eval mode and without gradients for its weights; site paths are relative to it.
    image_size: (height, width). mean, std: of the normalization that the network was trained with; images are
    RGB in [0, 1] everywhere in neurolab, and normalizing is the model's first operation. resize_mode and
    interpolation: of `neurolab.data.decode.resize_crop`. tokenizer: texts to token ids [texts, length]; None
    where there is no text tower. settings: how load_model was told to get the weights ("pretrained",
    "weights").
    """

    module: nn.Module
    name: str
    image_size: tuple[int, int]
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    tokenizer: Callable[[list[str]], Tensor] | None = None
    settings: dict[str, str] = field(default_factory=dict)

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

    @property
    def is_clip(self) -> bool:
        """Whether encode_image gives an embedding rather than class scores."""
        return hasattr(self.module, "encode_image")

    @property
    def prefix_tokens(self) -> int:
        """Class and register tokens that stand before a ViT's patch tokens; 0 for other networks."""
        return layouts.prefix_tokens(self.module)

    @cached_property
    def embedding_dim(self) -> int | None:
        """The size of encode_image's output; None where it is not one vector per image."""
        image = torch.zeros(1, 3, *self.image_size, device=self.device)
        with torch.inference_mode(), passes.suspended():
            out = self.encode_image(image)
        return out.shape[1] if out is not None and out.ndim == 2 else None

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the state dict, in the order of the names.

        The same on every device. It is computed once: weights changed later do not change it.
        """
        digest = hashlib.sha256()
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy())
        return digest.hexdigest()

    def to(self, device: str | torch.device) -> Model:
        """Move the network to a device; returns the same model. DeviceError where that is not there."""
        self.module.to(find_device(device))
        return self

    def normalize(self, images: Tensor) -> Tensor:
        """Images [batch, 3, height, width], or one, in [0, 1], to what the network was trained on."""
        if images.ndim not in (3, 4) or images.shape[-3] != 3 or not images.is_floating_point():
            raise ValueError(
                "images must be floating-point numbers in [0, 1] of shape [batch, 3, height, width], not "
                f"{images.dtype} of shape {tuple(images.shape)}"
            )
        mean, std = (
            constant(tuple(numbers), images.dtype, images.device) for numbers in (self.mean, self.std)
        )
        return (images - mean[:, None, None]) / std[:, None, None]

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor | None:
        """Embed images [batch, 3, height, width], RGB in [0, 1]; class scores where the network gives those.

        `normalize` scales the embeddings to unit length. Returns None when a `capture` around the call has
        ended the pass at its deepest site. Of networks that return several tensors it is the first.
        """
        passes.begin_pass(self.module)
        forward = getattr(self.module, "encode_image", self.module)
        try:
            out = _first_tensor(forward(self.normalize(images.to(self.device))), self.name)
        except passes.StopForward:
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
        passes.begin_pass(self.module)
        with passes.must_finish():
            out = _first_tensor(cast(Any, self.module).encode_text(tokens), self.name)
        return F.normalize(out, dim=-1) if normalize else out

    def preprocess(self, image: Image.Image) -> Tensor:
        """A picture as the model sees it: [3, height, width] in [0, 1], resized and cropped to its input."""
        from neurolab.data.decode import resize_crop

        pixels = resize_crop(image, self.image_size, self.resize_mode, self.interpolation)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def _first_tensor(output: Any, name: str) -> Tensor:
    """The embedding in what a network returns: CoCa's image encoder and others return several tensors."""
    found = next((part for part in tensors_in(output) if isinstance(part, Tensor)), None)
    if found is None:
        raise TypeError(
            f"{name} returns {type(output).__name__} without a tensor: wrap it in a module that gives one"
        )
    return found


def wrap_model(
    module: nn.Module,
    *,
    image_size: int | tuple[int, int],
    name: str | None = None,
    mean: Channels = IMAGENET_MEAN,
    std: Channels = IMAGENET_STD,
) -> Model:
    """Use any module that maps normalized images [batch, 3, height, width] to something.

    It is put into eval mode, and its weights need no gradients from then on. If it has a method encode_image,
    that is called instead of its forward.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return Model(module, name or type(module).__name__, size, mean, std)


def list_models() -> list[str]:
    """The names that `load_model` knows without a prefix; torchvision and timm list their own."""
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
    pretrained: a tag of the model hub ("openai"; "DEFAULT" for torchvision and timm), or "random" for random
    weights, always the same. weights: a local checkpoint instead: safetensors, a state dict saved by torch,
    or an archive of OpenAI's; nothing in it is executed. A checkpoint of the image tower alone gives a model
    without text. Weights are float32, whatever they were saved as.
    Raises UnknownModelError for an unknown name, an architecture without weights, a checkpoint that does not
    fit, and hub weights that are neither cached nor to be had; DeviceError for a device that is not there.
    """
    from neurolab.models import classifiers, loading, pocket

    if pretrained and weights:
        raise UnknownModelError("give pretrained= or weights=, not both")
    device = find_device(device)
    if name == "pocket" and pretrained is None:
        model = pocket.load_pocket(weights=Path(weights) if weights else None)
    elif name.startswith("torchvision:"):
        model = classifiers.load_torchvision(name, pretrained, weights)
    elif name.startswith("timm:"):
        model = classifiers.load_timm(name, pretrained, weights)
    elif name in list_models():
        model = loading.load_open_clip(name, pretrained, weights)
    else:
        close = difflib.get_close_matches(name, list_models(), 4, 0.4)
        raise UnknownModelError(f"no model is called {name!r}; did you mean {', '.join(close) or 'pocket'}?")
    given = {"pretrained": pretrained, "weights": str(weights) if weights else None}
    model.settings = {key: value for key, value in given.items() if value}
    return model.to(device)
