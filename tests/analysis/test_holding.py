"""The units that hold an image among their exemplars, against every unit's page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurolab.analysis.holding import units_of_image
from neurolab.atlas import Atlas
from neurolab.errors import AtlasError
from neurolab.models.zoo import Model
from tests.analysis.test_search import SITES, build
from tests.atlas.making import percentile_by_interp


@pytest.fixture(scope="module")
def atlas(tiny_clip: Model, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return build(tiny_clip, image_folder, tmp_path_factory.mktemp("holding") / "atlas", SITES)


@pytest.mark.parametrize("site", [None, "layer3.0", ["layer4.0"]])
def test_the_units_of_an_image_of_the_atlas(atlas: Atlas, site: str | list[str] | None) -> None:
    """Against every unit's page, without the model."""
    sites = [atlas.site_name(name) for name in ([site] if isinstance(site, str) else site or SITES)]
    expected: dict[int, list[tuple[str, float, float, float, int]]] = {i: [] for i in range(len(atlas))}
    for name in (f"{full}/{index}" for full in sites for index in range(atlas.site(full).units)):
        unit = atlas.unit(name)
        for rank, exemplar in enumerate(unit.exemplars, start=1):
            value, distribution = exemplar.value, (unit.histogram, unit.edges, unit.min, unit.max)
            percentile = percentile_by_interp(value, *distribution)
            row = (name, (value - unit.mean) / unit.sd, value, percentile, rank)
            expected[exemplar.image].append(row)
    for image, rows in expected.items():
        rows.sort(key=lambda row: -row[1])
        hits = units_of_image(atlas, image, site, top=10_000)
        found = [(hit.unit, hit.score, hit.value, hit.percentile, hit.rank) for hit in hits]
        assert [row[0] for row in found] == [row[0] for row in rows]
        numbers = [row[1:] for row in rows]
        np.testing.assert_allclose([row[1:] for row in found], numbers, rtol=1e-9, atol=1e-9)
        assert units_of_image(atlas, atlas.image(image).key, site, top=3) == hits[:3]


def test_images_that_the_atlas_does_not_have(atlas: Atlas) -> None:
    with pytest.raises(AtlasError, match="images 0 to 23, not"):
        units_of_image(atlas, 24)
    with pytest.raises(AtlasError, match=r"no image of .* has the key '3'"):
        units_of_image(atlas, "3")
    assert atlas.find_image("3") == 3 and atlas.find_image(atlas.image(5).key) == 5
    for name in ("24", "-1", "²", "even/nothing.png"):
        with pytest.raises(AtlasError, match="no image"):
            atlas.find_image(name)
