"""What a lower precision changes in what mining finds, and what it gains, measured on a source's images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas.reductions import reduction_of_image
from neurolab.data.items import Batch
from neurolab.mining.forward import Forward
from neurolab.models.sites import Site
from neurolab.models.zoo import Model

BEST = 0.1  # the share of the images that counts as a unit's strongest


@dataclass(frozen=True)
class PrecisionEffect:
    """A precision beside float32 on the same images.

    speed: of the network, times that of float32. error: by how much a unit's values are off (root mean
    square), in standard deviations of its values over the images; the median over units, and what 95 % of
    them do not exceed. same: of the tenth of the images that excites a unit most, the share that is the same,
    mean over units. Units that do not vary are left out. images: how many it was measured on.
    """

    precision: str
    images: int
    speed: float
    error: float
    error_95: float
    same: float

    @classmethod
    def of(
        cls, precision: str, speed: float, exact: NDArray[np.float32], values: NDArray[np.float32]
    ) -> PrecisionEffect:
        """From the values [images, units] in float32 and in the precision."""
        sd = exact.std(axis=0, dtype=np.float64)
        varies = sd > 0
        # A value that has left the range of the precision is as wrong as can be, not a number to average.
        off = values.astype(np.float64) - exact
        off[np.isnan(off)] = np.inf
        error = np.sqrt((off**2).mean(axis=0))[varies] / sd[varies]
        best = max(1, round(BEST * len(exact)))
        kept = (_strongest(exact, best) & _strongest(values, best)).sum(axis=0)[varies] / best
        if not varies.any():
            return cls(precision, len(exact), speed, 0.0, 0.0, 1.0)
        high = float(np.percentile(error, 95, method="higher"))
        return cls(precision, len(exact), speed, float(np.median(error)), high, float(kept.mean()))


def _strongest(values: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Which of the values [images, units] are the largest `count` of their unit; of equal ones, the first."""
    order = np.argsort(-values, axis=0, kind="stable")[:count]
    chosen = np.zeros(values.shape, bool)
    np.put_along_axis(chosen, order, True, axis=0)
    return chosen


def effect_of_precision(
    model: Model, sites: Sequence[Site], batches: Sequence[Batch], reduction: str, precision: str
) -> PrecisionEffect:
    """Compute the batches in float32 and in a precision, and compare, each after one pass that is not timed.

    Values are those of images: with the reduction `token`, of their largest tokens. ValueError where the
    batches hold no images.
    """
    batches = [batch for batch in batches if batch.items]
    if not batches:
        raise ValueError("precisions are compared on images, and there are none")
    seconds, values = [], []
    for each in ("float32", precision):
        took, found = [], []
        with Forward(model, sites, reduction_of_image(reduction), each) as forward:
            forward(batches[0])
            for batch in batches:
                began = time.perf_counter()
                reduced, _ = forward(batch)
                took.append(time.perf_counter() - began)
                found.append(np.concatenate([reduced[site.name].values for site in sites], axis=1))
        seconds.append(sum(took))
        values.append(np.concatenate(found))
    return PrecisionEffect.of(precision, seconds[0] / seconds[1], *values)
