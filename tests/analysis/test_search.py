"""Searches over the units of a small atlas, against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import neurolab
from neurolab.analysis.search import common_texts, units_excited_by, units_like_text
from neurolab.atlas import Atlas
from neurolab.errors import AtlasError, MissingTextTowerError, UnknownSiteError
from neurolab.models.zoo import Model
from tests.conftest import make_clip

SITES = ["layer3.0", "layer4.0"]


def build(model: Model, folder: Path, out: Path, sites: list[str], reduction: str = "max") -> Atlas:
    return neurolab.mine(
        model, folder, sites, out, k=5, batch_size=8, workers=0, reduction=reduction, progress=False
    )


@pytest.fixture(scope="module")
def atlas(tiny_clip: Model, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return build(tiny_clip, image_folder, tmp_path_factory.mktemp("search") / "atlas", SITES)


def some_image() -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((90, 70), Image.Resampling.BICUBIC)


def test_text_finds_the_units_with_the_nearest_embedding(atlas: Atlas, tiny_clip: Model) -> None:
    common = tiny_clip.encode_text(common_texts()).numpy().mean(axis=0)
    text = tiny_clip.encode_text("a zebra")[0].numpy() - common
    text /= np.linalg.norm(text)
    expected = []
    for name in atlas.sites:
        embedding = atlas.site(name).embedding
        assert embedding is not None
        cosine = embedding.astype(np.float64) @ text
        expected += [(f"{name}/{unit}", value) for unit, value in enumerate(cosine)]
    expected.sort(key=lambda pair: -pair[1])
    hits = units_like_text(atlas, tiny_clip, "a zebra", top=30)
    assert [hit.unit for hit in hits] == [unit for unit, _ in expected[:30]]
    np.testing.assert_allclose([hit.score for hit in hits], [value for _, value in expected[:30]], atol=1e-5)
    assert all(-1 <= hit.score <= 1 and hit.value is None for hit in hits)
    assert {hit.unit.split("/")[0] for hit in hits} == set(atlas.sites)


def test_different_texts_find_different_units(atlas: Atlas, tiny_clip: Model) -> None:
    """Without the mean of common texts the cone of the texts would bring the same units up each time."""
    texts = ["a zebra", "the word Friday", "two dogs on a beach"]
    found = [{hit.unit for hit in units_like_text(atlas, tiny_clip, text)} for text in texts]
    assert len(found[0] & found[1] & found[2]) < 12


def test_a_search_may_be_of_one_site(atlas: Atlas, tiny_clip: Model) -> None:
    hits = units_like_text(atlas, tiny_clip, "a zebra", site="layer4.0", top=10_000)
    assert len(hits) == 256 and all(hit.unit.startswith("visual.layer4.0.act3:in/") for hit in hits)
    with pytest.raises(UnknownSiteError):
        units_like_text(atlas, tiny_clip, "a zebra", site="layer2.0")
    assert units_like_text(atlas, tiny_clip, "a zebra", top=0) == []


def test_an_image_finds_the_units_that_it_excites_beyond_their_usual(atlas: Atlas, tiny_clip: Model) -> None:
    image = some_image()
    expected = []
    with torch.inference_mode(), neurolab.capture(tiny_clip, SITES) as acts:
        tiny_clip.encode_image(tiny_clip.preprocess(image)[None])
    for name in SITES:
        site = atlas.site(name)
        values = acts[name][0].flatten(1).max(dim=1).values.numpy().astype(np.float64)
        expected += [
            (f"{site.name}/{unit}", (values[unit] - site.mean[unit]) / site.sd[unit], values[unit])
            for unit in range(site.units)
        ]
    expected.sort(key=lambda row: -row[1])
    hits = units_excited_by(atlas, tiny_clip, image, top=40)
    assert [hit.unit for hit in hits] == [unit for unit, _, _ in expected[:40]]
    np.testing.assert_allclose([hit.score for hit in hits], [z for _, z, _ in expected[:40]], rtol=1e-5)
    np.testing.assert_allclose([hit.value for hit in hits], [v for _, _, v in expected[:40]], rtol=1e-5)


def test_an_image_of_the_atlas_excites_the_units_whose_exemplar_it_is(
    atlas: Atlas, tiny_clip: Model, image_folder: Path
) -> None:
    site = atlas.site("layer4.0")
    with Image.open(image_folder / atlas.image(3).key) as image:
        hits = units_excited_by(atlas, tiny_clip, image, site="layer4.0", top=10_000)
    by_unit = {hit.unit: hit for hit in hits}
    first_of = np.flatnonzero(site.images[:, 0] == 3)
    assert len(first_of)
    for unit in first_of:
        assert by_unit[site.unit_name(unit)].value == pytest.approx(site.values[unit, 0], rel=1e-4)


def test_the_percentile_is_the_share_of_images_that_excite_a_unit_less(
    atlas: Atlas, tiny_clip: Model, image_folder: Path
) -> None:
    """For an image of the atlas, by counting: the histogram is exact but for the images of one bin."""
    values = []
    with torch.inference_mode(), neurolab.capture(tiny_clip, ["layer4.0"]) as acts:
        for row in atlas.images(range(len(atlas))):
            with Image.open(image_folder / row.key) as image:
                tiny_clip.encode_image(tiny_clip.preprocess(image)[None])
            values.append(acts["layer4.0"][0].amax((1, 2)).numpy())
    with Image.open(image_folder / atlas.image(3).key) as image:
        hits = units_excited_by(atlas, tiny_clip, image, site="layer4.0", top=10_000)
    site = atlas.site("layer4.0")
    true = 100 * (np.stack(values) < values[3]).mean(axis=0)
    for hit in hits:
        unit = int(hit.unit.rpartition("/")[2])
        assert hit.percentile is not None and hit.rank is None
        assert abs(hit.percentile - true[unit]) <= 100 * site.histogram[unit].max() / len(atlas) + 1e-3
        if site.images[unit, 0] == 3:
            assert hit.percentile > 95


@pytest.mark.parametrize("reduction", ["mean", "cls", "center"])
def test_an_image_is_reduced_as_the_atlas_was(
    tiny_vit: Model, image_folder: Path, tmp_path: Path, reduction: str
) -> None:
    found = build(tiny_vit, image_folder, tmp_path / "atlas", ["block1", "block2"], reduction)
    image = some_image()
    with torch.inference_mode(), neurolab.capture(tiny_vit, ["block1"]) as acts:
        tiny_vit.encode_image(tiny_vit.preprocess(image)[None])
    tokens = acts["block1"][0].numpy()
    values = {"mean": tokens[1:].mean(axis=0), "cls": tokens[0], "center": tokens[1 + 2 * 4 + 2]}[reduction]
    for hit in units_excited_by(found, tiny_vit, image, site="block1", top=100):
        unit = int(hit.unit.rpartition("/")[2])
        assert hit.value == pytest.approx(values[unit], rel=1e-4, abs=1e-5)


def test_units_that_never_vary_are_no_hits(tmp_path: Path) -> None:
    """Three equal images: no unit varies, and nothing is divided by zero."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (90, 20, 60)).save(folder / f"{number}.png")
    model = make_clip(layers=[1, 1, 1, 1], width=8, image_size=64)
    found = build(model, folder, tmp_path / "atlas", ["layer4.0"])
    with np.errstate(all="raise"):
        hits = units_excited_by(found, model, some_image(), top=10_000)
    assert len(hits) == np.count_nonzero(found.site("layer4.0").sd > 0)
    assert all(np.isfinite(hit.score) for hit in hits)


