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
import torch.nn.functional as F
from torch import Tensor

from neurolab.featurevis.seeds import generator


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
    """So many pixels of the border on every side: no draw at all, always the same (lucid pads first, so that
    jitter and rotation have something to move in; the border is there without it)."""

    pixels: float

    def draw(self, count: int, frame: Frame, random: torch.Generator) -> Tensor:
        zoom = 1 + 2 * self.pixels / min(frame.view)
        return matrices(torch.full((count,), zoom), torch.zeros(count), torch.zeros(count, 2))


class PixelTransform(ABC):
    """A random change of the colours of a view, after all that moves them."""

    @abstractmethod
    def __call__(self, views: Tensor, randoms: Sequence[torch.Generator], done: float) -> Tensor:
        """Changed views [pictures, views, 3, height, width].

        randoms: one a picture, on their device. done: the share of the run's steps that lies behind.
        """


@dataclass(frozen=True)
class Noise(PixelTransform):
    """Noise that is uniform in [-level, level], in every colour of every pixel of every view alone."""

    level: float

    def __call__(self, views: Tensor, randoms: Sequence[torch.Generator], done: float) -> Tensor:
        return views + self.level * symmetric(views.shape[1:], randoms)


@dataclass(frozen=True)
class ColourJitter(PixelTransform):
    """(colour - a) / exp(b) in each channel of each view, with a uniform in [-shift, shift] and b in [-scale,
    scale]: what survives is no matter of one colour (Ghiasi et al., "What do Vision Transformers Learn?",
    2022)."""

    shift: float = 1.0
    scale: float = 1.0

    def __call__(self, views: Tensor, randoms: Sequence[torch.Generator], done: float) -> Tensor:
        shift, scale = symmetric((2, *channels(views)), randoms).unbind(1)
        return (views - self.shift * shift) / (self.scale * scale).exp()


@dataclass(frozen=True)
class ColourNoise(PixelTransform):
    """Normal noise of one number for each channel of each view, its standard deviation falling linearly from
    `sd` to 0 over the run (Ghiasi et al. 2022)."""

    sd: float = 0.5

    def __call__(self, views: Tensor, randoms: Sequence[torch.Generator], done: float) -> Tensor:
        shape = channels(views)
        drawn = [torch.randn(shape, generator=random, device=random.device) for random in randoms]
        return views + self.sd * (1 - done) * torch.stack(drawn)


@dataclass(frozen=True)
class Blur(PixelTransform):
    """A Gaussian blur of each view, its standard deviation in pixels uniform in [low, high]."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"a blur has widths 0 <= low <= high, not {self.low}, {self.high}")

    def __call__(self, views: Tensor, randoms: Sequence[torch.Generator], done: float) -> Tensor:
        share = (symmetric(channels(views)[:1], randoms) + 1) / 2
        widths = (self.low + (self.high - self.low) * share).flatten().clamp_min(1e-3)
        radius = max(1, math.ceil(3 * self.high))
        places = torch.arange(-radius, radius + 1, device=views.device)
        kernels = torch.softmax(-places.square() / (2 * widths[:, None].square()), dim=1)
        kernels = kernels.repeat_interleave(3, 0)  # of every channel of every view
        rows = F.pad(views.reshape(1, -1, *views.shape[-2:]), [radius] * 4, mode="replicate")
        rows = F.conv2d(rows, kernels[:, None, None, :], groups=len(kernels))
        return F.conv2d(rows, kernels[:, None, :, None], groups=len(kernels)).view_as(views)


def channels(views: Tensor) -> tuple[int, ...]:
    """The shape of a number for each view's channel: (views, 3, 1, 1)."""
    return *views.shape[1:3], 1, 1


def symmetric(shape: Sequence[int], randoms: Sequence[torch.Generator]) -> Tensor:
    """[pictures, *shape] numbers, uniform in [-1, 1]."""
    drawn = [torch.rand(tuple(shape), generator=random, device=random.device) for random in randoms]
    return torch.stack(drawn) * 2 - 1


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


