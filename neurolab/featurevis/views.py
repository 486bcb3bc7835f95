"""What the network is shown of the pictures at every step: views, resampled once by all that moves them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from neurolab.featurevis.pixel_transforms import PixelTransform
from neurolab.featurevis.seeds import generator
from neurolab.featurevis.transforms import AnyTransform, Frame, Transform, Window, natural_window


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

    @property
    def is_steady(self) -> bool:
        """Whether all steps differ in their maps only."""
        return not self.colours

    def __call__(self, pictures: Tensor, step: int, maps: Tensor | None = None) -> Tensor:
        """Views [batch * count, 3, height, width] of pictures [batch, 3 or 4, H, W]; a picture's together.

        maps: those of the step, [batch, count, 2, 3], unless others are given.
        Where a picture has an alpha channel, each view has another background (lucid's collapse_alpha):
        smooth patterns of random colours, which nothing in the picture can count on.
        """
        maps = self.maps[step] if maps is None else maps
        if pictures.shape[1] == 4:
            alpha = pictures[:, 3:]
            # Colours weighted by alpha: where nothing is drawn, resampling mixes in no colour.
            weighted = torch.cat([pictures[:, :3] * alpha, alpha], dim=1)
            layers = self.resampled(weighted, maps, outside=0.0)
            behind = backgrounds(layers.shape[1], self.frame.view, self.randoms)
            seen = layers[:, :, :3] + (1 - layers[:, :, 3:]) * behind
        else:
            seen = self.resampled(pictures, maps)
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
