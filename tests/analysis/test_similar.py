"""Like units: overlaps against their definitions and against chance, cosines against NumPy."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neurolab
from neurolab.analysis.hits import Hit
from neurolab.analysis.similar import rank_overlap, set_overlap, shared_images, similar_units
from neurolab.atlas import Atlas
from neurolab.atlas.writing import write_npz
from neurolab.errors import AtlasError, UnknownSiteError
from neurolab.models.zoo import Model
from tests.atlas.making import MAP_SITE, TOKEN_SITE, finish, make_atlas, make_items, open_writer
from tests.conftest import make_clip


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return make_atlas(tmp_path_factory.mktemp("similar") / "atlas")


def overlap_by_definition(one: list[int], other: list[int], p: float) -> float:
    """Rank-biased overlap of `one` with `other` to the depth of `one`, extrapolated; a sum over depths."""
    agreement = [len(set(one[:d]) & set(other[:d])) / d for d in range(1, len(one) + 1)]
    body = sum((1 - p) * p ** (d - 1) * a for d, a in enumerate(agreement, start=1))
    return body + p ** len(one) * agreement[-1]


lists = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        *[st.permutations(range(n)).flatmap(lambda p: st.integers(1, n).map(lambda k: p[:k]))] * 2
    )
)


@given(lists, st.floats(0.1, 0.99))
@settings(max_examples=200, deadline=None)
def test_rank_overlap_is_its_definition_beyond_chance(pair: tuple[list[int], list[int]], p: float) -> None:
    one, other = pair
    among, k = 13, len(one)
    chance = sum((1 - p) * p ** (d - 1) * d / among for d in range(1, k + 1)) + p**k * k / among
    padded = np.array([[*other, -1, -1]])
    (found,) = rank_overlap(padded, np.array(one), among, p)
    assert found == pytest.approx((overlap_by_definition(one, other, p) - chance) / (1 - chance), abs=1e-9)
    both = set(one) & set(other)
    assert shared_images(padded, np.array(one), among)[0] == len(both)
    expected = len(one) * len(other) / among
    expected /= len(one) + len(other) - expected
    jaccard = len(both) / len({*one, *other})
    (sets,) = set_overlap(padded, np.array(one), among)
    assert sets == pytest.approx((jaccard - expected) / (1 - expected), abs=1e-9)


def test_random_lists_agree_in_nothing_on_average() -> None:
    """Over all lists of 3 among 6 images the mean is 0; for the overlap as it is, it is not."""
    every = np.array(list(permutations(range(6), 3)))
    for p in (0.3, 0.9, 0.99):
        found = rank_overlap(every, np.array([4, 0, 2]), 6, p)
        assert found.mean() == pytest.approx(0, abs=1e-12)
        assert np.mean([overlap_by_definition([4, 0, 2], list(row), p) for row in every]) > 0.2
        assert found.max() == pytest.approx(1) and np.sum(found > 0.999) == 1


def test_the_first_ranks_count_most() -> None:
    of = np.arange(10)
    first, last = np.full((2, 10), -1)
    first[:3], last[7:] = [0, 1, 2], [7, 8, 9]
    for p, times in ((0.7, 5), (0.9, 1.5), (0.99, 1.1)):
        at_the_top, at_the_end = rank_overlap(np.stack([first, last]), of, 1000, p)
        assert at_the_top > times * at_the_end > 0
    assert np.ptp(set_overlap(np.stack([first, last]), of, 1000)) == 0


def by_brute_force(atlas: Atlas, unit: str, sites: list[str]) -> list[tuple[str, float, int]]:
    shown = {
        f"{site}/{i}": [e.image for e in atlas.unit(f"{site}/{i}").exemplars]
        for site in sites
        for i in range(atlas.site(site).units)
    }
    own = [e.image for e in atlas.unit(unit).exemplars]
    p, k = 0.99, len(own)
    chance = (1 - p**k) / (1 - p) / len(atlas)
    found = [
        (name, (overlap_by_definition(own, images, p) - chance) / (1 - chance), len(set(own) & set(images)))
        for name, images in shown.items()
        if name != unit
    ]
    return sorted(found, key=lambda row: -row[1])


@pytest.mark.parametrize("unit", [f"{MAP_SITE.name}/0", f"{MAP_SITE.name}/3", f"{TOKEN_SITE.name}/1"])
def test_units_with_the_same_exemplars(atlas: Atlas, unit: str) -> None:
    expected = by_brute_force(atlas, unit, atlas.sites)
    hits = similar_units(atlas, unit)
    assert [(hit.unit, hit.shared) for hit in hits] == [(name, shared) for name, _, shared in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score, _ in expected], atol=1e-12)
    assert similar_units(atlas, unit, top=2) == hits[:2]
    of_one = similar_units(atlas, unit, site="layer4.2")
    assert of_one == [hit for hit in hits if hit.unit.startswith(MAP_SITE.name)]
    sets = {hit.unit: hit for hit in similar_units(atlas, unit, by="sets")}
    assert {name: hit.shared for name, hit in sets.items()} == {hit.unit: hit.shared for hit in hits}


def cosines(vectors: dict[str, np.ndarray], unit: str) -> list[tuple[str, float]]:
    rows = {f"{site}/{i}": row.astype(np.float64) for site, v in vectors.items() for i, row in enumerate(v)}
    own = rows.pop(unit)
    found = [(name, row @ own / np.linalg.norm(row) / np.linalg.norm(own)) for name, row in rows.items()]
    return sorted(found, key=lambda pair: -pair[1])


def assert_hits(hits: list[Hit], expected: list[tuple[str, float]]) -> None:
    assert [hit.unit for hit in hits] == [name for name, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-5)


def test_units_whose_exemplars_look_alike(atlas: Atlas) -> None:
    vectors = {site: atlas.embeddings(site) for site in atlas.sites}
    unit = f"{TOKEN_SITE.name}/2"
    assert_hits(similar_units(atlas, unit, by="embedding"), cosines(vectors, unit))
    only = [pair for pair in cosines(vectors, unit) if pair[0].startswith(MAP_SITE.name)]
    assert_hits(similar_units(atlas, unit, by="embedding", site=MAP_SITE.name), only)


def with_projections(atlas: Atlas, activations: np.ndarray, count: int = 4096) -> Atlas:
    """The atlas with the co-activation of its units, whose activations [images, units] these are."""
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (len(activations), count))
    projected = (activations - activations.mean(0)).T @ signs
    length = np.linalg.norm(projected, axis=1, keepdims=True)
    projected = (projected / np.where(length > 0, length, 1)).astype(np.float32)
    for site, rows in ((MAP_SITE, projected[:4]), (TOKEN_SITE, projected[4:])):
        folder = atlas.path / atlas.manifest["sites"][site.name]["folder"]
        write_npz(folder / "coactivation.npz", projection=rows)
    return Atlas.open(atlas.path)


def test_units_that_are_active_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    activations = rng.normal(size=(500, 7)) + rng.normal(size=(500, 1)) * rng.normal(size=7)
    activations[:, 2] = 3.0  # never varies
    atlas = with_projections(make_atlas(tmp_path / "atlas"), activations)
    hits = {hit.unit: hit.score for hit in similar_units(atlas, "layer4.2/1", by="coactivation")}
    with np.errstate(invalid="ignore"):
        correlation = np.corrcoef(activations.T)[1]
    names = [f"{MAP_SITE.name}/{i}" for i in range(4)] + [f"{TOKEN_SITE.name}/{i}" for i in range(3)]
    expected = {name: correlation[i] for i, name in enumerate(names) if i not in (1, 2)}
    assert set(hits) == set(expected)
    assert all(abs(hits[name] - expected[name]) < 5 / np.sqrt(4096) for name in expected)
    with pytest.raises(AtlasError, match=r"nothing is known of .*/2"):
        similar_units(atlas, "layer4.2/2", by="coactivation")


def test_atlases_without_coactivation_say_so(atlas: Atlas) -> None:
    with pytest.raises(AtlasError, match="without co-activation; build it again with coactivation=512"):
        similar_units(atlas, "layer4.2/1", by="coactivation")


@pytest.fixture(scope="module")
def mined(tiny_clip: Model, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    out = tmp_path_factory.mktemp("similar") / "mined"
    sites = ["layer4.0.act1", "layer4.0"]
    return neurolab.mine(tiny_clip, image_folder, sites, out, k=5, workers=0, progress=False)


def test_units_that_the_same_weights_write(mined: Atlas, tiny_clip: Model) -> None:
    block = tiny_clip.module.visual.layer4[0]
    with torch.no_grad():
        scale = block.bn1.weight / (block.bn1.running_var + block.bn1.eps).sqrt()
        rows = (block.conv1.weight.flatten(1) * scale[:, None]).numpy()
    site = "visual.layer4.0.act1:in"
    hits = similar_units(mined, "layer4.0.act1/7", by="direction", model=tiny_clip, top=100)
    assert_hits(hits, cosines({site: rows}, f"{site}/7"))
    assert len(hits) == 63


def test_directions_that_there_are_not(mined: Atlas, tiny_clip: Model) -> None:
    with pytest.raises(AtlasError, match="give the model, too"):
        similar_units(mined, "layer4.0.act1/7", by="direction")
    with pytest.raises(AtlasError, match="load the model that the atlas was made of"):
        other = make_clip(seed=1, layers=[1, 1, 1, 1], width=8, image_size=64)
        similar_units(mined, "layer4.0.act1/7", by="direction", model=other)
    with pytest.raises(AtlasError, match="other layers read other inputs"):
        similar_units(mined, "layer4.0.act1/7", by="direction", model=tiny_clip, site="layer4.0")
    with pytest.raises(UnknownSiteError, match=r"no single layer writes visual\.layer4\.0\.act3:in"):
        similar_units(mined, "layer4.0/7", by="direction", model=tiny_clip)


def test_what_cannot_be_compared_says_so(atlas: Atlas, tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="choose one of exemplars, sets, embedding"):
        similar_units(atlas, "layer4.2/1", by="colour")
    with pytest.raises(UnknownSiteError):
        similar_units(atlas, "layer4.2/9")
    writer = open_writer(tmp_path / "five")
    writer.append_images(make_items(5))
    five = finish(writer, 5)
    with pytest.raises(AtlasError, match=r"all 5 images.*'exemplars'"):
        similar_units(five, "layer4.2/0", by="sets")
    assert [hit.shared for hit in similar_units(five, "layer4.2/0", site="layer4.2")] == [5, 5, 3]
