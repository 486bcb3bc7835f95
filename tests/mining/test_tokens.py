"""The reduction `token` against every token's activation, stored by hooks and sorted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from neurolab.analysis.crops import crop_box
from neurolab.analysis.holding import units_of_image
from neurolab.analysis.search import units_excited_by
from neurolab.analysis.similar import similar_units
from neurolab.atlas import Atlas
from neurolab.atlas.arrays import SiteArrays
from neurolab.atlas.checking import check
from neurolab.cli import app
from neurolab.cli import mining as commands
from neurolab.errors import AtlasError
from neurolab.featurevis.scores.heldout import reduced
from neurolab.mining import miner, observations
from neurolab.mining.cluster import Cluster
from neurolab.mining.plan import plan
from neurolab.models.zoo import Model, wrap_model
from tests.mining.small_build import NoiseSource, Unmeasured, small_build, small_model
from tests.mining.test_parts import in_parts
from tests.mining.test_resume import digests

SITES = ["block2", "block1.mlp"]
TOKENS, K = 16, 12
CONCEPTS = {"parity": ["odd", "even"]}
MASK = 2**64 - 1


def mined(out: Path, model: Model, source: NoiseSource | None = None, **settings: Any) -> Atlas:
    given: dict[str, Any] = {"k": K, "bins": 8, "sample": 100, "buckets": 6, "bucket_images": 4}
    given |= {"reduction": "token", "sites": SITES, "concepts": CONCEPTS, "coactivation": 1024, "bottom": 7}
    return small_build(out, source, model, **(given | settings))


@pytest.fixture(scope="module")
def atlas(tiny_vit: Model, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return mined(tmp_path_factory.mktemp("tokens") / "atlas", tiny_vit)


@pytest.fixture(scope="module")
def tokens(tiny_vit: Model, atlas: Atlas) -> dict[str, np.ndarray]:
    """Every patch token of every image that could be read, [images, tokens, units], by site."""
    from neurolab.data.decode import ImageTransform
    from neurolab.data.loader import load_batches

    kept: dict[str, list[np.ndarray]] = {name: [] for name in atlas.sites}
    handles = []
    for name in atlas.sites:
        path, port = name.split(":")
        module = tiny_vit.module.get_submodule(path)
        keep = partial(lambda name, value: kept[name].append(value.numpy().copy()), name)
        if port == "in":
            hook = module.register_forward_pre_hook(lambda m, args, keep=keep: keep(args[0]))
        else:
            hook = module.register_forward_hook(lambda m, args, out, keep=keep: keep(out))
        handles.append(hook)
    transform = ImageTransform((32, 32), "shortest", "bicubic", None)
    with torch.inference_mode():
        for batch in load_batches(NoiseSource(), transform, batch_size=8):
            pixels = torch.from_numpy(batch.images).permute(0, 3, 1, 2)
            tiny_vit.encode_image(pixels.to(torch.float32, memory_format=torch.channels_last) / 255)
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(parts)[:, 1:] for name, parts in kept.items()}


def hash_of(key: str, token: int) -> int:
    """A token's draw, number by number: BLAKE2b of the key, and splitmix64 from there."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=bytes(8)).digest()
    mixed = (int.from_bytes(digest, "little") >> 5) + (token + 1) * 0x9E3779B97F4A7C15 & MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & MASK
    return (mixed ^ mixed >> 31) >> 5


