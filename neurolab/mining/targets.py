"""Outputs of a network, one number per image, to which its units are relevant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from neurolab.models.zoo import Model

Score = Callable[[Tensor], Tensor]  # what encode_image gives [batch, D] to one number per image [batch]


class Target(ABC):
    """An output of a network, one number per image, to which units are relevant."""

    @abstractmethod
    def score(self, model: Model) -> Score:
        """How the number comes from what `model.encode_image` gives."""


@dataclass(frozen=True)
class Logit(Target):
    """A classifier's score of a class, before the softmax."""

    index: int

    def score(self, model: Model) -> Score:
        """ValueError for a network that gives no such score."""
        classes = None if model.is_clip else model.embedding_dim
        if classes is None:
            raise ValueError(f"{model.name} gives no scores of classes: choose Text or Direction")
        if not 0 <= self.index < classes:
            raise ValueError(f"{model.name} has the classes 0 to {classes - 1}, not {self.index}")
        return lambda output: output[:, self.index]

    def __str__(self) -> str:
        return f"class {self.index}"


@dataclass(frozen=True)
class Text(Target):
    """The cosine of an image's embedding with a text's."""

    text: str

    def score(self, model: Model) -> Score:
        """MissingTextTowerError where the model has no text tower."""
        with torch.no_grad():
            return _cosine(model.encode_text(self.text)[0])

    def __str__(self) -> str:
        return f'"{self.text}"'


@dataclass(frozen=True, eq=False)
class Direction(Target):
    """The cosine of what the network gives for an image with a vector [D]."""

    vector: ArrayLike
    name: str = "direction"

    def score(self, model: Model) -> Score:
        """ValueError where the vector does not fit what the network gives."""
        vector = torch.as_tensor(np.asarray(self.vector, np.float32), device=model.device)
        if vector.shape != (model.embedding_dim,):
            raise ValueError(
                f"{model.name} gives vectors of {model.embedding_dim} numbers; a direction of the shape "
                f"{tuple(vector.shape)} does not fit"
            )
        return _cosine(vector)

    def __str__(self) -> str:
        return self.name


def _cosine(vector: Tensor) -> Score:
    return lambda output: F.cosine_similarity(output, vector[None], dim=1)
