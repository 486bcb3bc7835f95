"""Scores on a small mined atlas, against raw activations and with natural images for pictures."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import neurolab
from neurolab.atlas import Atlas
from neurolab.atlas.pictures import PictureRow
from neurolab.errors import AtlasError, UnknownSiteError
from neurolab.featurevis.methods import METHODS
from neurolab.featurevis.picture import Picture
from neurolab.featurevis.scores import HELD_OUT, score, score_atlas
from neurolab.featurevis.scores.heldout import Flip, Shear
from neurolab.featurevis.scores.natural import earlier_sites
from neurolab.featurevis.seeds import generator
from neurolab.featurevis.transforms import (
    TRANSFORMS,
    AnyTransform,
    Frame,
    NormalWindow,
    Transform,
    Window,
    find_transforms,
)
from neurolab.featurevis.views import Views
from neurolab.models.zoo import Model, wrap_model
from tests.conftest import make_clip
from tests.featurevis.test_transforms import SURE, N, assert_uniform, draws

SITE = "visual.layer4.0.act3:in"
AS_MINED = (Window(1, 1),)  # the view that the miner had


@pytest.fixture(scope="module")
def atlas(tiny_clip: Model, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    out = tmp_path_factory.mktemp("scored") / "atlas"
    sites = ["layer4.0", "layer2.0"]
    return neurolab.mine(tiny_clip, image_folder, sites, out, k=12, bins=16, workers=0, progress=False)


@pytest.fixture
def copied(atlas: Atlas, tmp_path: Path) -> Atlas:
    shutil.copytree(atlas.path, tmp_path / "atlas")
    return Atlas.open(tmp_path / "atlas")


@pytest.fixture(scope="module")
def images(atlas: Atlas, image_folder: Path) -> list[Image.Image]:
    return [Image.open(image_folder / atlas.image(i).key).convert("RGB") for i in range(len(atlas))]


def raw(model: Model, images: list[Image.Image]) -> np.ndarray:
    """Activations [images, units] of the site, reduced as the atlas's: max over places."""
    with neurolab.capture(model, [SITE]) as acts, torch.inference_mode():
        model.encode_image(torch.stack([model.preprocess(image) for image in images]))
    return acts[SITE].amax((2, 3)).double().numpy()


def as_picture(image: Image.Image, unit: int, **about: object) -> Picture:
    return Picture(f"layer4.0/{unit}", np.asarray(image), **about)  # type: ignore[arg-type]


def noise(seed: int, unit: int, **about: object) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return as_picture(Image.fromarray(pixels), unit, seed=seed, **about)


def scored(model: Model, pictures: list[Picture], atlas: Atlas, **settings: object) -> list[dict[str, float]]:
    return score(model, pictures, atlas, **{"progress": False} | settings)  # type: ignore[arg-type]


def column(found: list[dict[str, float]], name: str) -> np.ndarray:
    return np.array([scores[name] for scores in found])


def test_in_the_miners_view_scores_are_those_of_the_raw_activations(
    tiny_clip: Model, atlas: Atlas, images: list[Image.Image]
) -> None:
    activations = raw(tiny_clip, images)
    pairs = [(i, unit) for i in range(0, 24, 3) for unit in (0, 7, 200)]
    pictures = [as_picture(images[i], unit) for i, unit in pairs]
    found = scored(tiny_clip, pictures, atlas, transforms=AS_MINED, draws=1)
    z = (activations - activations.mean(0)) / activations.std(0)
    for (i, unit), scores in zip(pairs, found, strict=True):
        value, of_unit = activations[i, unit], activations[:, unit]
        bins = np.histogram_bin_edges(of_unit, 16)
        inside = np.histogram(of_unit, bins)[0][min(np.searchsorted(bins, value, "right") - 1, 15)]
        assert scores["activation_percentile"] == pytest.approx(
            100 * np.mean(of_unit < value), abs=100 * inside / 24 + 0.1
        )
        strength = (value - of_unit.mean()) / (of_unit.max() - of_unit.mean())
        assert scores["over_natural_max"] == pytest.approx(strength, abs=1e-3)
        assert scores["selectivity"] == pytest.approx(np.mean(np.delete(z[i], unit) < z[i, unit]), abs=0.01)
    best = as_picture(images[int(activations[:, 7].argmax())], 7)
    (scores,) = scored(tiny_clip, [best], atlas, transforms=AS_MINED, draws=1)
    assert scores["activation_percentile"] == pytest.approx(100, abs=0.1)
    assert scores["over_natural_max"] == pytest.approx(1, abs=1e-4)


