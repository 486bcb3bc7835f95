"""A whole build against activations that were all stored and sorted, by hooks of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import neurolab
from neurolab.atlas import Atlas
from neurolab.errors import AtlasError, SourceError, UnknownSiteError
from neurolab.mining import miner
from neurolab.mining.cluster import Cluster
from neurolab.models.zoo import Model, wrap_model
from tests.mining.small_build import NoiseSource, small_build
from tests.mining.test_resume import digests

SITES = ["layer2.0", "layer4.0", "attnpool"]
K, BATCH = 7, 10


def image_keys(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def stored(model: Model, folder: Path, names: list[str], batch: int = BATCH) -> dict[str, np.ndarray]:
    """Every activation of every image, [images, ...], and the embeddings under "embedding"."""
    kept: dict[str, list[np.ndarray]] = {name: [] for name in [*names, "embedding"]}

    def keep(name: str, value: Tensor) -> None:
        kept[name].append(value.detach().numpy().copy())

    handles = []
    for name in names:
        path, port = name.split(":")
        module = model.module.get_submodule(path)
        if port == "in":
            handles.append(module.register_forward_pre_hook(lambda m, args, name=name: keep(name, args[0])))
        else:
            handles.append(module.register_forward_hook(lambda m, args, out, name=name: keep(name, out)))
    images = torch.stack([model.preprocess(Image.open(folder / key)) for key in image_keys(folder)])
    with torch.inference_mode():
        for some in images.split(batch):
            normal = (some - torch.tensor(model.mean)[:, None, None]) / torch.tensor(model.std)[:, None, None]
            keep("embedding", model.module.encode_image(normal))
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def check_against(atlas: Atlas, name: str, values: np.ndarray, positions: np.ndarray | None) -> None:
    """All that the atlas says of a site, from its values [images, units] and positions."""
    site = atlas.site(name)
    for unit in range(values.shape[1]):
        of_unit = values[:, unit]
        order = sorted(range(len(of_unit)), key=lambda i: (-of_unit[i], i))[:K]
        np.testing.assert_allclose(site.values[unit, : len(order)], of_unit[order], rtol=1e-5, atol=1e-7)
        assert site.images[unit, : len(order)].tolist() == order
        if positions is None:
            assert (site.position[unit] == -1).all()
        else:
            assert site.position[unit, : len(order)].tolist() == positions[order, unit].tolist()
    exact = values.astype(np.float64)
    spread = exact.std(axis=0).max()
    np.testing.assert_allclose(site.mean, exact.mean(axis=0), rtol=1e-5, atol=1e-5 * spread)
    np.testing.assert_allclose(site.sd, exact.std(axis=0), rtol=1e-4, atol=1e-5 * spread)
    np.testing.assert_allclose(site.max, exact.max(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(site.min, exact.min(axis=0), rtol=1e-5, atol=1e-6)
    assert (site.count == len(values)).all()
    assert (site.histogram.sum(axis=1) == len(values)).all()
    np.testing.assert_allclose(site.edges[:, 0], site.min, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(site.edges[:, -1], site.max, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def atlas(tiny_clip: Model, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    out = tmp_path_factory.mktemp("mined") / "atlas"
    return neurolab.mine(
        tiny_clip, image_folder, SITES, out, k=K, batch_size=BATCH, bins=8, workers=0, progress=False
    )


@pytest.fixture(scope="module")
def activations(tiny_clip: Model, image_folder: Path, atlas: Atlas) -> dict[str, np.ndarray]:
    return stored(tiny_clip, image_folder, atlas.sites)


@pytest.mark.parametrize("number", [0, 1])
def test_maps_are_a_full_sort_of_stored_activations(
    atlas: Atlas, activations: dict[str, np.ndarray], number: int
) -> None:
    name = atlas.sites[number]
    maps = activations[name].reshape(24, activations[name].shape[1], -1)
    assert (maps < 0).any()  # read before the ReLU
    check_against(atlas, name, maps.max(axis=2), maps.argmax(axis=2))


def test_vectors_are_a_full_sort_of_stored_activations(
    atlas: Atlas, activations: dict[str, np.ndarray]
) -> None:
    assert atlas.site("attnpool").layout == "vector"
    check_against(atlas, atlas.sites[2], activations[atlas.sites[2]], None)


def test_images_have_their_rows(atlas: Atlas, image_folder: Path, activations: dict[str, np.ndarray]) -> None:
    assert [atlas.image(i).key for i in range(24)] == image_keys(image_folder)
    with Image.open(image_folder / atlas.image(5).key) as image:
        assert (atlas.image(5).width, atlas.image(5).height) == image.size
    assert atlas.thumbnail(5)[8:12] == b"WEBP"
    found = atlas.image_embeddings()
    assert found is not None
    np.testing.assert_allclose(found, activations["embedding"], rtol=2e-3, atol=1e-3)


def test_units_have_embeddings(atlas: Atlas) -> None:
    images = atlas.image_embeddings()
    assert images is not None
    directions = images.astype(np.float64) / np.linalg.norm(images.astype(np.float64), axis=1, keepdims=True)
    apart = directions - directions.mean(axis=0)
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    site = atlas.site(SITES[1])
    assert site.embedding is not None
    for unit in (0, 100, 255):
        expected = apart[site.images[unit]].sum(axis=0)
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(site.embedding[unit], expected, atol=2e-3)


def test_the_manifest_says_how_it_was_made(atlas: Atlas, tiny_clip: Model, image_folder: Path) -> None:
    manifest = atlas.manifest
    assert manifest["model"]["weights_hash"] == tiny_clip.weights_hash
    assert manifest["source"]["hash"] == neurolab.open_source(image_folder).content_hash()
    assert (manifest["source"]["kept"], manifest["source"]["skipped"]) == (24, 0)
    settings = manifest["settings"]
    assert settings["sites"] == atlas.sites
    assert (settings["k"], settings["batch_size"], settings["reduction"]) == (K, BATCH, "max")
    assert (settings["device"], settings["precision"]) == ("cpu", "float32")
    assert settings["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("reduction", ["max", "mean", "cls", "center"])
def test_token_sites(tiny_vit: Model, image_folder: Path, tmp_path: Path, reduction: str) -> None:
    sites = ["block2", "block1.mlp"]
    found = neurolab.mine(
        *(tiny_vit, image_folder, sites, tmp_path / "atlas"),
        k=K,
        batch_size=BATCH,
        workers=0,
        reduction=reduction,
        progress=False,
    )
    for name, tokens in stored(tiny_vit, image_folder, found.sites).items():
        if name == "embedding":
            continue
        patches = tokens[:, 1:]
        assert patches.shape[1] == 16
        middle = 2 * 4 + 2
        values, positions = {
            "max": (patches.max(axis=1), patches.argmax(axis=1)),
            "mean": (patches.mean(axis=1), None),
            "cls": (tokens[:, 0], None),
            "center": (patches[:, middle], np.full(patches[:, 0].shape, middle)),
        }[reduction]
        check_against(found, name, values, positions)
    if reduction == "max":
        assert found.unit("block2/3").exemplars[0].grid == (4, 4)


def test_the_middle_is_read_before_a_relu_works_in_place(
    tiny_clip: Model, image_folder: Path, tmp_path: Path
) -> None:
    name = "visual.layer4.0.act3:in"
    found = neurolab.mine(
        tiny_clip, image_folder, [name], tmp_path / "a", k=K, batch_size=BATCH, workers=0,
        reduction="center", progress=False,
    )  # fmt: skip
    maps = stored(tiny_clip, image_folder, [name])[name]
    height, width = (side // 2 for side in maps.shape[2:])
    middle = np.full(maps.shape[:2], height * maps.shape[3] + width)
    check_against(found, name, maps[:, :, height, width], middle)
    assert found.site(name).min.min() < 0  # not what the ReLU leaves


def assert_agree(one: Atlas, other: Atlas, tolerance: float) -> int:
    """Values within a tolerance (of a unit's largest), the same exemplars but for ties inside it.

    Gives how many values differ at all.
    """
    differing = 0
    for name in one.sites:
        a, b = one.site(name), other.site(name)
        within = tolerance * np.maximum(np.abs(a.max), np.abs(a.min))
        assert (np.abs(a.values - b.values) <= within[:, None]).all()
        assert (np.abs(a.mean - b.mean) <= within).all() and (np.abs(a.max - b.max) <= within).all()
        for unit in range(a.units):
            first, second = (dict(zip(s.images[unit], s.values[unit], strict=True)) for s in (a, b))
            for image in first.keys() & second.keys():
                assert abs(first[image] - second[image]) <= within[unit]
            for image in first.keys() ^ second.keys():  # only what ties with the last place may change
                lists = first if image in first else second
                assert lists[image] - min(lists.values()) <= 2 * within[unit]
        differing += int((a.values != b.values).sum())
    return differing


def test_other_engines_agree(tiny_clip: Model, image_folder: Path, tmp_path: Path) -> None:
    """Other threads, other batches, other kernels than oneDNN's. A lower precision does not agree."""

    def build(name: str, **settings: Any) -> Atlas:
        how = {"k": K, "batch_size": BATCH, "workers": 0, "threads": 1, "progress": False} | settings
        return neurolab.mine(tiny_clip, image_folder, SITES, tmp_path / name, **how)

    plain = build("plain")
    for other in (build("threads", threads=2), build("batches", batch_size=3)):
        assert_agree(plain, other, 1e-5)
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        assert assert_agree(plain, build("kernels"), 1e-5) > 0
    with pytest.raises(AssertionError):
        assert_agree(plain, build("half", precision="bfloat16"), 1e-5)
    # With other threads a finished atlas is what was asked for; with another precision it is not.
    assert build("plain", threads=2).manifest == plain.manifest
    with pytest.raises(AtlasError, match="precision was 'float32', is 'bfloat16'"):
        build("plain", precision="bfloat16")


def test_bad_images_are_listed_and_not_counted(tiny_clip: Model, image_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, key in enumerate(image_keys(image_folder)[:9]):
        (folder / f"{number}{Path(key).suffix}").write_bytes((image_folder / key).read_bytes())
    whole = (image_folder / "odd" / "01.jpg").read_bytes()
    (folder / "0-empty.jpg").write_bytes(b"")
    (folder / "3-text.png").write_text("not an image")
    (folder / "9-cut.jpg").write_bytes(whole[: len(whole) // 2])
    found = neurolab.mine(
        tiny_clip, folder, SITES, tmp_path / "atlas", batch_size=4, workers=1, progress=False
    )
    report = json.loads((found.path / "report.json").read_text())
    assert report["kept"] == 9 and len(found) == 9
    assert {skip["key"] for skip in report["skipped"]} == {"0-empty.jpg", "3-text.png", "9-cut.jpg"}
    assert all(skip["reason"] for skip in report["skipped"])
    for name in found.sites:
        site = found.site(name)
        assert (site.count == 9).all()
        assert (np.sort(site.images[:, :9], axis=1) == np.arange(9)).all() and (
            site.images[:, 9:] == -1
        ).all()
        assert (site.values[:, 9:] == -np.inf).all()
    assert [found.image(i).key[0] for i in range(9)] == list("012345678")


def test_nothing_to_mine_leaves_nothing_behind(tiny_clip: Model, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", "b.png"):
        (folder / name).write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"none of the 2 images.*a\.jpg: "):
        neurolab.mine(tiny_clip, folder, SITES, tmp_path / "atlas", workers=0, progress=False)
    assert not (tmp_path / "atlas").exists()
    Image.new("RGB", (8, 8)).save(folder / "c.png")
    assert len(neurolab.mine(tiny_clip, folder, SITES, tmp_path / "atlas", workers=0, progress=False)) == 1


def test_only_the_first_records(tiny_clip: Model, image_folder: Path, tmp_path: Path) -> None:
    found = neurolab.mine(
        tiny_clip, image_folder, "layer4.0", tmp_path / "atlas", limit=5, workers=0, progress=False
    )
    assert [found.image(i).key for i in range(len(found))] == image_keys(image_folder)[:5]
    with pytest.raises(AtlasError, match="the source was"):
        neurolab.mine(
            tiny_clip, image_folder, "layer4.0", tmp_path / "atlas", limit=6, workers=0, progress=False
        )


def test_sites_are_taken_once_by_any_name(tiny_clip: Model, image_folder: Path, tmp_path: Path) -> None:
    names = ["visual.layer4.0.act3:in", "layer2.0", "layer4.0"]
    found = neurolab.mine(tiny_clip, image_folder, names, tmp_path / "atlas", workers=0, progress=False)
    assert found.sites == ["visual.layer4.0.act3:in", "visual.layer2.0.act3:in"]
    again = neurolab.mine(
        tiny_clip, image_folder, ["layer2.0", "layer4.0"], tmp_path / "atlas", workers=0, progress=False
    )
    assert again.sites == found.sites


def test_sites_in_another_order_go_on_with_the_same_build(tmp_path: Path) -> None:
    whole, out = small_build(tmp_path / "whole"), tmp_path / "atlas"
    with pytest.raises(KeyboardInterrupt):
        small_build(out, NoiseSource(fail_at=40))
    again = NoiseSource()
    small_build(out, again, sites=[*reversed(whole.sites)])
    assert again.count < 63 and digests(out) == digests(whole.path)


def test_what_cannot_be_mined_is_refused(tiny_clip: Model, image_folder: Path, tmp_path: Path) -> None:
    for error, sites, settings in (
        (UnknownSiteError, ["layer9"], {}),
        (UnknownSiteError, [], {}),
        (AtlasError, ["layer4.0"], {"reduction": "cls"}),
        (AtlasError, ["layer4.0"], {"reduction": "median"}),
        (AtlasError, ["layer4.0"], {"k": 0}),
        (AtlasError, ["layer4.0"], {"batch_size": 0}),
    ):
        with pytest.raises(error):
            neurolab.mine(tiny_clip, image_folder, sites, tmp_path / "atlas", progress=False, **settings)
    assert not (tmp_path / "atlas").exists()


class Deep(nn.Module):
    """A network without embeddings, whose head counts how often it is reached."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.reached = nn.Conv2d(3, 4, 3), nn.Flatten(), 0

    def forward(self, images: Tensor) -> Tensor:
        body = self.body(images)
        self.reached += 1
        return self.head(body)


def test_without_embeddings_the_pass_stops_at_the_deepest_site(image_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Deep()
    model = wrap_model(module, image_size=16)
    found = neurolab.mine(
        model, image_folder, "body", tmp_path / "atlas", workers=0, batch_size=6, progress=False
    )
    assert module.reached <= 2  # once to find the sites, once to describe the model; not for four batches
    assert found.image_embeddings() is None and found.site("body").embedding is None


def test_progress_is_told(
    tiny_clip: Model, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    neurolab.mine(tiny_clip, image_folder, "layer4.0", tmp_path / "atlas", workers=0)
    said = capsys.readouterr()
    assert said.out == ""
    assert f"Hashing {image_folder}" in said.err
    assert "Mining tiny: 24 of 24 images" in said.err and "images/s" in said.err


def test_what_no_memory_holds_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miner, "installed_memory", lambda: 10**6)
    source = NoiseSource()
    with pytest.raises(AtlasError, match=r"16 units need .* MB of memory .*machine has 1.0 MB.*k is 100,000"):
        small_build(tmp_path / "atlas", source, k=100_000)
    assert source.count == 0 and not (tmp_path / "atlas").exists()
    # A sample has no more images than there are; and what is finished needs no memory.
    monkeypatch.setattr(miner, "installed_memory", lambda: 10**7)
    whole = small_build(tmp_path / "atlas", source, sample=10**9)
    monkeypatch.setattr(miner, "installed_memory", lambda: 1)
    assert small_build(tmp_path / "atlas", source, sample=10**9).manifest == whole.manifest


def test_an_actor_of_a_cluster_has_room_for_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def note(
        cluster: Cluster, forward: Any, task: Any, settings: dict[str, Any], state: Any
    ) -> Iterator[Any]:
        seen.append(settings | {"workers": task.workers})
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(miner, "mine_on_ray", note)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    for workers, threads, expected in ((None, None, (1, 5)), (8, None, (8, 1)), (2, 3, (2, 3))):
        out = tmp_path / f"{workers}"
        with pytest.raises(KeyboardInterrupt):
            small_build(out, workers=workers, threads=threads, cluster=Cluster())
        assert (seen[-1]["workers"], seen[-1]["threads"]) == expected