def check_ranked(site: SiteArrays, values: np.ndarray) -> None:
    """Exemplars and lowest are the ends of a full sort of all (image, token) values; ties by number."""
    assert site.lowest is not None
    flat = values.reshape(-1, values.shape[2])
    for unit in range(site.units):
        order = np.argsort(-flat[:, unit], kind="stable")[:K]
        np.testing.assert_allclose(site.values[unit], flat[order, unit], rtol=1e-5, atol=1e-7)
        assert site.images[unit].tolist() == (order // TOKENS).tolist()
        assert site.position[unit].tolist() == (order % TOKENS).tolist()
        order = np.argsort(flat[:, unit], kind="stable")[:7]
        assert site.lowest["images"][unit].tolist() == (order // TOKENS).tolist()
        assert site.lowest["position"][unit].tolist() == (order % TOKENS).tolist()


def check_statistics(site: SiteArrays, values: np.ndarray) -> None:
    flat = values.reshape(-1, values.shape[2]).astype(np.float64)
    assert (site.count == len(flat)).all() and (site.histogram.sum(axis=1) == len(flat)).all()
    np.testing.assert_allclose(site.mean, flat.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(site.sd, flat.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(site.max, flat.max(axis=0), rtol=1e-5)
    np.testing.assert_allclose(site.min, flat.min(axis=0), rtol=1e-5)
    assert site.coactivation is not None
    projection = site.coactivation["projection"].astype(np.float64)
    off = projection @ projection.T - np.corrcoef(flat.T)
    assert np.abs(off).mean() < 2 / np.sqrt(1024)


def check_levels(atlas: Atlas, site: SiteArrays, values: np.ndarray) -> None:
    """Of each level the tokens with the lowest hashes are drawn, and concepts are those of their images."""
    flat = values.reshape(-1, values.shape[2])
    rows = atlas.images(range(len(atlas)))
    hashes = np.array([hash_of(row.key, token) for row in rows for token in range(TOKENS)], np.uint64)
    labels = np.repeat([row.labels.get("parity", "") for row in rows], TOKENS)
    for unit in range(0, site.units, 7):
        for level in site.levels(unit):
            inside = np.flatnonzero((flat[:, unit] >= level.low) & (flat[:, unit] < level.high))
            assert level.count == len(inside)
            assert level.concepts == [int((labels[inside] == name).sum()) for name in CONCEPTS["parity"]]
            drawn = inside[np.argsort(hashes[inside])][:4]
            assert level.images == (drawn // TOKENS).tolist()
            assert level.positions == (drawn % TOKENS).tolist()


@pytest.mark.parametrize("number", [0, 1])
def test_all_is_what_a_full_sort_of_all_tokens_gives(
    atlas: Atlas, tokens: dict[str, np.ndarray], number: int
) -> None:
    site, values = atlas.site(atlas.sites[number]), tokens[atlas.sites[number]]
    assert values.shape[:2] == (61, TOKENS) and site.per_image == TOKENS
    check_ranked(site, values)
    check_statistics(site, values)
    check_levels(atlas, site, values)
    assert any(len(set(images)) < K for images in site.images.tolist())  # an image comes several times


def wrong_numbers(images: Any, hashes: Any, concepts: Any, per_image: int) -> observations.Observations:
    """The tokens of an image numbered from its last on."""
    found = right(images, hashes, concepts, per_image)
    image, token = np.divmod(found.numbers, per_image)
    numbers = image * per_image + per_image - 1 - token
    return observations.Observations(numbers, found.hashes, found.concepts)


def same_hash(images: Any, hashes: Any, concepts: Any, per_image: int) -> observations.Observations:
    """Tokens that are drawn by their image's hash: all of an image or none."""
    found = right(images, hashes, concepts, per_image)
    return observations.Observations(found.numbers, hashes.repeat(per_image), found.concepts)


right = observations.observations


@pytest.mark.parametrize("wrong", [wrong_numbers, same_hash])
def test_wrong_observations_are_noticed(
    wrong: Callable[..., Any],
    tiny_vit: Model,
    tokens: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neurolab.mining.checkpoint.observations", wrong)
    found = mined(tmp_path / "a", tiny_vit, sites=SITES[:1])
    site, values = found.site(SITES[0]), tokens[found.sites[0]]
    with pytest.raises(AssertionError):
        check_ranked(site, values)
        check_levels(found, site, values)


@pytest.mark.parametrize("sample", [100, 4000])
@pytest.mark.parametrize("cuts", [[4], [1, 2, 3, 5, 6, 8]])
def test_parts_give_the_same_bytes(
    cuts: list[int], sample: int, tiny_vit: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mined(tmp_path / "whole", tiny_vit, sample=sample)
    monkeypatch.setattr(miner, "mine_on_ray", in_parts(cuts))
    mined(tmp_path / "parts", tiny_vit, sample=sample, cluster=Cluster())
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    monkeypatch.setattr(miner, "mine_on_ray", in_parts([]))
    mined(tmp_path / "stream", tiny_vit, Unmeasured(), sample=sample, cluster=Cluster())
    assert digests(tmp_path / "stream" / "sites") == digests(tmp_path / "whole" / "sites")


@pytest.mark.parametrize("fail_at", [3, 9, 39, 63])
def test_interrupted_and_gone_on_with_the_bytes_are_the_same(
    fail_at: int, tiny_vit: Model, atlas: Atlas, tmp_path: Path
) -> None:
    out = tmp_path / "atlas"
    with pytest.raises(KeyboardInterrupt):
        mined(out, tiny_vit, NoiseSource(fail_at=fail_at), checkpoint_seconds=1e9)
    mined(out, tiny_vit)
    assert digests(out) == digests(atlas.path)


class Merging(nn.Module):
    """16 patches, then 4 of them joined; `flat`: every token of every image is the same."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        self.patch, self.early, self.late = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 6), nn.Linear(24, 5)
        self.flat = flat

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.early(self.patch(images * (not self.flat)).flatten(2).transpose(1, 2))
        return self.late(tokens.reshape(len(tokens), 4, 24))


def merging(flat: bool = False) -> Model:
    torch.manual_seed(0)
    return wrap_model(Merging(flat), image_size=16, name="merging")


def test_sites_may_have_different_numbers_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"sites": ["early", "late"]}
    whole = mined(tmp_path / "whole", merging(), **settings)
    assert [whole.site(name).per_image for name in settings["sites"]] == [16, 4]
    assert [int(whole.site(name).count[0]) for name in settings["sites"]] == [61 * 16, 61 * 4]
    monkeypatch.setattr(miner, "mine_on_ray", in_parts([2, 5]))
    mined(tmp_path / "parts", merging(), cluster=Cluster(), **settings)
    assert digests(tmp_path / "parts") == digests(whole.path)
    assert check(whole.path).sound


def test_ties_go_to_the_earlier_image_and_the_earlier_token(tmp_path: Path) -> None:
    found = mined(tmp_path / "atlas", merging(flat=True), sites=["early", "late"], k=20)
    for name, count in (("early", 16), ("late", 4)):
        site = found.site(name)
        assert (site.sd == 0).all()
        assert (site.images == np.arange(20) // count).all()
        assert (site.position == np.arange(20) % count).all()


def test_some_units_of_a_site(tiny_vit: Model, atlas: Atlas, tmp_path: Path) -> None:
    few = mined(tmp_path / "few", tiny_vit, sites=[], units=["block2/5", "block2/40"]).site("block2")
    whole = atlas.site("block2")
    for unit in (5, 40):
        assert np.array_equal(few.images[unit], whole.images[unit])
        assert np.array_equal(few.position[unit], whole.position[unit])
        assert few.levels(unit) == whole.levels(unit)
    assert (few.images[6] == -1).all() and few.levels(6) == [] and few.count[6] == 0


def test_the_atlas_is_sound_and_a_wrong_place_is_found(atlas: Atlas, tiny_vit: Model, tmp_path: Path) -> None:
    from neurolab.atlas.soundness import array_problems

    assert check(atlas.path).sound
    site = atlas.site("block2")
    for array, change, message in (
        ("position", lambda a: a.__setitem__((3, 2), TOKENS), "a token that is not one of 0 to 15"),
        ("images", lambda a: a.__setitem__((slice(None)), a[:, :1]), "names a token twice"),
        ("count", lambda a: a.__iadd__(61 * TOKENS), "more than 976 tokens"),
    ):
        changed = {name: getattr(site, name) for name in site.__dataclass_fields__}
        changed[array] = changed[array].copy()
        change(changed[array])
        if array == "images":  # all of one image, at one place
            changed["position"] = np.zeros_like(site.position)
        assert any(message in problem for _, problem in array_problems(SiteArrays(**changed), 61))


def test_exemplars_are_at_their_patch(atlas: Atlas, tiny_vit: Model) -> None:
    exemplar = atlas.unit("block2/3").exemplars[0]
    assert exemplar.grid == (4, 4) and exemplar.position == exemplar.row * 4 + exemplar.column  # type: ignore[operator]
    box = crop_box(atlas, tiny_vit, "block2", exemplar, "cell")
    assert box is not None and (box[2] - box[0]) * (box[3] - box[1]) < 0.1
    named = f"site = '{atlas.site('block2').name}' AND index = 3 AND rank = 1"
    rows = atlas.sql(f"SELECT image, position FROM exemplars WHERE {named}")
    assert rows.to_pylist() == [{"image": exemplar.image, "position": exemplar.position}]


def test_an_image_is_one_exemplar_where_units_are_compared(atlas: Atlas, tiny_vit: Model) -> None:
    site, embeddings = atlas.site("block2"), atlas.image_embeddings()
    assert site.embedding is not None and embeddings is not None
    once = [list(dict.fromkeys(row)) for row in site.images.tolist()]
    shown = site.distinct_images()
    assert [[i for i in row if i >= 0] for row in shown.tolist()] == once
    assert all(row == sorted(row, key=lambda i: i < 0) for row in shown.tolist())
    rows = embeddings.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    apart = rows - rows.mean(axis=0)
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    for unit in (0, 20, 63):
        expected = apart[once[unit]].sum(axis=0)
        np.testing.assert_allclose(site.embedding[unit], expected / np.linalg.norm(expected), atol=2e-3)
    for hit in similar_units(atlas, "block2/3", "exemplars", site="block2", top=5):
        other = int(hit.unit.rpartition("/")[2])
        assert hit.shared == len(set(once[3]) & set(once[other]))


def test_an_image_excites_a_unit_by_its_largest_token(
    atlas: Atlas, tiny_vit: Model, tokens: dict[str, np.ndarray]
) -> None:
    from PIL import Image

    from neurolab.data.decode import decode_image

    site = atlas.site("block2")
    image = int(site.images[3, 0])
    largest = tokens[site.name][image].max(axis=0)
    shard, _, number = atlas.image(image).key.partition("/")
    picture: Image.Image = decode_image(NoiseSource().encoded(shard, int(number)))
    score = (largest - site.mean) / site.sd
    order = np.argsort(-score)[:5]
    hits = units_excited_by(atlas, tiny_vit, picture, "block2", top=5)
    assert [int(hit.unit.rpartition("/")[2]) for hit in hits] == order.tolist()
    np.testing.assert_allclose([hit.score for hit in hits], score[order], rtol=1e-3)
    held = units_of_image(atlas, image, "block2", top=99)
    units = [int(hit.unit.rpartition("/")[2]) for hit in held]
    assert len(set(units)) == len(units) and 3 in units
    for hit, unit in zip(held, units, strict=True):
        assert hit.value == pytest.approx(largest[unit], rel=1e-5)
        assert hit.rank == 1 + site.images[unit].tolist().index(image)


def test_a_picture_is_scored_by_its_largest_token(atlas: Atlas) -> None:
    values = torch.randn(3, 1 + TOKENS, 64, generator=torch.Generator().manual_seed(0))
    found = reduced(values, atlas.site("block2"))
    assert np.array_equal(found, values[:, 1:].numpy().max(axis=1))


def test_a_plan_says_what_tokens_take(tiny_vit: Model, atlas: Atlas) -> None:
    found = plan(tiny_vit, NoiseSource(), SITES, batch_size=8, workers=0, reduction="token")
    units = sum(atlas.site(name).units for name in SITES)
    assert found.units == units and found.activations == 8 * 4 * TOKENS * units
    settings: dict[str, Any] = {"batch_size": 8, "workers": 0, "reduction": "token"}
    half = plan(tiny_vit, NoiseSource(), ["block2"], precision="bfloat16", **settings)
    assert half.effect is not None and half.effect.images == 4 * 8 - 1


def test_networks_without_tokens_are_refused(tmp_path: Path) -> None:
    for site in ("0", "2"):
        with pytest.raises(AtlasError, match=rf"^{site}:out has no tokens but a map; choose.*'max'"):
            small_build(tmp_path / "a", sites=[site], reduction="token")
    with pytest.raises(AtlasError, match="no tokens but a map"):
        plan(small_model(), NoiseSource(), ["0"], reduction="token", workers=0)
    assert not (tmp_path / "a").exists()


def test_more_observations_than_can_be_counted_are_refused(tiny_vit: Model, tmp_path: Path) -> None:
    class Endless(NoiseSource):
        def size(self) -> int:
            return 2**27 + 1

    for call in (
        lambda: mined(tmp_path / "a", tiny_vit, Endless()),
        lambda: plan(tiny_vit, Endless(), SITES, reduction="token", workers=0),
    ):
        with pytest.raises(AtlasError, match=r"134,217,729 images with 16 observations.*up to 134,217,728"):
            call()
    observations.check_number(2**27, {"site": 16})


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AtlasError, match="site gave 31 rows of values for 2 images, not 16 for each"):
        observations.check_rows("site", 31, 2, 16)


def test_hashes_of_tokens_are_spread_and_those_of_the_oracle() -> None:
    from neurolab.mining.summaries import draw_hashes

    keys = [f"image/{i}" for i in range(500)]
    found = observations.token_hashes(draw_hashes(keys), 200)
    assert found[7].tolist() == [hash_of(keys[7], token) for token in range(200)]
    assert np.unique(found).size == found.size and int(found.max()) < 2**59 - 1
    shares = found.astype(np.float64) / 2**59
    assert abs(shares.mean() - 0.5) < 0.005
    for one, other in ((shares[:, 0], shares[:, 1]), (shares[:-1].ravel(), shares[1:].ravel())):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.15


def test_the_command_line_from_end_to_end(
    tiny_vit: Model, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "load", lambda *about: tiny_vit)

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    what = ("--source", image_folder, "--site", "block2", "--reduction", "token", "--workers", 0)
    planned = json.loads(run("plan", *what, "--json"))
    assert planned["images"] == 24 and planned["activations"] == 64 * 4 * TOKENS * 64
    run("build", "--out", tmp_path / "atlas", *what, "--top", 30)
    run("check", tmp_path / "atlas")
    summary = json.loads(run("info", tmp_path / "atlas", "--json"))
    assert (summary["images"], summary["exemplars"]) == (24, 30 * 64)
    asked = run("query", tmp_path / "atlas", "SELECT count FROM units LIMIT 1", "--json")
    assert json.loads(asked)[0]["count"] == 24 * TOKENS
    run("export", tmp_path / "atlas", tmp_path / "tables", "--format", "csv")
    assert len((tmp_path / "tables" / "exemplars.csv").read_text().splitlines()) == 1 + 30 * 64
