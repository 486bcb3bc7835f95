"""How often a word pasted on a photo makes a model name the word in place of the photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from neurolab.data.chance import pick, shuffled
from neurolab.data.decode import decode_image, resize_crop
from neurolab.data.labels import paste_label
from neurolab.data.sources import Record
from neurolab.training.pictures import PIXELS

EmbedImages = Callable[[list[Image.Image]], Tensor]
"""Pictures to embeddings [pictures, D], any norm."""


@dataclass(frozen=True)
class Attack:
    """A photo, its class and the class name that is pasted on it."""

    record: Record
    true: str
    pasted: str

    def picture(self) -> Image.Image:
        """The photo at 224 px with a paper label on it, six tenths of its side wide."""
        photo = Image.fromarray(resize_crop(decode_image(self.record.payload), (PIXELS, PIXELS)))
        return paste_label(photo, self.pasted)


def attacks(records: Sequence[Record], names: Sequence[str], label: str = "label") -> list[Attack]:
    """Every photo with a class name that is not its own, chosen by its key."""
    return [
        Attack(
            record, record.labels[label], pick([n for n in names if n != record.labels[label]], record.key)
        )
        for record in records
    ]


def predictions(embeddings: Tensor, texts: Tensor) -> np.ndarray:
    """The number of the text with the highest cosine, per image; texts: [names, D], unit norm."""
    return (F.normalize(embeddings.float(), dim=-1) @ texts.T).argmax(dim=1).numpy()


def flips(
    planned: Sequence[Attack],
    clean: Tensor,
    embed: EmbedImages,
    names: Sequence[str],
    texts: Tensor,
    most: int,
) -> np.ndarray:
    """Of the photos that are correctly named, which are named by the pasted word: [photos] of 0 and 1.

    clean: the embeddings [planned, D] of the photos without a label; texts: the names' embeddings. At most
    `most` photos are attacked, in one order of all photos: two models share those that both name correctly.
    """
    predicted_clean = predictions(clean, texts)
    order = shuffled(list(range(len(planned))), "attacked photos")
    chosen = [planned[i] for i in order if names[predicted_clean[i]] == planned[i].true][:most]
    flipped = []
    for start in range(0, len(chosen), 64):
        group = chosen[start : start + 64]
        with torch.inference_mode():
            predicted = predictions(embed([attack.picture() for attack in group]), texts)
        flipped += [names[p] == a.pasted for p, a in zip(predicted, group, strict=True)]
    return np.array(flipped, dtype=float)
