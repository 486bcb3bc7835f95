"""Facets: draw a unit in one theme, as text, as a photo, as a face (Goh et al., Distill 2021).

A unit that stands for a person answers to the face, to drawings of it and to the name. A facet picks one of
these: it rewards the part of what excites the unit that a linear probe at earlier sites calls its theme::

    neurolab.render(model, units, facet="text", strength=4)

`neurolab.featurevis.facet_probes` trains them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neurolab.atlas.writing import read_npz, write_npz
from neurolab.errors import AtlasError, FacetError
from neurolab.featurevis.activations import rows_of
from neurolab.featurevis.objectives import Objective, units_last
from neurolab.featurevis.regularizers import PICTURE
from neurolab.models.sites import Site, find_site, locate_site
from neurolab.models.zoo import Model
from neurolab.shipped import shipped

FACETS = "facets"
_ABOUT = "about"


@dataclass(frozen=True, eq=False)
class Facet:
    """A theme, as the weights of a linear probe at each of some sites.

    weights: site -> float32 [units], for every place alike ("pooled"), or [units, rows, columns], for each
    place of the map ("spatial"); a mean square of 1 over all of them, so that a strength means the same at
    sites of any size. about: `model` and `weights_hash` of the network; `accuracy`, site -> the share of
    held-out images that its probe tells apart (both sides counting alike); `positive`, `negative`, `sources`
    (their hashes) and `images` (how many), what it was trained on.
    """

    name: str
    weights: Mapping[str, Tensor]
    about: Mapping[str, Any]

    def __post_init__(self) -> None:
        for site, weights in self.weights.items():
            if weights.ndim not in (1, 3) or not torch.isfinite(weights).all() or not weights.any():
                shape = tuple(weights.shape)
                raise FacetError(f"the probe of {self.name} at {site} is no finite [units] or map: {shape}")

    def __call__(self, objective: Objective, strength: float = 1.0, *, rectified: bool = True) -> Faceted:
        """The objective in this theme; see `Faceted`."""
        return Faceted(objective, self, strength, rectified)

    @property
    def accuracy(self) -> dict[str, float]:
        return dict(self.about.get("accuracy", {}))

    def save(self, path: str | Path) -> Path:
        """Write an .npz, atomically; makes its folder."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        arrays = {site: weights.numpy().astype(np.float16) for site, weights in self.weights.items()}
        about = json.dumps({"name": self.name, **self.about}, sort_keys=True)
        write_npz(target, **{_ABOUT: np.array(about)}, **arrays)
        return target

    @classmethod
    def load(cls, path: str | Path) -> Facet:
        """What `save` wrote; FacetError where it is missing or holds no facet."""
        try:
            arrays = dict(read_npz(path))
            about = json.loads(str(arrays.pop(_ABOUT)))
            weights = {site: torch.from_numpy(np.array(a, dtype=np.float32)) for site, a in arrays.items()}
            return cls(about.pop("name"), weights, about)
        except (AtlasError, KeyError, json.JSONDecodeError) as error:
            raise FacetError(f"{path} is no facet: {error}") from error


@dataclass(frozen=True, eq=False)
class Probe:
    """The weights of a facet at one site, [units] or [units, rows, columns]; prefix and grid, the tokens
    before the patches and the patches' (rows, columns), come from `bind`."""

    weights: Tensor
    prefix: int = 0
    grid: tuple[int, int] | None = None

    def bind(self, site: Site, device: torch.device) -> Probe:
        """The probe of this site; FacetError where it does not fit."""
        if len(self.weights) != site.units or (self.weights.ndim == 3 and site.grid is None):
            given = " x ".join(map(str, self.weights.shape))
            raise FacetError(f"a probe of {given} does not fit {site.name} with {site.units} units")
        return Probe(self.weights.to(device), site.prefix_tokens, site.grid)

    def weighed(self, activation: Tensor) -> Tensor:
        """[rows]: the sum over units and places of the weights times an activation map."""
        values = units_last(activation)
        if activation.ndim == 2:
            return (values * self.weights).sum(1)
        if activation.ndim == 3:
            values = values[:, self.prefix :]
        weights = self.weights
        if weights.ndim == 3:
            grid = self.grid if activation.ndim == 3 and self.grid else activation.shape[-2:]
            weights = F.interpolate(weights[None], size=grid, mode="bilinear", align_corners=False)[0]
            weights = weights.permute(1, 2, 0).reshape(values.shape[1:])
        return (values * weights).flatten(1).sum(1)


