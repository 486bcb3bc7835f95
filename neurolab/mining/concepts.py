"""Which concept an image is of, while it is mined: as a label says, or as the model takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neurolab.data.items import Item
from neurolab.errors import AtlasError
from neurolab.models.zoo import Model


@dataclass(frozen=True)
class Concepts:
    """The concepts that images are sorted into.

    names: of the concepts. column: the label that has one of them; None for zero-shot labels: the concept
    whose text embedding, in `directions` [concepts, D] of unit length, is closest to the image's.
    """

    names: tuple[str, ...]
    column: str | None = None
    directions: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, asked: Sequence[str] | Mapping[str, Sequence[str]] | None, model: Model) -> Concepts | None:
        """As `mine` is told: texts for zero-shot labels, or {column: its values}; None for none.

        AtlasError for anything else; MissingTextTowerError for texts where the model reads none.
        """
        if not asked:
            return None
        columns = dict(asked) if isinstance(asked, Mapping) else {None: asked}
        if len(columns) != 1:
            raise AtlasError(f"concepts are of one label, not of {', '.join(map(str, columns))}: choose one")
        ((column, values),) = columns.items()
        names = (values,) if isinstance(values, str) else tuple(values)
        if len(set(names)) != len(names) or not names:
            raise AtlasError(f"concepts need different names, not {', '.join(names) or 'none'}")
        if column is not None:
            return cls(names, column)
        with torch.inference_mode():
            embedded = model.encode_text(list(names), normalize=True)
        return cls(names, None, embedded.to("cpu", torch.float64).numpy())

    def numbers(self, items: Sequence[Item], embeddings: NDArray[np.float16] | None) -> NDArray[np.int64]:
        """The number of each image's concept [n]; -1 where it has no such label, or an unknown one, and where
        its embedding has no direction: NaN, infinite or 0."""
        if self.column is not None:
            known = {name: number for number, name in enumerate(self.names)}
            return np.array([known.get(item.labels.get(self.column, ""), -1) for item in items], np.int64)
        assert self.directions is not None
        if embeddings is None:
            return np.full(len(items), -1)
        # einsum, unlike a matrix product, adds up in an order that no number of threads changes.
        exact = embeddings.astype(np.float64)
        cosines = np.einsum("nd,cd->nc", np.nan_to_num(exact), self.directions)
        points = np.isfinite(exact).all(axis=1) & (exact != 0).any(axis=1)
        return np.where(points, cosines.argmax(axis=1), -1)
