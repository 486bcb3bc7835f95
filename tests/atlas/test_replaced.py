"""An atlas that was opened, and then built anew by another: nothing of the two is ever mixed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurolab.atlas import Atlas
from neurolab.atlas import atlas as reading
from neurolab.atlas.export import export
from neurolab.errors import AtlasError
from tests.atlas.making import MAP_SITE, SETTINGS, FakePicture, finish, make_atlas, make_items, open_writer

UNIT = f"{MAP_SITE.name}/1"
REPLACED = r"atlas at .* was replaced since it was opened; open it again"
READS: dict[str, Callable[[Atlas], Any]] = {
    "site": lambda a: a.site(MAP_SITE.name),
    "unit": lambda a: a.unit(UNIT),
    "image": lambda a: a.image(3),
    "images": lambda a: a.images([3]),
    "image_table": lambda a: a.image_table([3], ["key"]),
    "image_index": lambda a: a.image_index("folder/0003.jpg"),
    "thumbnails": lambda a: a.thumbnails([3]),
    "image_embeddings": lambda a: a.image_embeddings(),
    "images by sql": lambda a: a.sql("SELECT * FROM images"),
    "units by sql": lambda a: a.sql("SELECT * FROM units"),
    "shards": lambda a: a.shards(),
    "pictures": lambda a: a.pictures(),
    "labels": lambda a: a.labels.all(),
    "a label less": lambda a: a.labels.remove(1),
    "a label": lambda a: a.labels.add(UNIT, "spider"),
    "a picture": lambda a: a.add_pictures([FakePicture(UNIT, np.zeros((4, 4, 3), np.uint8))]),
    "export": lambda a: export(a, a.path.with_name("exported"), "csv"),
}


def build_another(folder: Path) -> None:
    """The same images in another order, in the place of the atlas in `folder`."""
    shutil.rmtree(folder)
    writer = open_writer(folder, settings=SETTINGS | {"limit": 32})
    writer.append_images(make_items(32)[::-1])
    finish(writer, 32)


@pytest.mark.parametrize("read", READS)
def test_whatever_is_read_of_a_replaced_atlas_says_so(atlas: Atlas, read: str) -> None:
    build_another(atlas.path)
    before = {path.name for path in atlas.path.iterdir()}
    with pytest.raises(AtlasError, match=REPLACED):
        READS[read](atlas)
    assert {path.name for path in atlas.path.iterdir()} == before
    READS[read](Atlas.open(atlas.path))


@pytest.mark.parametrize("read", READS)
def test_an_atlas_that_is_being_replaced_says_so_too(atlas: Atlas, read: str) -> None:
    (atlas.path / "manifest.json").unlink()
    with pytest.raises(AtlasError, match=r"moved away, or is being replaced, since it was opened"):
        READS[read](atlas)


def test_arrays_that_were_replaced_while_they_were_mapped_are_not_kept(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reading.read_site_arrays

    def late(*arguments: Any) -> Any:
        build_another(atlas.path)
        return read(*arguments)

    with monkeypatch.context() as patch, pytest.raises(AtlasError, match=REPLACED):
        patch.setattr(reading, "read_site_arrays", late)
        atlas.site(MAP_SITE.name)
    with pytest.raises(AtlasError, match=REPLACED):
        atlas.site(MAP_SITE.name)


def test_the_same_atlas_copied_or_built_again_is_read_on(atlas: Atlas, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(atlas.path, tmp_path / "copy"))
    shutil.rmtree(atlas.path)
    os.rename(copied, atlas.path)
    assert len(atlas.unit(UNIT).exemplars) == 5
    shutil.rmtree(atlas.path)
    make_atlas(atlas.path)
    for read in READS.values():
        read(atlas)


def test_a_units_page_costs_one_look_at_the_manifest(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas.unit(UNIT)
    looks: list[object] = []
    stat, open_file = os.stat, Path.read_bytes

    def counting(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        looks.extend([path] * (Path(path).name == "manifest.json"))
        return stat(path, *arguments, **named)

    monkeypatch.setattr(os, "stat", counting)
    monkeypatch.setattr(Path, "read_bytes", lambda path: looks.append("read") or open_file(path))
    atlas.unit(UNIT)
    assert looks == [atlas.path / "manifest.json"]


def test_an_atlas_is_found_from_another_working_folder(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened = Atlas.open("atlas")
    monkeypatch.chdir("/")
    assert opened.path == atlas.path
    for read in READS.values():
        read(opened)
