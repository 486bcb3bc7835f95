"""What is learned from: nothing of any held-out split, and every part what its name says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from neurolab.data.sources import Record, open_source
from neurolab.training.parts import (
    TrainingData,
    drawing_texts,
    folder_records,
    known_embeddings,
    known_keys,
    last_name,
)


@pytest.fixture(scope="module")
def data(neurolab_data: Path) -> TrainingData:
    return TrainingData(neurolab_data)


def test_known_embeddings_go_by_the_last_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", keys=np.array(["x/1", "2"]), embeddings=np.eye(2, dtype=np.float16))
    assert known_keys([tmp_path / "a.npz"]) == {"1", "2"}
    assert known_embeddings([tmp_path / "a.npz"])["1"].tolist() == [1, 0]
    assert last_name("a/b/c.jpg") == "c.jpg"


def test_a_stamps_name_has_neither_article_nor_stop() -> None:
    captions = {"A guinea fowl.": "guinea fowl", "An albino peahen": "albino peahen", "Theatre!": "Theatre"}
    for caption, name in captions.items():
        assert drawing_texts(Record("key", b"", (caption,))) == [("drawing", name)]
    assert drawing_texts(Record("key", b"")) == []


def test_folders_are_cut_to_their_topics_and_may_be_missing(image_folder: Path) -> None:
    assert {r.key.partition("/")[0] for r in folder_records(image_folder)} == {"even", "odd"}
    assert {r.key.partition("/")[0] for r in folder_records(image_folder, frozenset({"odd"}))} == {"odd"}
    assert folder_records(image_folder / "nowhere") == []


def test_photos_are_those_of_the_train_splits(data: TrainingData) -> None:
    flickr = {last_name(record.key) for record in data.flickr()}
    held = {
        last_name(record.key)
        for split in ("dev", "test")
        for record in open_source(data.data / "flickr8k" / f"flickr8k-{split}-000.tar")
    }
    assert len(flickr) == 6000 and len(held) == 2000 and not flickr & held
    tiny = [*data.tiny(True), *data.tiny(False)]
    validation = {r.key for r in open_source(data.data / "tiny-imagenet" / "val-00000.parquet")}
    assert len({r.key for r in tiny}) == len(tiny) == 30_000
    assert not {last_name(r.key) for r in tiny} & {last_name(key) for key in validation}


def test_parts_have_records_with_the_texts_of_their_kind(data: TrainingData) -> None:
    parts = data.parts()
    for name, kinds in {
        "flickr8k": {"caption"}, "tiny-imagenet": {"name"}, "words": {"word"}, "demo": {"drawing", "photo"},
        "things": {"word"}, "written": {"word"}, "restyled": {"word"}, "pasted": set(), "sentences": set(),
    }.items():  # fmt: skip
        part = parts[name]
        records = list(part.records())
        assert len(records) > 1000, name
        found = {kind for record in records for kind, _ in part.texts(record)}
        assert found == kinds, name
        assert part.mirrored == (name in ("flickr8k", "tiny-imagenet"))


def test_every_word_is_written_once_beside_its_plain_picture(data: TrainingData) -> None:
    plain, things = known_keys(data.known_words), [record.captions[0] for record in data.things()]
    written = [record.captions[0] for record in data.written()]
    assert len(set(things)) == len(things) and not plain & set(things)
    assert len(set(written)) == len(written) and not (plain | set(things)) & set(written)
    assert set(data.words()) <= plain | set(things) | set(written)


def test_things_are_the_words_that_pictures_are_named_or_captioned_with(data: TrainingData) -> None:
    photos = Counter(
        word
        for record in data.flickr()
        for word in set(re.split("[^a-z]+", " ".join(record.captions).lower()))
    )
    things = data.thing_words()
    assert {"bench", "grass", "knife", "pillow"} <= set(things)
    assert not [record.captions[0] for record in data.written() if photos[record.captions[0]] > 1]
    named = [word for word in things if photos[word] < 2]
    texts = [text for part in ("tiny-imagenet", "demo") for r in data.parts()[part].records()
             for _, text in data.parts()[part].texts(r)]  # fmt: skip
    assert named and set(named) <= set(re.split("[^a-z]+", " ".join(texts).lower()))


def test_every_class_name_is_among_the_words_that_are_pasted(data: TrainingData) -> None:
    names = {record.labels["label"] for record in data.tiny(True)}
    pasted = {record.key.rpartition("/")[2] for record in data.pasted()}
    assert len(names) == 200 and names <= pasted and len(pasted) > 390