class Views:
    """The views of a batch of pictures at every step of a run, drawn beforehand.

    seeds: one per picture; count: views of each picture at each step. The first of `transforms` acts on the
    picture first; without a `Window` among them, it is `natural_window`. Those of colours act after those of
    places. border: the grey level outside the picture, "reflect", or "wrap", where the picture begins again.
    """

    def __init__(
        self,
        transforms: Sequence[AnyTransform],
        seeds: Sequence[int],
        frame: Frame,
        *,
        steps: int,
        count: int = 1,
        border: float | str = 0.5,
        device: torch.device | str = "cpu",
    ) -> None:
        self.frame, self.border = frame, border
        moves = [transform for transform in transforms if isinstance(transform, Transform)]
        if not any(isinstance(move, Window) for move in moves):
            moves.insert(0, natural_window(frame))
        self.colours = [transform for transform in transforms if isinstance(transform, PixelTransform)]
        self.randoms = [generator(seed, "colours", device) for seed in seeds]
        drawn = [draw_maps(moves, frame, steps * count, seed) for seed in seeds]
        # [steps, pictures, views, 2, 3]
        self.maps = torch.stack(drawn, dim=1).unflatten(0, (steps, count)).transpose(1, 2).to(device)

    def __call__(self, pictures: Tensor, step: int) -> Tensor:
        """Views [batch * count, 3, height, width] of pictures [batch, 3 or 4, H, W]; a picture's together.

        Where a picture has an alpha channel, each view has another background (lucid's collapse_alpha):
        smooth patterns of random colours, which nothing in the picture can count on.
        """
        if pictures.shape[1] == 4:
            alpha = pictures[:, 3:]
            # Colours weighted by alpha: where nothing is drawn, resampling mixes in no colour.
            weighted = torch.cat([pictures[:, :3] * alpha, alpha], dim=1)
            layers = self.resampled(weighted, self.maps[step], outside=0.0)
            behind = backgrounds(layers.shape[1], self.frame.view, self.randoms)
            seen = layers[:, :, :3] + (1 - layers[:, :, 3:]) * behind
        else:
            seen = self.resampled(pictures, self.maps[step])
        for change in self.colours:
            seen = change(seen, self.randoms, step / len(self.maps))
        return seen.flatten(0, 1)

    def resampled(self, pictures: Tensor, maps: Tensor, outside: float | None = None) -> Tensor:
        """Views [batch, count, channels, height, width] of pictures by their maps [batch, count, 2, 3]."""
        batch, count = maps.shape[:2]
        height, width = self.frame.view
        # A picture's views are sampled as one tall image, so that the picture is not copied for each.
        grid = places(maps.flatten(0, 1), height, width).view(batch, count * height, width, 2)
        if self.border == "wrap":
            grid = torch.remainder(grid + 1, 2) - 1
            seen = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
        elif self.border == "reflect":
            seen = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
        else:
            level = float(self.border) if outside is None else outside
            seen = F.grid_sample(pictures - level, grid, padding_mode="zeros", align_corners=False) + level
        return seen.unflatten(2, (count, height)).transpose(1, 2)


def places(maps: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel of views is read, [views, height, width, 2]: torch's affine_grid of the pixels'
    centres, in a fraction of its time."""
    x = (2 * torch.arange(width, device=maps.device) + 1) / width - 1
    y = (2 * torch.arange(height, device=maps.device) + 1) / height - 1
    along_x, along_y, shift = maps[:, None, None].unbind(-1)
    return along_x * x[:, None] + (along_y * y[:, None, None] + shift)


def backgrounds(count: int, size: tuple[int, int], randoms: Sequence[torch.Generator]) -> Tensor:
    """[pictures, count, 3, height, width]: smooth random patterns, RGB in (0, 1), no two alike."""
    shape = (count, 3, 8, 8)
    drawn = [torch.randn(shape, generator=random, device=random.device) for random in randoms]
    flat = torch.stack(drawn).flatten(0, 1)
    coarse = F.interpolate(flat[..., :2, :2], size=size, mode="bicubic", align_corners=False)
    fine = F.interpolate(flat, size=size, mode="bicubic", align_corners=False)
    return torch.sigmoid(coarse + fine).unflatten(0, (-1, count))


def draw_maps(transforms: Sequence[Transform], frame: Frame, count: int, seed: int) -> Tensor:
    """[count, 2, 3] affine maps of one picture, for places in [-1, 1] as torch's affine_grid has them."""
    random = generator(seed, "transforms")
    total = torch.eye(3).expand(count, 3, 3)
    for transform in transforms:
        total = total @ transform.draw(count, frame, random)
    to_pixels = torch.tensor([frame.view[1] / 2, frame.view[0] / 2, 1.0])
    from_pixels = torch.tensor([2 / frame.picture[1], 2 / frame.picture[0]])
    return total[:, :2] * to_pixels * from_pixels[:, None]