def test_scores_are_of_the_mean_over_the_views(
    tiny_clip: Model, atlas: Atlas, images: list[Image.Image]
) -> None:
    """With mirroring alone, the mean response is that of the two views, weighted in sixteenths."""
    seen = tiny_clip.preprocess(images[3])
    with neurolab.capture(tiny_clip, [SITE]) as acts, torch.inference_mode():
        tiny_clip.encode_image(torch.stack([seen, seen.flip(-1)]))
    plain, mirrored = acts[SITE].amax((2, 3))[:, 5].tolist()
    (found,) = scored(tiny_clip, [as_picture(images[3], 5)], atlas, transforms=(*AS_MINED, Flip()), draws=16)
    mean, high = float(atlas.site(SITE).mean[5]), float(atlas.site(SITE).max[5])
    value = found["over_natural_max"] * (high - mean) + mean
    share = (value - plain) / (mirrored - plain)
    assert share * 16 == pytest.approx(round(share * 16), abs=0.02) and 0 < share < 1


@pytest.fixture(scope="module")
def coloured(tiny_clip: Model, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """40 pictures of five colours, image i of colour i % 5: untrained networks tell them apart, too."""
    folder = tmp_path_factory.mktemp("coloured") / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    colours = ((220, 30, 30), (30, 200, 40), (40, 60, 230), (230, 220, 40), (128, 128, 128))
    for i in range(40):
        coarse = np.clip(colours[i % 5] + rng.integers(-40, 40, (4, 4, 3)), 0, 255).astype(np.uint8)
        image = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:02d}.png")
    return neurolab.mine(tiny_clip, folder, ["layer4.0"], folder.parent / "atlas", workers=0, progress=False)


def shown(atlas: Atlas, unit: int, place: int = 0) -> Picture:
    """An image that is no drawing: the unit's exemplar, or one of another colour, `place` further on."""
    image = (int(atlas.site(SITE).images[unit, 0]) + place) % 40
    return as_picture(Image.open(io.BytesIO(atlas.thumbnail(image))).convert("RGB"), unit)


def one_coloured(atlas: Atlas) -> list[int]:
    """Units whose first eight exemplars are those of one colour."""
    colours = atlas.site(SITE).images[:, :8] % 5
    return np.flatnonzero((colours == colours[:, :1]).all(1)).tolist()[::8]


def test_exemplars_transfer_and_take_the_path_of_exemplars(tiny_clip: Model, coloured: Atlas) -> None:
    units = one_coloured(coloured)
    assert len(units) > 8
    best = scored(tiny_clip, [shown(coloured, u) for u in units], coloured, draws=1)
    other = scored(tiny_clip, [shown(coloured, u, 1) for u in units], coloured, draws=1)
    assert column(best, "self_transfer").mean() > 0.8 > 0.6 > column(other, "self_transfer").mean()
    assert column(best, "path_similarity") == pytest.approx(1.05, abs=0.2)
    assert column(other, "path_similarity").max() < 0.6


