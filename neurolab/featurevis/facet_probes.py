"""Train facets: linear probes that tell the images of a theme from others, at earlier sites of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from neurolab.data.combine import ConcatSource, LimitedSource
from neurolab.data.decode import ImageTransform
from neurolab.data.loader import load_batches
from neurolab.data.selected import SelectedSource
from neurolab.data.sources import Source, open_source
from neurolab.errors import FacetError
from neurolab.featurevis.facets import Facet
from neurolab.models.capture import capture
from neurolab.models.sites import Site, find_site, list_sites, split_tokens
from neurolab.models.zoo import Model

HELD_OUT = 0.25  # the share of the images on which a probe's accuracy is measured
_LEAST = 8  # images of each side

Images = str | Path | Source | Sequence[str | Path | Source]


def train_facet(
    name: str,
    model: Model,
    positive: Images,
    negative: Images,
    *,
    sites: Sequence[str] | None = None,
    spatial: int = 0,
    penalty: float = 100.0,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
) -> Facet:
    """A facet from images of its theme (positive) and others (negative), any sources (`open_source`).

    sites: where the probes read, default `facet_sites`. spatial: 0 for probes of the mean over the map, a
    theme that may be anywhere; n for probes of the map reduced to n x n places. The probes are logistic
    regressions of standardized activations, with both sides weighing alike and an L2 penalty (scikit-learn's
    1 / C); limit: use the first so many images of each side. A quarter of the images, drawn with the seed, is
    held out for the accuracy. (The article says neither how its probes were trained nor how good they were.)

    Raises FacetError where a side has fewer than 8 images that can be read.
    """
    found = [find_site(model, site) for site in sites or facet_sites(model)]
    sources = [open_source(side) for side in (positive, negative)]
    if limit is not None:
        sources = [source.limit(limit) for source in sources]
    sides = [read_features(model, source, found, spatial, batch_size, workers) for source in sources]
    counts = [len(side[found[0].name]) for side in sides]
    if min(counts) < _LEAST:
        side = "positive" if counts[0] < _LEAST else "negative"
        where = sources[counts[0] >= _LEAST].location
        raise FacetError(f"{where} has {min(counts)} images that can be read: the {side} side needs {_LEAST}")
    labels = np.repeat([1, 0], counts)
    probes = {
        site.name: fit_probe(np.concatenate([side[site.name] for side in sides]), labels, penalty, seed)
        for site in found
    }
    about = {
        "model": model.name,
        "weights_hash": model.weights_hash,
        "positive": short_name(sources[0]),
        "negative": short_name(sources[1]),
        "sources": [source.content_hash() for source in sources],
        "images": counts,
        "accuracy": {site: round(probe.accuracy, 4) for site, probe in probes.items()},
        "held_out": next(iter(probes.values())).held_out,
    }
    weights = {site.name: scaled(probes[site.name].weights, site, spatial) for site in found}
    return Facet(name, weights, about)


def short_name(source: Source) -> str:
    """What a source is called, without the folders that it lies in: a facet's file goes round the world."""
    if isinstance(source, LimitedSource):
        return short_name(source.source)
    if isinstance(source, ConcatSource):
        return ", ".join(map(short_name, source.parts.values()))
    if isinstance(source, SelectedSource):
        return f"{short_name(source.source)}{source.selection}"
    return PurePath(source.location).name or source.location


def facet_sites(model: Model) -> list[str]:
    """The residual sums of the middle of a network, from 30 to 75 % of its depth; where there are none, as in
    VGG, the inputs of its activation functions there."""
    for kind in ("residual", "preact", "mlp"):
        sites = [site.name for site in list_sites(model) if site.kind == kind]
        if sites:
            first = round(0.3 * len(sites))
            return sites[first : max(round(0.75 * len(sites)), first + 1)]
    raise FacetError(f"{model.name} has no usual sites: name those of the facet (see `neurolab sites`)")


def read_features(
    model: Model, source: Source, sites: Sequence[Site], spatial: int, batch_size: int, workers: int
) -> dict[str, np.ndarray]:
    """Site -> what its probe reads of every image that can be read, float32 [images, features]."""
    shape = ImageTransform(model.image_size, model.resize_mode, model.interpolation, thumbnail=None)
    names = [site.name for site in sites]
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    with torch.inference_mode(), capture(model, names) as acts:
        for batch in load_batches(source, shape, batch_size=batch_size, workers=workers):
            if len(batch.images):
                pixels = torch.from_numpy(batch.images).to(model.device).permute(0, 3, 1, 2)
                model.encode_image(pixels.float() / 255)
                for site in sites:
                    parts[site.name].append(features(acts[site.name], site, spatial).cpu())
    return {name: torch.cat(found).numpy() if found else np.zeros((0, 1)) for name, found in parts.items()}


def features(activation: Tensor, site: Site, spatial: int) -> Tensor:
    """What a probe reads of an activation map: its mean over the places, or it in `spatial` x `spatial`.

    float32 [batch, units], or [batch, units * rows * columns].
    """
    values = activation.float()
    if site.layout == "vector":
        return values
    if site.layout == "tokens":
        if site.grid is None:
            return values[:, site.prefix_tokens :].mean(1)
        values = split_tokens(values, site)[1]
    return F.adaptive_avg_pool2d(values, places_of(site, spatial)).flatten(1)


def places_of(site: Site, spatial: int) -> tuple[int, int]:
    """The rows and columns of what a probe reads: no more than the map has."""
    rows, columns = site.grid or (1, 1)
    return (min(spatial, rows), min(spatial, columns)) if spatial else (1, 1)


@dataclass(frozen=True)
class Fitted:
    """A probe's weights on raw features [features], and its accuracy on the held-out images."""

    weights: np.ndarray
    accuracy: float
    held_out: int


def fit_probe(values: np.ndarray, labels: np.ndarray, penalty: float, seed: int) -> Fitted:
    """Fit a probe on three quarters of values [images, features] with labels 1 and 0, try it on the rest."""
    train, test, train_labels, test_labels = train_test_split(
        values, labels, test_size=HELD_OUT, random_state=seed, stratify=labels
    )
    regression = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=1000)
    probe = make_pipeline(StandardScaler(), regression).fit(train, train_labels)
    accuracy = balanced_accuracy_score(test_labels, probe.predict(test))
    # Of the features themselves; a feature that never varies has the weight 0.
    weights = regression.coef_[0] / probe[0].scale_
    return Fitted(weights, float(accuracy), len(test))


def scaled(weights: np.ndarray, site: Site, spatial: int) -> Tensor:
    """A probe's weights as a facet has them: a mean square of 1, [units] or [units, rows, columns]."""
    found = torch.from_numpy(weights).float()
    found = found / found.square().mean().sqrt().clamp_min(1e-12)
    return found.unflatten(0, (site.units, *places_of(site, spatial))) if spatial and site.grid else found
