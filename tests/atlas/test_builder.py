"""An atlas is whole or not one; the same build gives the same bytes, also when it was interrupted."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from neurolab.atlas import Atlas, builder, manifest, writing
from neurolab.errors import AtlasError
from tests.atlas.making import (
    MAP_SITE,
    MODEL,
    SETTINGS,
    SOURCE,
    FakeSite,
    finish,
    folder_bytes,
    make_atlas,
    make_embeddings,
    make_items,
    open_writer,
    site_arrays,
)


def test_the_same_build_gives_the_same_bytes(tmp_path: Path) -> None:
    make_atlas(tmp_path / "a")
    make_atlas(tmp_path / "elsewhere" / "b")
    files = folder_bytes(tmp_path / "a")
    assert files == folder_bytes(tmp_path / "elsewhere" / "b")
    assert sorted(files) == [
        "images.parquet",
        "manifest.json",
        "report.json",
        *(f"sites/{site}/{name}.npz" for site in ("visual.%42locks.1@out", "visual.layer4.2.act3@in")
          for name in ("embeddings", "exemplars", "statistics")),
    ]  # fmt: skip
    assert str(tmp_path).encode() not in b"".join(files.values())


def test_a_killed_and_resumed_build_gives_the_same_bytes(tmp_path: Path) -> None:
    make_atlas(tmp_path / "whole")
    code = f"""
import os, signal
from pathlib import Path
from tests.atlas.making import *
writer = open_writer(Path({str(tmp_path / "killed")!r}))
writer.append_images(make_items(8), make_embeddings(8))
assert writer.flush_images() == 8
(writer.build_folder / "checkpoint.npz").write_bytes(b"the miner's own")
writer.append_images(make_items(8, 8), make_embeddings(8, 8))
writer.flush_images()
writer.write_site(MAP_SITE, reduction="max", **site_arrays(MAP_SITE, 16))
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == -signal.SIGKILL
    with pytest.raises(AtlasError, match=r"incomplete.*again"):
        Atlas.open(tmp_path / "killed")
    with open_writer(tmp_path / "killed", image_rows=8) as writer:
        assert (writer.build_folder / "checkpoint.npz").exists()
        writer.append_images(make_items(24, 8), make_embeddings(24, 8))
        finish(writer, 32)
    assert folder_bytes(tmp_path / "killed") == folder_bytes(tmp_path / "whole")


@pytest.mark.parametrize("last", ["images.parquet", "report.json", "manifest.json"])
def test_a_build_that_fails_in_finish_goes_on(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_atlas(tmp_path / "whole")
    replace = writing.os.replace

    def fail(source: Path, target: Path) -> None:
        if target.name == last:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with open_writer(tmp_path / "atlas") as writer:
        writer.append_images(make_items(32), make_embeddings(32))
        writer.flush_images()
        with monkeypatch.context() as patch:
            patch.setattr(writing.os, "replace", fail)
            with pytest.raises(OSError, match="No space"):
                finish(writer, 32)
    with pytest.raises(AtlasError, match="incomplete"):
        Atlas.open(tmp_path / "atlas")
    with open_writer(tmp_path / "atlas", image_rows=32) as writer:
        finish(writer, 32)
    assert folder_bytes(tmp_path / "atlas") == folder_bytes(tmp_path / "whole")


def test_the_manifest_is_the_last_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = writing.os.replace

    def record(source: Path, target: Path) -> None:
        order.append(target.name)
        replace(source, target)

    monkeypatch.setattr(writing.os, "replace", record)
    make_atlas(tmp_path / "atlas")
    assert order[-1] == "manifest.json" and len(order) > 8


def test_an_unfinished_build_of_something_else_is_refused(tmp_path: Path) -> None:
    open_writer(tmp_path / "atlas").close()
    changed = {"source": SOURCE | {"hash": "ef" * 32}}, {"model": MODEL | {"weights_hash": "0"}}
    for change in (*changed, {"settings": SETTINGS | {"k": 6}}):
        with pytest.raises(AtlasError, match="something else") as caught:
            open_writer(tmp_path / "atlas", **change)
        part = next(iter(change))
        assert f"{part}.{ {'source': 'hash', 'model': 'weights_hash', 'settings': 'k'}[part] }" in str(
            caught.value
        )
    open_writer(tmp_path / "atlas").close()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path / "atlas") as writer:
        writer.append_images(make_items(8))
        with pytest.raises(AtlasError, match="another process"):
            open_writer(tmp_path / "atlas")
        assert writer.flush_images() == 8  # and the first is not disturbed
    open_writer(tmp_path / "atlas", image_rows=8).close()


