from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from neurolab.data.sources import Record
from neurolab.errors import SourceError, TrainingError
from neurolab.training import prepare
from neurolab.training.parts import Part
from neurolab.training.prepare import prepare_part, see, view
from neurolab.training.recipe import PartPlan


class Flat:
    """A picture of one grey, by which the fake teacher knows it again."""

    def __init__(self, grey: int) -> None:
        self.grey = grey

    def __call__(self) -> Image.Image:
        return Image.new("RGB", (40, 30), (self.grey,) * 3)


def grey_of(images: list[Image.Image]) -> np.ndarray:
    """A teacher that gives every picture's mean grey in all 512 dimensions."""
    return np.stack([np.full(512, np.asarray(image).mean(), np.float16) for image in images])


def refuse(images: list[Image.Image]) -> np.ndarray:
    raise AssertionError(f"the teacher was asked for {len(images)} pictures")


def part_of(records: list[Record], known: tuple[Path, ...] = ()) -> Part:
    return Part("greys", lambda: records, lambda r: [("name", r.key)], known, mirrored=True)


def greys(count: int) -> list[Record]:
    return [Record(f"folder/{i}", Flat(10 + i), (f"grey {i}",)) for i in range(count)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "SHARD_RECORDS", 4)


def shard(folder: Path, number: int) -> tuple[np.ndarray, np.ndarray, list[dict[str, object]]]:
    at = folder / f"{number:05d}"
    rows = pq.read_table(at / "texts.parquet").to_pylist()
    return np.load(at / "images.npy"), np.load(at / "embeddings.npy"), rows


def test_a_shard_holds_pictures_their_embeddings_and_texts(tmp_path: Path) -> None:
    folder = prepare_part(part_of(greys(10)), PartPlan(), tmp_path, 8, grey_of)
    assert folder is not None and len(list(folder.glob("0*"))) == 3
    images, embeddings, rows = shard(folder, 1)
    assert images.shape == (4, 8, 8, 3) and images[2].mean() == 16
    assert embeddings.dtype == np.float16 and embeddings[:, 0].tolist() == [14, 15, 16, 17]
    assert rows == [{"kind": "name", "text": f"folder/{4 + i}", "image": i} for i in range(4)]


def test_views_are_embedded_each_and_texts_belong_to_the_whole_picture(tmp_path: Path) -> None:
    folder = prepare_part(part_of(greys(2)), PartPlan(views=3), tmp_path, 8, grey_of)
    assert folder is not None
    images, embeddings, rows = shard(folder, 0)
    assert len(images) == len(embeddings) == 6 and [row["image"] for row in rows] == [0, 3]
    # Brightness differs from view to view, and the teacher is told by what it saw, not by the record.
    assert len(set(embeddings[:3, 0].tolist())) == 3
    assert np.allclose(images.mean(axis=(1, 2, 3)), embeddings[:, 0], atol=0.6)


def test_known_embeddings_spare_the_teacher_and_must_all_be_found(tmp_path: Path) -> None:
    known = tmp_path / "known.npz"
    rows = np.arange(3, dtype=np.float16)[:, None].repeat(512, axis=1)
    np.savez(known, keys=np.array(["a/0", "a/1", "a/2"]), embeddings=rows)
    folder = prepare_part(part_of(greys(3), (known,)), PartPlan(), tmp_path / "out", 8, refuse)
    assert folder is not None and shard(folder, 0)[1][:, 0].tolist() == [0, 1, 2]
    with pytest.raises(SourceError, match="1 of 3 teacher embeddings have no image"):
        prepare_part(part_of(greys(2), (known,)), PartPlan(), tmp_path / "other", 8, refuse)


def test_a_stopped_preparation_goes_on_after_the_last_whole_shard(tmp_path: Path) -> None:
    asked: list[int] = []

    def stops(images: list[Image.Image]) -> np.ndarray:
        asked.append(len(images))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return grey_of(images)

    part = part_of(greys(10))
    with pytest.raises(KeyboardInterrupt):
        prepare_part(part, PartPlan(), tmp_path, 8, stops)
    before = (tmp_path / "greys" / "00000" / "images.npy").stat().st_mtime_ns
    assert not prepare.is_whole(tmp_path / "greys")
    folder = prepare_part(part, PartPlan(), tmp_path, 8, grey_of)
    assert folder is not None and prepare.is_whole(folder)
    assert (folder / "00000" / "images.npy").stat().st_mtime_ns == before
    assert prepare_part(part, PartPlan(), tmp_path, 8, refuse) == folder
    assert not list(folder.glob(".*"))


