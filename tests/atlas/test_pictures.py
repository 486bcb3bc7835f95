"""Pictures are added whole, replace their like, and are found by unit."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neurolab.atlas import Atlas, writing
from neurolab.atlas.pictures import Pictures
from neurolab.errors import AtlasError, UnknownSiteError
from tests.atlas.making import MAP_SITE, FakePicture, folder_bytes


def picture(name: str = "layer4.2/0", shade: int = 0, **changes: Any) -> FakePicture:
    image = np.full((6, 8, 3), shade, np.uint8)
    image[0, 0] = (255, 0, 7)
    about: dict[str, Any] = {
        "settings": {"steps": 256, "lr": np.float32(0.5), "size": (6, 8), "transforms": "standard"},
        "scores": {"activation": 3.5, "margin": np.float64(0.25)},
        "history": np.linspace(0, 1, 4, dtype=np.float32),
    }
    return FakePicture(name, image, **about | changes)


def test_a_picture_comes_back(atlas: Atlas) -> None:
    drawn = picture(shade=3, facet="face", seed=7)
    (row,) = atlas.add_pictures([drawn])
    assert atlas.pictures() == atlas.pictures("layer4.2/0") == atlas.unit("layer4.2/0").pictures == [row]
    assert (row.unit, row.kind, row.facet, row.seed) == (f"{MAP_SITE.name}/0", "fourier", "face", 7)
    assert row.settings == {"steps": 256, "lr": 0.5, "size": [6, 8], "transforms": "standard"}
    assert row.scores == {"activation": 3.5, "margin": 0.25}
    assert np.array_equal(np.array(row.history, np.float32), drawn.history)
    assert (row.width, row.height) == (8, 6)
    assert row.path == atlas.path / row.file
    assert np.array_equal(np.asarray(row.to_pil()), drawn.image)
    assert row["unit"] == dict(row)["unit"] == row.unit and len(row) == len(dict(row))
    with pytest.raises(KeyError):
        row["nothing"]
    assert atlas.pictures("layer4.2/1") == [] and atlas.summary()["pictures"] == 1


def test_a_transparent_picture_stays_so_and_is_shown_on_white(atlas: Atlas) -> None:
    rgba = np.zeros((6, 8, 4), np.uint8)
    rgba[:3] = (200, 0, 0, 255)
    rgba[3:, :4, 3] = 128
    plain, clear = atlas.add_pictures([picture(seed=1), picture(seed=2, rgba=rgba)])
    found = clear.rgba
    assert found is not None and np.array_equal(found, rgba) and plain.rgba is None
    shown = np.asarray(clear.to_pil())
    assert shown.shape == (6, 8, 3)
    assert [shown[0, 0].tolist(), shown[5, 7].tolist()] == [[200, 0, 0], [255, 255, 255]]
    assert np.abs(shown[4, 1].astype(int) - 127).max() <= 1


def test_a_damaged_picture_is_named(atlas: Atlas) -> None:
    (row,) = atlas.add_pictures([picture()])
    row.path.write_bytes(b"no picture")
    with pytest.raises(AtlasError, match=f"{row.path.name} cannot be read .* draw the picture again"):
        row.to_pil()
    row.path.unlink()
    with pytest.raises(AtlasError, match="cannot be read"):
        row.to_pil()


def test_the_same_picture_drawn_anew_replaces_the_old(atlas: Atlas) -> None:
    (before,) = atlas.add_pictures([picture(shade=1)])
    (after,) = atlas.add_pictures([picture(shade=2, scores={})])
    assert atlas.pictures() == [after] and after.file != before.file and after.scores == {}
    assert [path.name for path in (atlas.path / "pictures").iterdir()] == [after.path.name]


@pytest.mark.parametrize(
    "change",
    [{"name": "layer4.2/1"}, {"kind": "pixel"}, {"facet": "text"}, {"seed": 1}, {"settings": {"steps": 9}}],
)
def test_another_picture_does_not(atlas: Atlas, change: dict[str, Any]) -> None:
    atlas.add_pictures([picture()])
    atlas.add_pictures([picture(**change)])
    assert len(atlas.pictures()) == 2 == len(list((atlas.path / "pictures").iterdir()))


def test_the_files_do_not_depend_on_the_order(atlas: Atlas, tmp_path: Path) -> None:
    drawn = [picture(f"layer4.2/{i % 4}", shade=i, seed=i // 4) for i in range(12)]
    first, second = Pictures(tmp_path / "a"), Pictures(tmp_path / "b")
    first.folder.mkdir()
    second.folder.mkdir()
    first.add(drawn)
    second.add([picture(shade=99)])  # to be replaced
    for one in reversed(drawn):
        second.add([one])
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")
    assert [(row.unit, row.seed) for row in first.of()] == [
        (f"layer4.2/{i}", s) for i in range(4) for s in range(3)
    ]


def test_the_last_of_the_same_in_one_call_counts(atlas: Atlas) -> None:
    (row,) = atlas.add_pictures([picture(shade=1), picture(shade=2)])
    assert np.asarray(Image.open(row.path))[1, 1, 0] == 2
    assert atlas.add_pictures([]) == [] and atlas.pictures() == [row]


def test_units_are_in_the_order_of_their_numbers(atlas: Atlas) -> None:
    atlas.add_pictures(
        [picture("block1/2"), picture("layer4.2/3"), picture("layer4.2/0"), picture("block1/1")]
    )
    assert [p.unit.split("/")[1] for p in atlas.pictures()] == ["1", "2", "0", "3"]


def test_a_failure_leaves_the_old_pictures(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = atlas.add_pictures([picture(shade=1)])
    replace = writing.os.replace

    def fail(source: Path, target: Path) -> None:
        if target.name == "pictures.parquet":
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(writing.os, "replace", fail)
        with pytest.raises(AtlasError, match="No space left"):
            atlas.add_pictures([picture(shade=2), picture("layer4.2/1")])
    assert Atlas.open(atlas.path).pictures() == atlas.pictures() == [before]
    assert before.path.exists()
    atlas.add_pictures(
        [picture(shade=2), picture("layer4.2/1")]
    )  # and what it left behind is taken up or cleared
    assert len(atlas.pictures()) == 2 == len(list((atlas.path / "pictures").iterdir()))


def test_another_reader_sees_what_was_added(atlas: Atlas) -> None:
    reader = Atlas.open(atlas.path)
    assert reader.pictures() == []
    for shade in range(3):
        added = atlas.add_pictures([picture(shade=shade)])
        assert reader.pictures("layer4.2/0") == added


def test_writers_at_once_lose_nothing(atlas: Atlas) -> None:
    def add(seed: int) -> None:
        for i in range(4):
            Atlas.open(atlas.path).add_pictures([picture(f"layer4.2/{i}", seed=seed)])

    threads = [threading.Thread(target=add, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((p.unit[-1], p.seed) for p in atlas.pictures()) == [
        (str(i), s) for i in range(4) for s in range(4)
    ]


def test_wrong_pictures_are_refused_before_anything_is_written(atlas: Atlas) -> None:
    good = picture()
    with pytest.raises(UnknownSiteError):
        atlas.add_pictures([good, picture("layer9/0")])
    for image in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(AtlasError, match="not uint8"):
            atlas.add_pictures([good, FakePicture("layer4.2/0", image)])
    assert atlas.pictures() == [] and not (atlas.path / "pictures").exists()


def test_a_damaged_table_says_what_to_do(atlas: Atlas) -> None:
    (atlas.path / "pictures.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(AtlasError, match="draw the pictures again"):
        atlas.pictures()


def test_settings_that_json_does_not_know_are_kept_as_text(atlas: Atlas) -> None:
    odd = {"path": Path("a/b"), "array": np.arange(2), "nested": {1: (True, None)}, "none": None}
    (row,) = atlas.add_pictures([picture(settings=odd)])
    assert row.settings == {"path": "a/b", "array": [0, 1], "nested": {"1": [True, None]}, "none": None}
    assert json.loads(json.dumps(row.settings)) == row.settings
