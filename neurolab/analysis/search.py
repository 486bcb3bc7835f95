"""Finding units: by what a text says, and by an image that excites them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from neurolab.atlas import Atlas
from neurolab.atlas.arrays import SiteArrays
from neurolab.atlas.matching import require_model
from neurolab.atlas.reductions import reduce_map
from neurolab.errors import AtlasError
from neurolab.models.capture import capture
from neurolab.models.zoo import Model


@dataclass(frozen=True)
class Hit:
    """A unit that a search found, and how well it fits: the higher, the better.

    score: for a text the cosine, for an image the z-score. value: the activation by the image.
    """

    unit: str  # SITE/89
    score: float
    value: float | None = None


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
    for arrays in _sites(atlas, site):
        if arrays.embedding is not None:
            cosine = np.asarray(arrays.embedding, np.float32) @ direction
            found.append((arrays, cosine.astype(np.float64), None))
    if not found:
        raise AtlasError(f"{atlas.path} has no embeddings of units, for its model gives none of images")
    return _best(found, top)


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
    mean and standard deviation over the atlas's images. Units that never vary are left out. site: one or
    several sites, computed in one pass; default: all. Ties: by site, then by unit number. AtlasError for
    another model than the atlas's.
    """
    require_model(atlas, model)
    sites = _sites(atlas, site)
    images = model.preprocess(image)[None].to(model.device)
    with torch.inference_mode(), capture(model, [arrays.name for arrays in sites]) as acts:
        model.encode_image(images)
    found = []
    for arrays in sites:
        reduced = reduce_map(
            acts[arrays.name],
            arrays.reduction,
            layout=arrays.layout,
            prefix_tokens=arrays.prefix_tokens,
            grid=arrays.grid,
        )
        value, sd = reduced.values[0], np.asarray(arrays.sd, np.float64)
        varies = np.isfinite(sd) & (sd > 0)
        score = (value - np.asarray(arrays.mean, np.float64)) / np.where(varies, sd, 1.0)
        found.append((arrays, np.where(varies, score, np.nan), value))
    return _best(found, top)


def _sites(atlas: Atlas, site: str | Sequence[str] | None) -> list[SiteArrays]:
    names = atlas.sites if site is None else [site] if isinstance(site, str) else site
    return [atlas.site(name) for name in names]


_Scores = tuple[SiteArrays, NDArray[np.float64], NDArray[np.float32] | None]


def _best(found: Sequence[_Scores], top: int) -> list[Hit]:
    """The best units of all sites; a score that is NaN is no hit."""
    scores = np.concatenate([score for _, score, _ in found])
    site_of = np.repeat(np.arange(len(found)), [len(score) for _, score, _ in found])
    unit_of = np.concatenate([np.arange(len(score)) for _, score, _ in found])
    order = np.argsort(np.where(np.isnan(scores), np.inf, -scores), kind="stable")[: max(top, 0)]
    hits = []
    for place in order:
        if np.isnan(scores[place]):
            break
        arrays, _, values = found[int(site_of[place])]
        unit = int(unit_of[place])
        value = None if values is None else float(values[unit])
        hits.append(Hit(arrays.unit_name(unit), float(scores[place]), value))
    return hits
