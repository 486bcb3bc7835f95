"""Objectives that ask for no unit: more of what is there, what a text says, what an image has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from neurolab.errors import UnknownSiteError
from neurolab.featurevis.objectives import Direction, Objective, Reading, along, units_last
from neurolab.featurevis.places import Place, Where
from neurolab.models.capture import capture
from neurolab.models.sites import Site
from neurolab.models.zoo import Model


class DeepDream(Reading):
    """More of whatever the site sees already: the mean square of its units (Mordvintsev et al. 2015)."""

    def __init__(self, site: str, where: Where = "mean") -> None:
        super().__init__(site, Place(where), f"{site}/deepdream", torch.zeros(1))

    def at_places(self, activation: Tensor) -> Tensor:
        return units_last(activation).square().mean(-1)

    def check(self, site: Site) -> str:
        return f"{site.name}/deepdream"


class Deferred(Objective):
    """An objective that is another one, which its model has to say."""

    sites = ()

    @abstractmethod
    def resolve(self, model: Model) -> Objective:
        """The objective on this model."""

    def bind(self, model: Model) -> Objective:
        return self.resolve(model).bind(model)

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        raise TypeError(f"{self.formula} has no value before it is bound to a model")

    def signature(self) -> Hashable:
        raise TypeError(f"{self.formula} must be bound to a model first")

    def stack(self, members: Sequence[Any]) -> Objective:
        raise TypeError(f"{self.formula} must be bound to a model first")


class Text(Deferred):
    """What a text says: the direction of its embedding among a CLIP's image embeddings.

    dot * max(0.1, cos)^power, as `Direction`. Binding raises MissingTextTowerError where the model has no
    text tower.
    """

    def __init__(self, text: str, *, power: float = 1.0) -> None:
        self.text, self.power = text, power
        self.name = self.formula = f'"{text}"'

    def resolve(self, model: Model) -> Objective:
        with torch.no_grad():
            (vector,) = model.encode_text([self.text])
        return Direction("visual", vector.cpu(), power=self.power, name=self.name)


class Caricature(Deferred):
    """What the site makes of an image, exaggerated (Olah, "Feature Visualization", Distill 2017).

    dot * max(0.1, cos)^power of the activations at each place with those of the image at the same place.
    """

    def __init__(self, site: str, image: Image.Image, *, power: float = 1.0, name: str = "image") -> None:
        self.site, self.image, self.power, self.label = site, image, power, name
        self.name = self.formula = f"{site}/caricature of {name}"

    def resolve(self, model: Model) -> Objective:
        return Along(self.site, activations_of(model, self.site, self.image), self.power, self.label)


class Inversion(Deferred):
    """The image as far as the site knows it (Mahendran & Vedaldi 2015).

    Minus the squared distance of the activations from those of the image, over the latter's mean squared
    length: 0 where the site cannot tell the picture from the image, -1 for no activation at all.
    """

    def __init__(self, site: str, image: Image.Image, *, name: str = "image") -> None:
        self.site, self.image, self.label = site, image, name
        self.name = self.formula = f"{site}/inversion of {name}"

    def resolve(self, model: Model) -> Objective:
        return Near(self.site, activations_of(model, self.site, self.image), self.label)


def activations_of(model: Model, site: str, image: Image.Image) -> Tensor:
    """What the site gives for an image, float32 [1, ..., units]."""
    pixels = model.preprocess(image)[None].to(model.device)
    with torch.no_grad(), capture(model, [site]) as acts:
        model.encode_image(pixels)
    return units_last(acts[site].detach())


class OfImage(Reading):
    """An objective that compares every place with a target of its own, [1 or batch, ..., units]."""

    verb: str

    def __init__(self, site: str, target: Tensor, label: str) -> None:
        self.label = label
        super().__init__(site, Place("mean"), f"{site}/{self.verb} of {label}", target)

    def check(self, site: Site) -> str:
        if self.numbers.shape[-1] != site.units:
            given = tuple(self.numbers.shape[1:])
            raise UnknownSiteError(
                f"a target of {given} does not fit {site.name}, which has {site.units} units"
            )
        return f"{site.name}/{self.verb} of {self.label}"

    def signature(self) -> Hashable:
        return *super().signature(), self.numbers.shape[1:]  # type: ignore[misc]


class Along(OfImage):
    """A direction of its own at every place; see `Caricature`."""

    verb = "caricature"

    def __init__(self, site: str, target: Tensor, power: float, label: str) -> None:
        self.power = power
        super().__init__(site, target, label)

    def at_places(self, activation: Tensor) -> Tensor:
        return along(units_last(activation), self.numbers, self.power)

    def describe(self) -> str:
        return f"{self.name} * cos^{self.power:g}"

    def signature(self) -> Hashable:
        return *super().signature(), self.power  # type: ignore[misc]


class Near(OfImage):
    """Nearness to a target of its own at every place; see `Inversion`."""

    verb = "inversion"

    def at_places(self, activation: Tensor) -> Tensor:
        lengths = self.numbers.square().sum(-1)
        # One length for the whole map: a place where the image has nothing must not count without bounds.
        whole = lengths.reshape(len(lengths), -1).mean(1).clamp_min(1e-12).view(-1, *[1] * (lengths.ndim - 1))
        return -(units_last(activation) - self.numbers).square().sum(-1) / whole
