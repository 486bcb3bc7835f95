"""What the dimensions of a tensor mean: maps, tokens, vectors, and how to put them into neurolab's order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

MAP, TOKENS, VECTOR = "map", "tokens", "vector"


@dataclass(frozen=True)
class Layout:
    """kind: map, tokens or vector. units; shape: (height, width), (tokens,) or (). order: the permutation of
    dimensions to [batch, units, height, width] or [batch, tokens, units]; None where they stand so."""

    kind: str
    units: int
    shape: tuple[int, ...]
    order: tuple[int, ...] | None = None

    def arrange(self, tensor: Tensor) -> Tensor:
        """A module's tensor in neurolab's order."""
        return tensor if self.order is None else tensor.permute(self.order)

    def restore(self, tensor: Tensor) -> Tensor:
        """The inverse of `arrange`."""
        if self.order is None:
            return tensor
        return tensor.permute([self.order.index(i) for i in range(len(self.order))])


def layout_of(shape: tuple[int, ...] | None, module: nn.Module, image_size: tuple[int, int]) -> Layout | None:
    """The layout of a tensor that a module gave for a batch of one; None where it is no activation map.

    Tokens first (open_clip's older towers) is known by where the batch of one stands. Channels last (Swin,
    ConvNeXt) is taken for granted in two cases only: a linear layer or LayerNorm, which work on the last
    dimension, and a map of a square image of which only the first two sides are equal. Else a tensor of four
    dimensions counts as [batch, units, height, width].
    """
    if shape is None or 0 in shape:
        return None
    if len(shape) == 3 and shape[1] == 1 != shape[0]:
        return Layout(TOKENS, shape[2], (shape[0],), (1, 0, 2))
    if shape[0] != 1 or len(shape) not in (2, 3, 4):
        return None
    if len(shape) == 2:
        return Layout(VECTOR, shape[1], ())
    if len(shape) == 3:
        return Layout(TOKENS, shape[2], (shape[1],))
    if _channels_last(shape, module, image_size):
        return Layout(MAP, shape[3], (shape[1], shape[2]), (0, 3, 1, 2))
    return Layout(MAP, shape[1], (shape[2], shape[3]))


def _channels_last(shape: tuple[int, ...], module: nn.Module, image_size: tuple[int, int]) -> bool:
    if type(module) in (nn.Linear, nn.LayerNorm):  # subclasses such as LayerNorm2d take channels first
        return True
    return image_size[0] == image_size[1] and shape[1] == shape[2] != shape[3]


def image_tower(module: nn.Module) -> nn.Module:
    """The part of a network that sees images: open_clip's `visual`, timm's trunk inside it, or all of it."""
    visual = getattr(module, "visual", module)
    return getattr(visual, "trunk", visual)


def prefix_tokens(module: nn.Module) -> int:
    """How many of a transformer's tokens stand before its patches (class token, registers); else 0."""
    tower = image_tower(module)
    declared = getattr(tower, "num_prefix_tokens", None)  # timm
    if isinstance(declared, int):
        return declared
    named = ("class_embedding", "class_token")  # open_clip, torchvision
    return int(any(isinstance(getattr(tower, name, None), Tensor) for name in named))


def patch_grid(module: nn.Module, image_size: tuple[int, int], patches: int) -> tuple[int, int] | None:
    """The (rows, columns) of a number of patch tokens; None where they fill no grid.

    As the tower declares it, else in the proportions of the image.
    """
    tower = image_tower(module)
    embed = getattr(tower, "patch_embed", tower)
    declared = getattr(embed, "grid_size", None)
    if isinstance(declared, tuple) and len(declared) == 2 and declared[0] * declared[1] == patches:
        return int(declared[0]), int(declared[1])
    rows = round((patches * image_size[0] / image_size[1]) ** 0.5)
    return (rows, patches // rows) if rows and patches % rows == 0 else None
