"""Finding units through the model: by what a text says, by an image that excites them."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from neurolab.analysis.hits import Hit, Scored, best_hits, chosen_sites
from neurolab.atlas import Atlas
from neurolab.atlas.distribution import z_scores
from neurolab.atlas.matching import require_model
from neurolab.atlas.reductions import reduce_map, reduction_of_image
from neurolab.errors import AtlasError
from neurolab.models.capture import capture
from neurolab.models.zoo import Model

__all__ = [
    "Hit",
    "common_texts",
    "text_direction",
    "units_excited_by",
    "units_like_text",
]


def units_like_text(
    atlas: Atlas, model: Model, text: str, site: str | Sequence[str] | None = None, top: int = 24
) -> list[Hit]:
    """The units whose exemplars look most like a text, best first.

    The score is the cosine between the text's embedding and the unit's, both from their mean: a unit's is the
    mean direction of its exemplars' embeddings from the mean of all images (`neurolab.atlas.embeddings`), a
    text's the direction from the mean of `common_texts`. Texts and images lie in two narrow cones (Liang et
    al. 2022); without the means, the same few units would come first for every text. site: one or several
    sites; default: all. Ties: by site, then by unit number. Raises MissingTextTowerError for a model without
    a text tower; AtlasError for another model than the atlas's and where the atlas has no embeddings.
    """
    require_model(atlas, model)
    direction = text_direction(model, text)
    found = []
    for arrays in chosen_sites(atlas, site):
        if arrays.embedding is not None:
            cosine = np.asarray(arrays.embedding, np.float32) @ direction
            found.append(Scored(arrays, cosine.astype(np.float64), np.arange(arrays.units)))
    if not found:
        raise AtlasError(f"{atlas.path} has no embeddings of units, for its model gives none of images")
    return best_hits(found, top)


def common_texts() -> list[str]:
    """Texts about a hundred different things, whose mean says what all texts share."""
    from open_clip import IMAGENET_CLASSNAMES

    return [f"a photo of a {name}" for name in IMAGENET_CLASSNAMES[::10]]


_MEAN_TEXTS: WeakKeyDictionary[nn.Module, torch.Tensor] = WeakKeyDictionary()


def text_direction(model: Model, text: str) -> NDArray[np.float32]:
    """The unit-norm direction [D] of a text's embedding from the mean of common texts."""
    with torch.inference_mode():
        if model.module not in _MEAN_TEXTS:
            _MEAN_TEXTS[model.module] = model.encode_text(common_texts()).mean(dim=0)
        direction = F.normalize(model.encode_text(text)[0] - _MEAN_TEXTS[model.module], dim=0)
        return direction.to("cpu", torch.float32).numpy()


def units_excited_by(
    atlas: Atlas, model: Model, image: Image.Image, site: str | Sequence[str] | None = None, top: int = 24
) -> list[Hit]:
    """The units that an image excites most, measured by what is usual for each of them, best first.

    The score is z = (value - mean) / sd: the image's activation under the atlas's reduction, and the unit's
    mean and standard deviation over the atlas's images. In an atlas of tokens it is that of the image's
    largest token, and mean, deviation and percentile are over all tokens. Hits have the value, too, and its
    percentile among these images (which alone would not do to rank them: it is 100 for every unit that the
    image excites more than all of them). Units that never vary are left out. site: one or several sites,
    computed in one pass; default: all. Ties: by site, then by unit number. AtlasError for another model than
    the atlas's.
    """
    require_model(atlas, model)
    sites = chosen_sites(atlas, site)
    images = model.preprocess(image)[None].to(model.device)
    with torch.inference_mode(), capture(model, [arrays.name for arrays in sites]) as acts:
        model.encode_image(images)
    found = []
    for arrays in sites:
        reduction = reduction_of_image(arrays.reduction)
        reduced = reduce_map(acts[arrays.name], arrays, reduction).to_host()
        value, units = reduced.values[0], np.arange(arrays.units)
        found.append(Scored(arrays, z_scores(arrays, value, units), units, {"value": value}))
    return best_hits(found, top)
