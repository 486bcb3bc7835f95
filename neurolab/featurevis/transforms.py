"""Random transforms of the pictures before the network sees them: what survives them is no adversarial noise.

Every view of every picture has its own draw, from the picture's own seed. All geometric transforms of a view
are one affine map, so a picture is resampled once, on its device, whatever is in the list.

Coordinates are (x, y) in pixels from the centre, x to the right and y down. A transform gives 3 x 3 matrices
that take a place in its output to the place in its input where the colour is read.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neurolab.featurevis.pixel_transforms import ColourJitter, ColourNoise, Noise, PixelTransform


@dataclass(frozen=True)
class Frame:
    """Sizes (height, width) in pixels of the picture and of a view, which is what the network sees."""

    picture: tuple[int, int]
    view: tuple[int, int]


class Transform(ABC):
    """A random affine map. Subclasses say in their first line how it is distributed."""

    @abstractmethod
    def draw(self, count: int, frame: Frame, random: torch.Generator) -> Tensor:
        """`count` independent draws: matrices [count, 3, 3] from output places to input places."""


@dataclass(frozen=True)
class Window(Transform):
    """A window on the picture: its side is a share of the largest that fits, uniform in [low, high], and its
    place is uniform among those inside the picture.

    The window has the shape of the view and is enlarged or reduced to it. With shares of 1, a picture of the
    view's shape is seen whole.
    """

    low: float = 1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 1:
            raise ValueError(f"shares of a window must be 0 < low <= high <= 1, not {self.low}, {self.high}")

    def shares(self, count: int, random: torch.Generator) -> Tensor:
        """[count] shares."""
        return uniform(count, self.low, self.high, random)

    def draw(self, count: int, frame: Frame, random: torch.Generator) -> Tensor:
        (height, width), (view_height, view_width) = frame.picture, frame.view
        share = self.shares(count, random)
        zoom = share * min(height / view_height, width / view_width)  # picture pixels per view pixel
        place = torch.rand(count, 2, generator=random) - 0.5
        room = torch.stack([width - zoom * view_width, height - zoom * view_height], dim=1)
        return matrices(zoom, torch.zeros(count), place * room)


@dataclass(frozen=True)
class NormalWindow(Window):
    """A window whose share of the largest that fits is normal, cut off at `low` and `high`; its place is
    uniform among those inside the picture. MACO's crops are so."""

    low: float = 0.05
    mean: float = 0.25
    sd: float = 0.1

    def shares(self, count: int, random: torch.Generator) -> Tensor:
        return (self.mean + self.sd * torch.randn(count, generator=random)).clamp(self.low, self.high)


@dataclass(frozen=True)
class Jitter(Transform):
    """A shift, uniform in [-pixels / 2, pixels / 2] along each axis.

    Lucid's jitter cuts a window `pixels` smaller at a random place, which shifts by whole pixels over the
    same range. (Lucent's shifts in one direction only.)
    """

    pixels: float

    def draw(self, count: int, frame: Frame, random: torch.Generator) -> Tensor:
        shift = (torch.rand(count, 2, generator=random) - 0.5) * self.pixels
        return matrices(torch.ones(count), torch.zeros(count), shift)


@dataclass(frozen=True)
class Scale(Transform):
    """Enlargement about the centre by one of `factors`, each equally likely."""

    factors: tuple[float, ...]

    def draw(self, count: int, frame: Frame, random: torch.Generator) -> Tensor:
        return matrices(1 / choice(self.factors, count, random), torch.zeros(count), torch.zeros(count, 2))


@dataclass(frozen=True)
class Rotate(Transform):
    """Rotation about the centre by one of `degrees`, each equally likely."""

    degrees: tuple[float, ...]

    def draw(self, count: int, frame: Frame, random: torch.Generator) -> Tensor:
        angle = choice(self.degrees, count, random) * (math.pi / 180)
        return matrices(torch.ones(count), angle, torch.zeros(count, 2))


@dataclass(frozen=True)
class Pad(Transform):
    """So many pixels of the border along a view's longer sides, and in proportion along its shorter ones: no
    draw at all, always the same (lucid pads first, so that jitter and rotation have something to move in; the
    border is there without it)."""

    pixels: float

    def draw(self, count: int, frame: Frame, random: torch.Generator) -> Tensor:
        zoom = 1 + 2 * self.pixels / min(frame.view)
        return matrices(torch.full((count,), zoom), torch.zeros(count), torch.zeros(count, 2))


def uniform(count: int, low: float, high: float, random: torch.Generator) -> Tensor:
    """[count] numbers, uniform in [low, high]."""
    return low + (high - low) * torch.rand(count, generator=random)


def choice(options: Sequence[float], count: int, random: torch.Generator) -> Tensor:
    """[count] of the options, each equally likely."""
    return torch.tensor(options)[torch.randint(len(options), (count,), generator=random)]


def matrices(zoom: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    """[count, 3, 3]: places are turned by `angle` (radians), multiplied by `zoom`, then moved by `shift`."""
    result = torch.zeros(len(zoom), 3, 3)
    result[:, 0, 0] = result[:, 1, 1] = zoom * angle.cos()
    result[:, 0, 1], result[:, 1, 0] = -zoom * angle.sin(), zoom * angle.sin()
    result[:, :2, 2] = shift
    result[:, 2, 2] = 1
    return result


# Lucid's standard list. Its padding is the grey border here.
LUCID = (
    Jitter(8),
    Scale(tuple(1 + (i - 5) / 50 for i in range(11))),
    Rotate((*range(-10, 11), *[0] * 5)),
    Jitter(4),
)


def standard(frame: Frame) -> tuple[Transform, ...]:
    """About twice as much as lucid's of everything: fewer, larger and cleaner motifs.

    Jitter is 16 and 8 pixels for a view of 224, and in proportion for others.
    """
    side = min(frame.view)
    return (
        Jitter(side / 14),
        Scale(tuple(1 + (i - 5) / 25 for i in range(11))),
        Rotate(tuple(range(-15, 16))),
        Jitter(side / 28),
    )


AnyTransform = Transform | PixelTransform
TRANSFORMS: dict[str, Callable[[Frame], tuple[AnyTransform, ...]]] = {
    "standard": standard,
    "lucid": lambda frame: LUCID,
    "crops": lambda frame: (NormalWindow(), Noise(0.1)),
    "vit": lambda frame: (Jitter(2 * min(frame.view) / 7), ColourJitter(), ColourNoise()),
    "none": lambda frame: (),
}


def find_transforms(name: str | Sequence[AnyTransform], frame: Frame) -> tuple[AnyTransform, ...]:
    """The transforms of a name ("standard", "lucid", "crops", "vit", "none"); of a sequence, its tuple."""
    if not isinstance(name, str):
        return tuple(name)
    if name not in TRANSFORMS:
        known = ", ".join(TRANSFORMS)
        raise ValueError(f"transforms {name!r} are unknown; choose one of {known}, or pass a list of them")
    return TRANSFORMS[name](frame)


def natural_window(frame: Frame) -> Window:
    """The whole picture where it is no larger than the view; of larger ones, windows at one to two picture
    pixels per view pixel: both the finest detail and the coarsest that resampling shows without aliasing.
    """
    largest = min(frame.picture[0] / frame.view[0], frame.picture[1] / frame.view[1])
    return Window(1 / max(largest, 1), min(1, 2 / max(largest, 1)))