class Faceted(Objective):
    """An objective f in a theme: f + strength * mean over sites of sum(w * a * relu(df/da)).

    a: the activations of an earlier site; df/da, their gradient, is a constant here, so ascent climbs f and
    the theme, and not what would make f steeper. a * df/da is the part of f that each activation accounts for
    (its attribution), w the weights of the theme's probe: without the gradient, w * a alone would draw the
    theme whatever the unit (the article: "much worse"). rectified: the relu is in the article's code and not
    in its formula; it leaves out what f would rather have less of.

    Deviations: weights are scaled to a mean square of 1, and sites are averaged, where the code adds five
    sites with the weights as trained; CLS tokens have no weight. Sites that do not come before f are left
    out; where none is left, binding raises FacetError.
    """

    def __init__(self, base: Objective, facet: Facet, strength: float = 1.0, rectified: bool = True) -> None:
        self.base, self.theme, self.rectified = base, facet, rectified
        self.strength = torch.tensor([float(strength)])
        self.probes = {site: Probe(weights) for site, weights in facet.weights.items()}
        self.facet = facet.name
        self._describe()

    def _describe(self) -> None:
        self.is_steady = self.base.is_steady
        self.sites = tuple(dict.fromkeys((*self.base.sites, *self.probes)))
        self.groups = self.base.groups
        self.name = self.base.name
        share = f"{self.strength[0]:g} * {self.facet}{'' if self.rectified else ' (not rectified)'}"
        self.formula = f"{self.base.formula} + {share}"

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        rows = rows_of(acts)
        values = self.base(rows)
        gradients = rows.gradients(values, list(self.probes))
        theme = [
            probe.weighed(rows[site] * (gradient.clamp_min(0) if self.rectified else gradient))
            for (site, probe), gradient in zip(self.probes.items(), gradients, strict=True)
        ]
        return values + self.strength * torch.stack(theme).mean(0)

    def bind(self, model: Model) -> Objective:
        changed = copy.copy(self)
        changed.base = self.base.bind(model)
        read = [locate_site(model, site).order for site in changed.base.sites if site != PICTURE]
        # A number, or a penalty on the picture, has no site that another could come before.
        earlier = [site for site in self.probes if read and locate_site(model, site).order < max(read)]
        if not earlier:
            raise FacetError(
                f"the facet {self.facet} has no site before {changed.base.name}: its sites are "
                f"{', '.join(self.probes)}; train one at earlier sites (neurolab facet train --site)"
            )
        sites = [find_site(model, site) for site in earlier]
        changed.probes = {
            site.name: self.probes[given].bind(site, model.device)
            for given, site in zip(earlier, sites, strict=True)
        }
        changed.strength = self.strength.to(model.device)
        changed._describe()
        return changed

    def signature(self) -> Hashable:
        return Faceted, self.base.signature(), id(self.theme), self.rectified

    def stack(self, members: Sequence[Any]) -> Objective:
        changed = copy.copy(self)
        changed.base = self.base.stack([member.base for member in members])
        changed.strength = torch.cat([member.strength for member in members])
        return changed


def shipped_facets() -> list[str]:
    """The names of the facets that ship, all for the pocket."""
    return sorted(path.stem for path in shipped(FACETS).glob("*.npz"))


def find_facet(facet: str | Path | Facet, model: Model) -> Facet:
    """A facet as it is, one that ships by its name, or one in a file, for this model.

    FacetError for an unknown name, and for one that was trained on other weights.
    """
    if isinstance(facet, Facet):
        found = facet
    elif str(facet).endswith(".npz"):
        found = Facet.load(facet)
    elif facet in shipped_facets():
        found = Facet.load(shipped(f"{FACETS}/{facet}.npz"))
    else:
        known = ", ".join(shipped_facets())
        raise FacetError(f"no facet is called {facet!r}: choose {known}, or a file that ends in .npz")
    if found.about.get("weights_hash", model.weights_hash) != model.weights_hash:
        trained = f"{found.about.get('model')} with other weights"
        raise FacetError(
            f"the facet {found.name} was trained on {trained}, not on {model.name}: train one with "
            f"`neurolab facet train {found.name} --model ...`"
        )
    return found
