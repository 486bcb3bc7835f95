"""All summaries of a site together, and what the atlas gets of them."""

from __future__ import annotations

import numpy as np
import pytest

from neurolab.atlas.reductions import Reduced
from neurolab.mining.remembered import Kept, SiteSummaries
from neurolab.mining.summaries import draw_hashes


@pytest.mark.parametrize("middle", [-50.0, 0.0, 50.0])
def test_edges_rise_whatever_fell_outside(middle: float) -> None:
    """Of infinities and NaN, too, which are no ends of a bin, on either side of zero."""
    column = np.array([-np.inf, np.inf, np.nan, -200, 200, middle], np.float32)
    values = np.stack([column[[*range(6)] if unit < 0 else [unit, 5] * 3] for unit in range(-1, 6)], axis=1)
    edges = np.tile(np.linspace(middle - 1, middle + 1, 5), (values.shape[1], 1))
    summaries = SiteSummaries.empty(values.shape[1], Kept(k=2, bins=4), edges)
    keys = draw_hashes([str(row) for row in range(len(values))])
    summaries.update(Reduced(values, np.zeros(values.shape, np.int32)), np.arange(len(values)), keys)
    found = summaries.statistics()
    assert (np.diff(found["edges"], axis=1) >= 0).all() and np.isfinite(found["edges"]).all()
    assert np.array_equal(found["edges"][:, 1:-1], edges)
    assert np.array_equal(found["histogram"].sum(axis=1), found["count"])
    assert found["histogram"][:, [0, -1]].tolist() == [
        [int((unit < middle - 1).sum()), int((unit > middle + 1).sum())] for unit in values.T
    ]
