"""The ways to draw, as data: what is moved, how it is looked at, how fast it moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from PIL import Image

from neurolab.featurevis.objectives import Objective
from neurolab.featurevis.parametrizations.alpha import TransparentImage
from neurolab.featurevis.parametrizations.base import Maker, Parametrization
from neurolab.featurevis.parametrizations.cppn import CppnImage
from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.parametrizations.maco import MacoImage
from neurolab.featurevis.parametrizations.pixels import BoundedPixels, PixelImage
from neurolab.featurevis.parametrizations.pyramid import PyramidImage
from neurolab.featurevis.parametrizations.seeded import SeededImage
from neurolab.featurevis.parametrizations.shared import SharedImage
from neurolab.featurevis.regularizers import Distance, Opacity, TotalVariation
from neurolab.featurevis.spectrum import Spectrum
from neurolab.featurevis.transforms import AnyTransform
from neurolab.models.zoo import Model

Optimizer = Callable[..., torch.optim.Optimizer]
ADAM: Optimizer = partial(torch.optim.Adam, fused=True)  # one pass over the numbers where there were ten


@dataclass(frozen=True)
class Method:
    """What `render` does where its caller asks for nothing else.

    parametrization: makes the pictures from (seeds, size). transforms, views, border: as `render` has them.
    lr: the optimizer's, and schedule, "constant" or "cosine" (to 0 at the end). penalty: what is subtracted
    from every objective. alpha: draw with transparency. kind: what its pictures are called in an atlas;
    default, what the parametrization calls them.
    """

    parametrization: Maker
    transforms: str | Sequence[AnyTransform] = "standard"
    lr: float = 0.05
    schedule: str = "constant"
    optimizer: Optimizer = ADAM
    views: int = 1
    border: float | str = 0.5
    penalty: Objective | None = None
    alpha: bool = False
    kind: str | None = None

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f'schedule is "constant" or "cosine", not {self.schedule!r}')

    @property
    def is_shared(self) -> bool:
        """Whether all pictures of a call have parameters in common, so that they are one batch."""
        made = self.parametrization
        return bool(getattr(getattr(made, "func", made), "depends_on_batch", False))

    def image(self, seeds: Sequence[int], size: tuple[int, int]) -> Parametrization:
        """The pictures of a batch as they start."""
        colours = self.parametrization(seeds, size)
        return TransparentImage(colours) if self.alpha else colours

    def held(self, objective: Objective, model: Model) -> Objective:
        """A bound objective as it is drawn: less what holds the picture back.

        Of transparent pictures it is multiplied by the share that is transparent (Mordvintsev et al. 2018):
        what does not help is left out, as long as the objective is above 0.
        """
        drawn = objective * (1 - Opacity()).bind(model) if self.alpha else objective
        return drawn - self.penalty.bind(model) if self.penalty else drawn

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of a step of so many."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * (1 + math.cos(math.pi * step / steps)) / 2

    def changed(
        self,
        transforms: str | Sequence[AnyTransform] | None,
        border: float | str | None,
        views: int | None,
        lr: float | None,
        alpha: bool = False,
    ) -> Method:
        """The method with other settings; None leaves one as it is."""
        return replace(
            self,
            transforms=self.transforms if transforms is None else transforms,
            border=self.border if border is None else border,
            views=self.views if views is None else views,
            lr=self.lr if lr is None else lr,
            alpha=self.alpha or alpha,
        )


def maco(spectrum: Spectrum | None = None) -> Method:
    """MACO with the mean magnitudes of images of the user's own (`neurolab spectrum`).

    The paper's NAdam at a rate of 1 and crops of a quarter of a picture of 1,280 pixels need 1,000 steps to
    come to rest; at the network's own size, with the usual transforms and a rate that falls, 256 steps do.
    """
    parametrization = partial(MacoImage, spectrum=spectrum)
    return Method(parametrization, lr=0.5, schedule="cosine", optimizer=torch.optim.NAdam)


def accentuation(image: Image.Image, nearness: float = 100.0) -> Method:
    """Feature accentuation: draw out what excites a unit in an image (Hamblin et al. 2024).

    nearness: how often the mean squared distance from the image is subtracted; with 0 the image is only the
    start, and soon out of sight.
    """
    penalty = nearness * Distance(image) if nearness else None
    return Method(partial(SeededImage, image=image), penalty=penalty, border="reflect")


METHODS = {
    "fourier": Method(FourierImage),
    "pixels": Method(PixelImage),
    "pyramid": Method(PyramidImage),
    "cppn": Method(CppnImage, lr=0.005),
    "maco": maco(),
    "shared": Method(SharedImage),
    # Ghiasi et al., "What do Vision Transformers Learn?", 2022: for 224 pixels a jitter of 32 to both sides.
    "vit": Method(
        BoundedPixels,
        "vit",
        lr=0.1,
        schedule="cosine",
        optimizer=partial(ADAM, betas=(0.5, 0.99)),
        views=8,
        border="wrap",
        penalty=0.0005 * TotalVariation(),
        kind="vit",
    ),
}


def find_method(name: str | Method | Maker) -> Method:
    """A method by its name, one that is given as it is, or one of a parametrization alone."""
    if isinstance(name, Method):
        return name
    if not isinstance(name, str):
        return Method(name)
    if name not in METHODS:
        raise ValueError(
            f"method {name!r} is unknown; choose one of {', '.join(METHODS)}, or pass a Method or a callable "
            "(seeds, size) -> Parametrization"
        )
    return METHODS[name]
