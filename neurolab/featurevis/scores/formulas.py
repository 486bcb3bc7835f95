"""The scores as functions of numbers. None: the score says nothing here, and the picture goes without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurolab.atlas.embeddings import unit_norm

LEAST_LIKENESS = 0.05  # of exemplars among themselves above random images; below, nothing can be compared


def over_natural_max(activation: float, mean: float, high: float) -> float | None:
    """(activation - natural mean) / (natural maximum - natural mean): 1 is as strong as the strongest image.

    Not the plain ratio to the maximum: units are read before their ReLU, where the maximum may be negative
    or near zero, and a picture that excites less would then have the larger ratio. Where the activation is a
    mean over random views, 1 is a high bar: the pocket's strongest images themselves come to 0.6 then. None
    for a unit that never varies.
    """
    return (activation - mean) / (high - mean) if high > mean else None


def share_beaten(value: float, others: ArrayLike) -> float | None:
    """The share of the others that lie below the value, half of its equals among them; None without others.

    0.5 for a value drawn as the others are, 1 for the largest.
    """
    compared = np.asarray(others, np.float64)
    compared = compared[np.isfinite(compared)]
    if not compared.size or not np.isfinite(value):
        return None
    return float(np.mean(compared < value) + np.mean(compared == value) / 2)


def selectivity(activations: ArrayLike, unit: int, mean: ArrayLike, sd: ArrayLike) -> float | None:
    """The share of its site's other units that a unit beats, by how unusual the picture is for each.

    activations, mean, sd: [units]; each unit's z = (activation - mean) / sd is over its own natural mean and
    standard deviation, for units differ in scale. 1: the picture excites this unit more unusually than any
    other; chance 0.5. Units that never vary are left out.
    """
    spread = np.asarray(sd, np.float64)
    varies = np.isfinite(spread) & (spread > 0)
    z = (np.asarray(activations, np.float64) - np.asarray(mean, np.float64)) / np.where(varies, spread, 1)
    z = np.where(varies, z, np.nan)
    return share_beaten(float(z[unit]), np.delete(z, unit))


def from_center(embeddings: ArrayLike, center: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit-norm embeddings [..., D] minus their mean over images, at unit norm again.

    CLIP's embeddings lie in a narrow cone (Liang et al., "Mind the Gap", 2022): any two images have a large
    part in common, which says nothing of either. Without it a cosine is about what sets them apart.
    """
    return unit_norm(unit_norm(np.asarray(embeddings)) - center)


def transfer(
    picture: NDArray[np.float32], own: NDArray[np.float32], others: NDArray[np.float32]
) -> float | None:
    """The share of other units whose exemplars are less like the picture than the unit's own are.

    picture, own: [D], others: [units, D]; centred embeddings, of the picture and of each unit's mean
    exemplar; zeros where a unit has none, which is left out. After MACO's transferability (Fel et al. 2023),
    which takes the class score on other networks; units have no class, but they have exemplars.

    Any picture comes to 0.5 over all units of a site, but not over some: by the pocket's own embedding, white
    noise comes to 0.7 with its most selective units, which like textures. Compare methods on the same units,
    and with noise.
    """
    if not own.any():
        return None
    known = others[others.any(axis=1)]
    # Units with the same exemplars are equals, whichever way their sums are rounded.
    alike = np.round(np.vstack([own, known]).astype(np.float64) @ picture.astype(np.float64), 9)
    return share_beaten(float(alike[0]), alike[1:])


@dataclass(frozen=True)
class AtSite:
    """What a site gives for a picture [units], for exemplars [n, units] and for random images [m, units]."""

    picture: NDArray[np.float32]
    exemplars: NDArray[np.float32]
    random: NDArray[np.float32]

    def likenesses(self) -> tuple[float, float, float]:
        """Mean cosine to the exemplars: of the picture, of the other exemplars, of random images.

        Each unit is standardized by its mean and standard deviation over the random images.
        """
        sd = self.random.std(axis=0)
        shift, scale = self.random.mean(axis=0), np.where(sd > 0, sd, np.inf)
        parts = (self.picture[None], self.exemplars, self.random)
        picture, exemplars, random = (unit_norm((part - shift) / scale) for part in parts)
        count = len(exemplars)
        among = ((exemplars @ exemplars.T).sum() - count) / (count * (count - 1))
        return float((picture @ exemplars.T).mean()), float(among), float((random @ exemplars.T).mean())


def path_similarity(sites: Sequence[AtSite]) -> float | None:
    """How like natural exemplars a picture is on its way to the unit: 1 as like as they are to each other, 0
    as like as random images are to them; it may be less or more.

    (s - b) / (a - b), with the mean over sites of the cosine with the exemplars of the picture (s), of the
    other exemplars (a) and of random images (b). After Geirhos et al., "Don't trust your eyes" (ICML 2024),
    who found that visualizations take other paths through a network than natural images; the details are
    neurolab's own. Activations are means over places, for motifs stand elsewhere in each picture. Units are
    standardized, for else a few that are large for every image decide. Sites are averaged first, for one
    where exemplars are no more alike than any images would divide by zero. None where that holds of all sites
    together (a - b < 0.05), and with fewer than two exemplars or no random images.

    0 is for random images. White noise comes to 0.3 with the pocket's units, and to 0.5 with its most
    selective ones, which like textures.
    """
    if not sites or any(len(site.exemplars) < 2 or not len(site.random) for site in sites):
        return None
    picture, among, chance = np.mean([site.likenesses() for site in sites], axis=0)
    return float((picture - chance) / (among - chance)) if among - chance >= LEAST_LIKENESS else None


def seed_diversity(embeddings: NDArray[np.float32]) -> float | None:
    """1 - the mean cosine of each two of [n, D] centred embeddings; None of fewer than two.

    0: the seeds all give the same; about 1: they have no more in common than any images.
    """
    count = len(embeddings)
    if count < 2:
        return None
    total = (embeddings @ embeddings.T).sum() - (embeddings**2).sum()
    return float(1 - total / (count * (count - 1)))
