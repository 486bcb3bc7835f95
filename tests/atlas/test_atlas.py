"""What is read of an atlas is what was put there, and what cannot be read says what to do."""

from __future__ import annotations

import json
import mmap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurolab.atlas import Atlas, open_atlas
from neurolab.atlas.writing import write_npz
from neurolab.errors import AtlasError, UnknownSiteError
from tests.atlas.making import MAP_SITE, TOKEN_SITE, make_embeddings, make_items, site_arrays
from tests.atlas.test_npz import owner


@pytest.mark.parametrize(("number", "site"), list(enumerate([MAP_SITE, TOKEN_SITE])))
def test_a_units_page_is_what_numpy_finds(atlas: Atlas, number: int, site: Any) -> None:
    arrays, items = site_arrays(site, 32, seed=number), make_items(32)
    columns = 5 if site is MAP_SITE else 4  # 17 tokens: CLS and a 4 x 4 grid
    for index in range(site.units):
        unit = atlas.unit(f"{site.short}/{index}")
        assert (unit.site, unit.index, unit.name) == (site.name, index, f"{site.name}/{index}")
        values = arrays["exemplars"]["values"][index]
        assert [e.value for e in unit.exemplars] == [float(v) for v in values if np.isfinite(v)]
        assert len(unit.exemplars) == (3 if index == site.units - 1 else 5)
        for rank, exemplar in enumerate(unit.exemplars):
            item = items[int(arrays["exemplars"]["images"][index, rank])]
            assert (exemplar.key, exemplar.captions, exemplar.labels) == (
                item.key,
                item.captions,
                dict(item.labels),
            )
            assert (exemplar.width, exemplar.height) == (item.width, item.height)
            position = int(arrays["exemplars"]["position"][index, rank])
            assert (exemplar.row, exemplar.column) == (position // columns, position % columns)
            assert exemplar.position == position and exemplar.image == items.index(item)
        statistics = arrays["statistics"]
        for name in ("count", "mean", "sd", "min", "max"):
            assert getattr(unit, name) == statistics[name][index].item()
        assert np.array_equal(unit.histogram, statistics["histogram"][index])
        assert np.array_equal(unit.edges, statistics["edges"][index])
        assert unit.pictures == []


def test_site_arrays_are_mapped_and_shared(atlas: Atlas) -> None:
    site = atlas.site("layer4.2")
    assert site is atlas.site(MAP_SITE.name)
    assert (site.units, site.k, site.layout, site.shape, site.grid) == (4, 5, "map", (3, 5), (3, 5))
    assert site.unit_name(3) == f"{MAP_SITE.name}/3"
    assert atlas.site("block1").grid == (4, 4)
    expected = site_arrays(MAP_SITE, 32)
    for name, array in (
        expected["exemplars"] | expected["statistics"] | {"embedding": expected["embedding"]}
    ).items():
        mapped = getattr(site, name)
        assert np.array_equal(mapped, array), name
        assert isinstance(owner(mapped), mmap.mmap) and not mapped.flags.writeable


def test_embeddings_of_units_and_images(atlas: Atlas) -> None:
    units, images = atlas.embeddings("block1"), atlas.image_embeddings()
    assert units is not None and np.array_equal(units, site_arrays(TOKEN_SITE, 32, seed=1)["embedding"])
    assert images is not None and np.array_equal(images, make_embeddings(32))


def test_images_and_thumbnails(atlas: Atlas) -> None:
    items = make_items(32)
    assert len(atlas) == 32
    assert atlas.image(7).key == items[7].key and [r.index for r in atlas.images([3, 1])] == [3, 1]
    assert atlas.thumbnail(7) == items[7].thumbnail
    assert atlas.thumbnails([9, 2]) == [items[9].thumbnail, items[2].thumbnail]
    assert atlas.image_index(items[20].key) == 20


def test_summary_counts_everything(atlas: Atlas) -> None:
    summary = atlas.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary | {"path": ""} == {
        "path": "", "format_version": 1, "model": "tiny", "weights_hash": "ab" * 32, "source": "folder",
        "source_location": "pictures", "source_hash": "cd" * 32, "images": 32, "skipped": 1, "sites": 2,
        "units": 7, "exemplars": 5 * 7 - 4, "pictures": 0,
    }  # fmt: skip
    report = json.loads((atlas.path / "report.json").read_text())
    assert report == {
        "kept": 32,
        "skipped": [{"key": "folder/broken.jpg", "reason": "truncated file"}],
        "notes": [],
    }


def test_wrong_sites_and_units_name_what_there_is(atlas: Atlas) -> None:
    with pytest.raises(UnknownSiteError, match=r"layer4\.2"):
        atlas.site("layer4.1")
    with pytest.raises(UnknownSiteError, match="units 0 to 3, not 4"):
        atlas.unit("layer4.2/4")
    for name in (
        "layer4.2",
        "layer4.2/",
        "layer4.2/-1",
        "layer4.2/a",
        "layer4.2/1.5",
        "/3",
        "",
        "layer4.2/²",
    ):
        with pytest.raises(UnknownSiteError):
            atlas.unit(name)
    assert atlas.unit_name("layer4.2/003") == f"{MAP_SITE.name}/3"


def change_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return apply


SITE = MAP_SITE.name
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "newer": (
        change_manifest(lambda m: m.update(format_version=2)),
        "newer than this neurolab reads.*upgrade",
    ),
    "no version": (change_manifest(lambda m: m.pop("format_version")), "not the manifest"),
    "odd version": (change_manifest(lambda m: m.update(format_version="one")), "not the manifest"),
    "no model": (change_manifest(lambda m: m.pop("model")), "damaged .no model"),
    "not complete": (change_manifest(lambda m: m.update(complete=False)), "damaged"),
    "site is a number": (change_manifest(lambda m: m["sites"].update({SITE: 3})), "damaged"),
    "site lacks units": (change_manifest(lambda m: m["sites"][SITE].pop("units")), "damaged .site"),
    "leads elsewhere": (change_manifest(lambda m: m["sites"][SITE].update(folder="../../secret")), "damaged"),
    "half": (
        lambda f: (f / "manifest.json").write_bytes((f / "manifest.json").read_bytes()[:100]),
        "cannot be read",
    ),
    "empty": (lambda f: (f / "manifest.json").write_bytes(b""), "cannot be read"),
    "binary": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), "not the manifest"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is no atlas.*build"),
    "no images": (lambda f: (f / "images.parquet").unlink(), "missing; build the atlas again"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_atlases_are_not_opened(atlas: Atlas, damage: str) -> None:
    apply, message = DAMAGES[damage]
    apply(atlas.path)
    with pytest.raises(AtlasError, match=message):
        Atlas.open(atlas.path)


def test_missing_and_incomplete_atlases(tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match=r"no atlas at .*neurolab build"):
        open_atlas(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(
        AtlasError, match=r"^.{99}x\.\.\. cannot be looked up: File name too long; choose another"
    ):
        open_atlas("x" * 300)
    with pytest.raises(AtlasError, match="no atlas"):
        open_atlas(tmp_path / "file")
    (tmp_path / ".building").mkdir()
    with pytest.raises(AtlasError, match=r"incomplete.*goes on where it was"):
        open_atlas(tmp_path)


@pytest.mark.parametrize("name", ["exemplars.npz", "statistics.npz", "embeddings.npz"])
def test_arrays_that_do_not_fit_the_manifest_are_refused(atlas: Atlas, name: str) -> None:
    path = atlas.path / atlas.manifest["sites"][SITE]["folder"] / name
    write_npz(path, values=np.zeros((4, 5), np.float32))
    with pytest.raises(AtlasError, match=name):
        Atlas.open(atlas.path).site(SITE)
    path.unlink()
    with pytest.raises(AtlasError, match=f"{name} is missing"):
        Atlas.open(atlas.path).unit(f"{SITE}/0")


def test_threads_share_an_atlas(atlas: Atlas) -> None:
    expected = {
        name: atlas.unit(name)
        for name in (f"{s.short}/{i}" for s in (MAP_SITE, TOKEN_SITE) for i in range(3))
    }
    fresh, found = Atlas.open(atlas.path), []

    def read() -> None:
        for name, unit in expected.items():
            found.append(fresh.unit(name).exemplars == unit.exemplars)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 * 6 and all(found)