def test_a_random_image_takes_no_path(tiny_clip: Model, coloured: Atlas) -> None:
    unit = one_coloured(coloured)[0]
    others = set(range(40)) - set(coloured.site(SITE).images[unit, :9].tolist())
    first = int(coloured.site(SITE).images[unit, 0])
    found = scored(tiny_clip, [shown(coloured, unit, i - first) for i in sorted(others)], coloured, draws=1)
    assert column(found, "path_similarity").mean() == pytest.approx(0, abs=0.02)


def test_what_is_nothing_in_particular_transfers_by_chance(tiny_clip: Model, coloured: Atlas) -> None:
    found = scored(tiny_clip, [noise(1, u) for u in range(0, 256, 3)], coloured, draws=1)
    assert column(found, "self_transfer").mean() == pytest.approx(0.5, abs=0.08)


def test_another_network_judges_the_transfer_and_sees_each_image_once(
    tiny_clip: Model, coloured: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, passes = make_clip(1, layers=[1, 1, 1, 1], width=8, image_size=64), []
    assert second.embedding_dim == 32
    encode = second.encode_image
    monkeypatch.setattr(second, "encode_image", lambda images: passes.append(len(images)) or encode(images))
    units = one_coloured(coloured)
    pictures = [shown(coloured, u) for u in units] + [shown(coloured, u, 1) for u in units]
    found = scored(tiny_clip, pictures, coloured, second=second, draws=1)
    assert all("self_transfer" not in scores for scores in found)
    values = column(found, "transfer")
    assert values[: len(units)].mean() > 0.8 and values[len(units) :].mean() < 0.5
    assert sum(passes) == len(coloured) + len(pictures)


def test_scores_depend_on_the_seed_and_on_no_other_picture(
    tiny_clip: Model, atlas: Atlas, images: list[Image.Image]
) -> None:
    pictures = [as_picture(images[i], i) for i in range(6)] + [Picture("layer2.0/3", np.asarray(images[0]))]
    together = scored(tiny_clip, pictures, atlas, draws=4)
    assert together == scored(tiny_clip, pictures, atlas, draws=4)
    for picture, scores in zip(pictures, together, strict=True):
        (alone,) = scored(tiny_clip, [picture], atlas, draws=4, batch_size=5)
        assert alone == pytest.approx(scores, rel=1e-3, abs=5e-3)  # a tie may fall to either side
    other = scored(tiny_clip, pictures, atlas, draws=4, seed=1)
    assert column(other, "over_natural_max").tolist() != column(together, "over_natural_max").tolist()
    assert set(together[0]) == {
        "activation_percentile", "over_natural_max", "selectivity", "self_transfer", "path_similarity",
    }  # fmt: skip
    assert scored(tiny_clip, [], atlas) == []


def test_seed_diversity_is_of_pictures_that_differ_in_the_seed_only(tiny_clip: Model, atlas: Atlas) -> None:
    one, two = noise(0, 3), noise(1, 3)
    same = Picture(one.name, one.image, seed=5)
    others = [noise(2, 3, kind="maco"), noise(3, 3, settings={"steps": 9}), noise(4, 4)]
    found = scored(tiny_clip, [one, two, same, *others], atlas, draws=1)
    values = [scores.get("seed_diversity") for scores in found]
    assert values[3:] == [None] * 3 and values[0] == values[1] == values[2]
    pair = scored(tiny_clip, [one, two], atlas, draws=1)[0]["seed_diversity"]
    assert values[0] == pytest.approx(2 / 3 * pair, abs=1e-4)  # of three pairs, one is of equal pictures
    assert scored(tiny_clip, [one, same], atlas, draws=1)[0]["seed_diversity"] == pytest.approx(0, abs=1e-5)


def changes_of_shape(transforms: Sequence[AnyTransform]) -> set[str]:
    """Which of mirroring and leaning the maps of these transforms do, by what they draw."""
    frame, found = Frame((64, 64), (64, 64)), set()
    for transform in transforms:
        if isinstance(transform, Transform):
            maps = transform.draw(500, frame, generator(0, "test"))[:, :2, :2]
            (a, b), (c, d) = maps.permute(1, 2, 0)
            if (a * d - b * c < 0).any():
                found.add("mirrors")
            # What turns and enlarges keeps right angles and the lengths of both sides alike.
            if (a * b + c * d).abs().max() > 1e-4:
                found.add("leans")
    return found


def test_no_method_draws_with_the_held_out_transforms() -> None:
    """Whatever they are called: pictures are scored under changes of shape that none has practised on."""
    frame = Frame((64, 64), (64, 64))
    assert changes_of_shape(HELD_OUT) == {"mirrors", "leans"}
    lists = [*TRANSFORMS, *(method.transforms for method in METHODS.values())]
    for practised in (find_transforms(name, frame) for name in lists):
        assert not changes_of_shape(practised), practised
        assert set(practised).isdisjoint(HELD_OUT)
    # Windows are larger than the crops that are practised on.
    (window,) = (t for t in HELD_OUT if isinstance(t, Window))
    assert stats.norm.sf(window.low, NormalWindow().mean, NormalWindow().sd) < 1e-4


def test_flips_are_as_likely_as_not_and_shears_of_any_angle() -> None:
    _, flip, shear, _ = HELD_OUT
    assert isinstance(flip, Flip) and isinstance(shear, Shear)
    flipped = int((draws(flip)[:, 0, 0] < 0).sum())
    assert stats.binomtest(flipped, N, 0.5).pvalue > SURE
    assert_uniform(np.degrees(np.arctan(draws(shear)[:, 0, 1])), -10, 10)


def test_flip_and_shear_move_what_they_say() -> None:
    frame = Frame((8, 8), (8, 8))
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mirrored = Views((Flip(1.0),), [0], frame, steps=1)(picture, 0)
    torch.testing.assert_close(mirrored, picture.flip(-1), atol=1e-5, rtol=0)
    drawn = Shear(45).draw(500, frame, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, 1:], torch.eye(3)[1:].expand(500, 2, 3))
    assert 0.9 < drawn[:, 0, 1].max() <= 1 and -1 <= drawn[:, 0, 1].min() < -0.9
    flips = Flip().draw(1000, frame, torch.Generator().manual_seed(0))[:, 0, 0]
    assert set(flips.tolist()) == {-1.0, 1.0} and abs(flips.mean()) < 0.1