def test_a_writer_that_comes_while_another_finishes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has looked before the manifest was there, and gets the lock when the other lets go of it."""
    make_atlas(tmp_path / "whole")
    first = open_writer(tmp_path / "atlas")
    first.append_images(make_items(32), make_embeddings(32))

    @contextmanager
    def late(path: Path, wait: bool) -> Iterator[None]:
        if not (tmp_path / "atlas/manifest.json").exists():
            finish(first, 32)
            path.parent.mkdir()
        with writing.locked(path, wait=wait):
            yield

    monkeypatch.setattr(builder, "locked", late)
    with pytest.raises(AtlasError, match="holds a finished atlas"):
        open_writer(tmp_path / "atlas")
    assert folder_bytes(tmp_path / "atlas") == folder_bytes(tmp_path / "whole")


def test_folders_that_hold_something_are_not_written_to(atlas: Atlas, tmp_path: Path) -> None:
    before = folder_bytes(atlas.path)
    with pytest.raises(AtlasError, match="finished atlas"):
        open_writer(atlas.path)
    assert folder_bytes(atlas.path) == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("dear")
    with pytest.raises(AtlasError, match="empty folder"):
        open_writer(tmp_path / "thesis")
    with pytest.raises(AtlasError, match="not a folder"):
        open_writer(tmp_path / "thesis" / "chapter1.tex")
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


def test_parts_that_a_kill_left_beside_a_finished_atlas_are_cleared(atlas: Atlas) -> None:
    (atlas.path / ".building" / "images").mkdir(parents=True)
    assert len(Atlas.open(atlas.path)) == 32
    with pytest.raises(AtlasError, match="finished"):
        open_writer(atlas.path)
    assert not (atlas.path / ".building").exists()


def test_a_writer_that_comes_while_another_finishes_disturbs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the manifest and the end: it neither takes the first one's parts away nor is in its way."""
    write_json, rmtree = builder.write_json, shutil.rmtree

    def late(*_: object) -> None:
        with pytest.raises(AtlasError, match="finished atlas"):
            open_writer(tmp_path / "atlas")
        assert (tmp_path / "atlas" / ".building" / "images").exists()

    def writing(path: Path, value: object) -> None:
        write_json(path, value)
        if path.name == "manifest.json":
            late()

    def removing(path: Path, *options: object, **named: bool) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", rmtree)
            late()
            patch.setattr("os.rmdir", _not_empty)  # as if the late one had just made its lock anew
            rmtree(path, *options, **named)

    monkeypatch.setattr(builder, "write_json", writing)
    monkeypatch.setattr(shutil, "rmtree", removing)
    assert len(make_atlas(tmp_path / "atlas")) == 32


def _not_empty(*_: object, **__: object) -> None:
    raise OSError(39, "Directory not empty")


def wrong_arrays() -> list[tuple[str, str, np.ndarray]]:
    good = site_arrays(MAP_SITE, 32)
    return [
        ("exemplars", "values", good["exemplars"]["values"][:3]),
        ("exemplars", "position", good["exemplars"]["position"][:, :2]),
        ("exemplars", "images", good["exemplars"]["images"].astype(np.float64)),
        ("statistics", "edges", good["statistics"]["edges"][:, :-1]),
        ("statistics", "mean", good["statistics"]["mean"][:, None]),
        ("statistics", "count", good["statistics"]["count"].astype(str)),
        ("statistics", "surprise", good["statistics"]["mean"]),
    ]


@pytest.mark.parametrize(("part", "name", "array"), wrong_arrays())
def test_arrays_that_do_not_fit_are_refused(part: str, name: str, array: np.ndarray, tmp_path: Path) -> None:
    arrays = site_arrays(MAP_SITE, 32)
    arrays[part] = arrays[part] | {name: array}
    with open_writer(tmp_path / "atlas") as writer, pytest.raises(AtlasError, match=name):
        writer.write_site(MAP_SITE, reduction="max", **arrays)


def test_arrays_are_stored_in_the_types_of_the_format(tmp_path: Path) -> None:
    arrays = site_arrays(MAP_SITE, 32)
    wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array.astype(np.int64)
            for name, array in arrays["exemplars"].items()}  # fmt: skip
    with open_writer(tmp_path / "atlas") as writer:
        writer.append_images(make_items(32))
        writer.write_site(MAP_SITE, reduction="max", exemplars=wide, statistics=arrays["statistics"])
        site = writer.finish().site("layer4.2")
    assert (site.values.dtype, site.images.dtype, site.position.dtype) == (np.float32, np.int64, np.int32)
    assert site.embedding is None


def test_sites_keep_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    sites = [FakeSite(f"visual.layer{n}:out", f"layer{n}") for n in (2, 10, 1)]
    with open_writer(tmp_path / "atlas") as writer:
        writer.append_images(make_items(32))
        for site in [*sites, sites[0]]:
            writer.write_site(site, reduction="max", **site_arrays(site, 32))
        assert writer.finish().sites == [site.name for site in sites]


def test_the_manifest_says_how_to_load_the_model_again() -> None:
    model = SimpleNamespace(
        name="ViT-B-16", weights_hash="00", image_size=(224, 224), mean=(0.5,) * 3, std=(0.25,) * 3,
        has_text=False, resize_mode="shortest", interpolation="bicubic", embedding_dim=512,
    )  # fmt: skip
    about = manifest.describe_model(model, weights="/home/somebody/weights.safetensors")
    assert about["weights"] == "weights.safetensors" and about["pretrained"] is None
    assert about["image_size"] == [224, 224] and about["has_text"] is False
    assert "somebody" not in json.dumps(about)
    assert manifest.describe_model(model, pretrained="openai")["pretrained"] == "openai"
    model.settings = {"pretrained": "laion2b"}  # as load_model notes it
    assert manifest.describe_model(model)["pretrained"] == "laion2b"