def test_processes_share_the_shards(tmp_path: Path) -> None:
    part = part_of(greys(10))
    prepare_part(part, PartPlan(), tmp_path, 8, grey_of, process=1, processes=2)
    assert sorted(path.name for path in (tmp_path / "greys").glob("0*")) == ["00001"]
    prepare_part(part, PartPlan(), tmp_path, 8, grey_of, process=0, processes=2)
    assert prepare.is_whole(tmp_path / "greys")


def test_an_unreadable_picture_is_left_out_with_its_reason(tmp_path: Path) -> None:
    records = greys(3)
    records[1] = Record("folder/bad", b"no image")
    folder = prepare_part(part_of(records), PartPlan(views=2), tmp_path, 8, grey_of)
    assert folder is not None
    images, _, rows = shard(folder, 0)
    assert len(images) == 4 and [row["text"] for row in rows] == ["folder/0", "folder/2"]
    skipped = json.loads((folder / "00000" / "skipped.json").read_text())
    assert list(skipped) == ["folder/bad"] and "not an image" in skipped["folder/bad"]


@pytest.mark.parametrize("plan, size", [(PartPlan(images=2), 8), (PartPlan(views=2), 8), (PartPlan(), 16)])
def test_shards_of_another_plan_are_refused(tmp_path: Path, plan: PartPlan, size: int) -> None:
    prepare_part(part_of(greys(3)), PartPlan(), tmp_path, 8, grey_of)
    with pytest.raises(TrainingError, match="prepared otherwise"):
        prepare_part(part_of(greys(3)), plan, tmp_path, size, grey_of)


def test_what_is_not_installed_is_left_out_and_what_is_needed_is_not(tmp_path: Path) -> None:
    optional = dataclasses.replace(part_of([]), optional=True)
    assert prepare_part(optional, PartPlan(), tmp_path, 8, refuse) is None
    assert not (tmp_path / "greys").exists()
    with pytest.raises(SourceError, match="no pictures of it"):
        prepare_part(part_of([]), PartPlan(), tmp_path, 8, refuse)


def test_a_preparation_is_not_gone_on_with_from_other_records(tmp_path: Path) -> None:
    prepare_part(part_of(greys(10)), PartPlan(), tmp_path, 8, grey_of, process=0, processes=2)
    with pytest.raises(TrainingError, match="records"):
        prepare_part(part_of(greys(9)), PartPlan(), tmp_path, 8, grey_of)


def test_a_shard_without_any_readable_picture_does_not_end_the_preparation(tmp_path: Path) -> None:
    records = [*greys(4), Record("folder/bad", b"no image")]
    folder = prepare_part(part_of(records), PartPlan(), tmp_path, 8, grey_of)
    assert folder is not None and prepare.is_whole(folder)
    images, embeddings, rows = shard(folder, 1)
    assert images.shape == (0, 8, 8, 3) and embeddings.shape == (0, 512) and rows == []


def test_a_plan_draws_its_images_by_their_place() -> None:
    drawn = [
        [r.key for r in prepare.chosen_records(part_of(greys(50)), PartPlan(images=10))] for _ in range(2)
    ]
    assert len(set(drawn[0])) == 10 and drawn[0] == drawn[1]
    assert drawn[0] != [record.key for record in greys(10)]


def colours() -> Callable[[], Image.Image]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    return lambda: image


def test_views_of_a_key_are_always_the_same_and_the_first_is_the_whole() -> None:
    image = colours()()
    assert view(image, "a", 0, True) is image
    one, again, other = view(image, "a", 1, True), view(image, "a", 1, True), view(image, "a", 2, True)
    assert one.tobytes() == again.tobytes() and one.tobytes() != other.tobytes()


def test_crops_keep_at_least_a_third_and_letters_are_not_mirrored() -> None:
    ramp = Image.fromarray(
        np.linspace(0, 250, 100).astype(np.uint8)[None, :, None].repeat(80, 0).repeat(3, 2)
    )
    mirrored = 0
    for key in range(200):
        for may in (True, False):
            out = view(ramp, str(key), 1, may)
            assert 0.33 * 8000 <= out.width * out.height <= 8000
            row = np.asarray(out)[0, :, 0].astype(int)
            falls = row[0] > row[-1]
            assert may or not falls
            mirrored += may and falls
    assert 70 < mirrored < 130


def test_a_record_is_seen_in_as_many_views() -> None:
    seen = see(Record("k", colours()), 3, mirrored=False)
    assert len(seen.views) == 3 and not seen.reason