def test_the_way_to_a_unit_leads_through_the_blocks(tiny_clip: Model, tiny_vit: Model) -> None:
    assert [s.short for s in earlier_sites(tiny_clip, SITE)] == ["layer1.0", "layer2.0", "layer3.0"]
    assert [s.short for s in earlier_sites(tiny_clip, SITE, 2)] == ["layer1.0", "layer3.0"]
    blocks = [s.short for s in earlier_sites(tiny_vit, "visual.transformer.resblocks.2:out")]
    assert blocks == ["block0", "block1"]
    assert earlier_sites(tiny_clip, "visual.act1:in") == []
    assert earlier_sites(tiny_clip, "visual.layer4.0.conv3:out")  # none of the usual sites


def test_scores_are_kept_with_the_pictures(tiny_clip: Model, copied: Atlas) -> None:
    drawn = [noise(seed, 3, facet="face", settings={"steps": 9, "size": (64, 64)}) for seed in (0, 1)]
    drawn += [noise(2, 8, kind="maco")]
    drawn[0].scores = {"human": 0.7, "selectivity": -5.0}
    before = copied.add_pictures(drawn)
    rows = score_atlas(copied, tiny_clip, progress=False)
    assert rows == copied.pictures()
    for old, new in zip(before, rows, strict=True):
        assert dict(old) | {"scores": new.scores} == dict(new)
        assert {"activation_percentile", "self_transfer"} <= set(new.scores)
    assert rows[0].scores["human"] == 0.7 and rows[0].scores["selectivity"] >= 0
    assert [("seed_diversity" in row.scores) for row in rows] == [True, True, False]
    again = score_atlas(copied, tiny_clip, kinds=["maco"], seed=1, progress=False)
    assert [row.kind for row in again] == ["maco"]
    assert [row.scores for row in copied.pictures("layer4.0/3")] == [row.scores for row in rows[:2]]
    with pytest.raises(AtlasError, match="no pictures of the kinds cppn"):
        score_atlas(copied, tiny_clip, kinds=["cppn"], progress=False)