def test_another_model_is_refused(atlas: Atlas) -> None:
    other = make_clip(seed=1, layers=[1, 1, 1, 1], width=8, image_size=64)
    with pytest.raises(AtlasError, match="load the model that the atlas was made of"):
        units_like_text(atlas, other, "a zebra")
    with pytest.raises(AtlasError, match="load the model"):
        units_excited_by(atlas, other, some_image())


def test_a_model_without_text_says_so(atlas: Atlas, tiny_clip: Model) -> None:
    blind = Model(tiny_clip.module, "blind", tiny_clip.image_size, tiny_clip.mean, tiny_clip.std)
    with pytest.raises(MissingTextTowerError, match="blind"):
        units_like_text(atlas, blind, "a zebra")
    assert units_excited_by(atlas, blind, some_image(), top=3)


def test_an_atlas_without_embeddings_says_so(image_folder: Path, tmp_path: Path, tiny_clip: Model) -> None:
    class Blind(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = tiny_clip.module.visual

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.visual(images)

    model = neurolab.wrap_model(Blind(), image_size=64)
    model.tokenizer = tiny_clip.tokenizer
    model.module.encode_text = tiny_clip.module.encode_text
    found = build(model, image_folder, tmp_path / "atlas", [neurolab.list_sites(model)[-1].name])
    with pytest.raises(AtlasError, match="no embeddings"):
        units_like_text(found, model, "a zebra")