def test_noise_is_scored_beside_the_pictures_and_not_kept(tiny_clip: Model, copied: Atlas) -> None:
    copied.add_pictures([noise(seed, unit) for unit in (2, 5) for seed in (0, 1)])
    settings: dict[str, Any] = {"draws": 3, "seed": 4, "progress": False}
    *rows, first, second = score_atlas(copied, tiny_clip, noise=True, **settings)
    assert [row.unit for row in (first, second)] == [f"{SITE}/2", f"{SITE}/5"]
    assert {(row.kind, row.width, row.height) for row in (first, second)} == {("white noise", 64, 64)}
    assert first.scores["selectivity"] != second.scores["selectivity"]
    assert [row.kind for row in copied.pictures()] == ["fourier"] * 4
    plain = score_atlas(copied, tiny_clip, **settings)
    for row, alone in zip(rows, plain, strict=True):  # it changes no other score
        assert row.scores == pytest.approx(alone.scores, rel=1e-4, abs=1e-4)


def test_a_picture_drawn_anew_meanwhile_keeps_no_old_score(
    tiny_clip: Model, copied: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.add_pictures([noise(0, 3), noise(0, 4)])

    def slow(model: Model, rows: list[PictureRow], atlas: Atlas, **about: object) -> list[dict[str, float]]:
        atlas.add_pictures([Picture("layer4.0/3", np.zeros((64, 64, 3), np.uint8))])
        return [{"selectivity": 1.0} for _ in rows]

    monkeypatch.setattr("neurolab.featurevis.scores.scoring.score", slow)
    assert [row.unit[-1] for row in score_atlas(copied, tiny_clip)] == ["4"]
    assert [row.scores for row in copied.pictures()] == [{}, {"selectivity": 1.0}]


def test_a_network_without_embeddings_is_scored_without_them(image_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 3))
    model = wrap_model(layers, image_size=16, name="bare")
    mined = neurolab.mine(
        model, image_folder, ["2:out"], tmp_path / "bare", k=5, workers=0, progress=False, thumbnail=None
    )
    picture = Picture("2:out/1", np.zeros((16, 16, 3), np.uint8))
    with pytest.warns(UserWarning, match="no thumbnails, so there is no path_similarity"):
        (found,) = score(model, [picture, picture], mined, progress=False)[:1]
    assert set(found) == {"activation_percentile", "over_natural_max", "selectivity"}
    with pytest.raises(AtlasError, match="no thumbnails to show"):
        score(model, [picture], mined, second=make_clip(1, layers=1, width=32, head_width=16), progress=False)


def test_mistakes_are_refused(tiny_clip: Model, tiny_vit: Model, copied: Atlas) -> None:
    with pytest.raises(AtlasError, match="load the model that the atlas was made of"):
        scored(tiny_vit, [noise(0, 1)], copied)
    with pytest.raises(UnknownSiteError):
        scored(tiny_clip, [Picture("a text", np.zeros((8, 8, 3), np.uint8))], copied)
    with pytest.raises(ValueError, match="at least 1"):
        scored(tiny_clip, [noise(0, 1)], copied, draws=0)
    with pytest.raises(AtlasError, match="no pictures; draw some"):
        score_atlas(copied, tiny_clip, progress=False)
    (row,) = copied.add_pictures([noise(0, 1)])
    row.path.write_bytes(b"no image")
    with pytest.raises(AtlasError, match="cannot be read"):
        score_atlas(copied, tiny_clip, progress=False)
