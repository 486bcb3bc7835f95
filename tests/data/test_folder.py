"""Image folders: order, keys, labels, captions, links, hostile names; and a hash blind to place and time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from neurolab.data.files import ListedFile
from neurolab.data.folder import SHARD_SIZE, FolderSource
from neurolab.data.sources import Shard
from neurolab.errors import SourceError
from tests.data.making import encoded


def put(path: Path, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def keys(folder: Path) -> list[str]:
    return [record.key for record in FolderSource(folder)]


def test_keys_labels_and_captions(tmp_path: Path) -> None:
    put(tmp_path / "b/c/dog.JPG", encoded(1))
    put(tmp_path / "b/c/dog.txt", "a dog\nein Hund, größer\n".encode())
    put(tmp_path / "b/cat.png", encoded(2, "PNG"))
    put(tmp_path / "b/cat.json", b'{"captions": ["a cat"], "label": "felis"}')
    put(tmp_path / "a.webp", encoded(3, "WEBP"))
    put(tmp_path / "notes.txt", b"not a caption")
    put(tmp_path / "README.md")
    records = {record.key: record for record in FolderSource(tmp_path)}
    assert list(records) == ["a.webp", "b/c/dog.JPG", "b/cat.png"]
    assert records["a.webp"].labels == {}
    assert records["b/c/dog.JPG"].labels == {"folder": "b/c", "label": "b/c"}
    assert records["b/c/dog.JPG"].captions == ("a dog", "ein Hund, größer")
    assert records["b/cat.png"].labels == {"folder": "b", "label": "felis"}
    assert records["b/cat.png"].captions == ("a cat",)
    assert records["a.webp"].payload == ListedFile(tmp_path / "a.webp", tmp_path)


def test_a_wrong_sidecar_is_noted_and_the_image_kept(tmp_path: Path) -> None:
    put(tmp_path / "x.jpg", encoded(1))
    put(tmp_path / "x.json", b"{")
    put(tmp_path / "x.txt", b"\xff\xfe")
    (record,) = FolderSource(tmp_path)
    assert [note.split(":")[0] for note in record.notes] == ["x.txt", "x.json"]


def test_hidden_files_and_other_things_are_no_records(tmp_path: Path) -> None:
    for name in ("x.jpg", ".hidden.jpg", "._x.jpg", ".git/y.jpg", "x.mp4", "x.jpg.txt", "jpg"):
        put(tmp_path / name)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    assert keys(tmp_path) == ["x.jpg"]


def test_links(tmp_path: Path) -> None:
    put(tmp_path / "tree/a/1.jpg")
    put(tmp_path / "elsewhere/deep/2.jpg")
    tree = tmp_path / "tree"
    (tree / "a/loop").symlink_to(tree, target_is_directory=True)
    (tree / "a/self").symlink_to("self")
    (tree / "0-again").symlink_to(tree / "a", target_is_directory=True)
    (tree / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere/back").symlink_to(tree, target_is_directory=True)
    (tree / "file.jpg").symlink_to(tree / "a/1.jpg")
    (tree / "broken.jpg").symlink_to("nowhere.jpg")
    (tree / "round.jpg").symlink_to("round.jpg")
    # Each real folder once, under its real name where it has one; broken links are bad images.
    assert keys(tree) == ["a/1.jpg", "broken.jpg", "file.jpg", "linked/deep/2.jpg", "round.jpg"]


@pytest.mark.parametrize("link", ["0", "z"])
def test_what_has_a_real_name_is_not_named_by_a_link(link: str, tmp_path: Path) -> None:
    """Whether the link comes before it or behind it."""
    put(tmp_path / "m/deep/1.jpg")
    (tmp_path / link).symlink_to(tmp_path / "m", target_is_directory=True)
    (tmp_path / "m" / link).symlink_to(tmp_path / "m/deep", target_is_directory=True)
    assert keys(tmp_path) == ["m/deep/1.jpg"]


def test_names_of_any_kind(tmp_path: Path) -> None:
    names = [
        "größe/日本.jpg",
        "e\u0301.jpg",
        "\u00e9.jpg",
        "new\nline.jpg",
        "a b'\"$(x).jpg",
        "ÜBER.JPEG",
        "-rf.png",
    ]
    for name in names:
        put(tmp_path / name, encoded(0))
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb") as stream:
        stream.write(encoded(1))
    found = keys(tmp_path)
    assert set(found) == {*names, "caf\\xe9.jpg"}
    assert all(key.encode("utf-8") for key in found)
    assert all(isinstance(r.payload, ListedFile) and r.payload.read() for r in FolderSource(tmp_path))


def test_shards_and_ranges(tmp_path: Path) -> None:
    for i in range(SHARD_SIZE + 30):
        put(tmp_path / f"{i:05d}.jpg")
    source = FolderSource(tmp_path)
    assert [shard.size for shard in source.shards()] == [SHARD_SIZE, 30]
    assert len(source) == SHARD_SIZE + 30
    second = source.shards()[1]
    assert [r.key for r in source.read(second, 5, 8)] == ["01005.jpg", "01006.jpg", "01007.jpg"]
    assert len(list(source.read(second, 28))) == 2
    assert list(source.read(second, 30)) == []
    assert isinstance(second, Shard)


def test_the_hash_knows_content_and_names_but_not_place_and_time(image_folder: Path, tmp_path: Path) -> None:
    original = FolderSource(image_folder).content_hash()
    copy = tmp_path / "elsewhere"
    shutil.copytree(image_folder, copy)
    some = next(path for path in sorted(copy.rglob("*")) if path.is_file())
    os.utime(some, (1, 1))
    put(copy / ".hidden.jpg", b"x")
    assert FolderSource(copy).content_hash() == original
    changes = {
        "a caption": lambda: put(some.with_suffix(".txt"), b"new"),
        "content": lambda: some.write_bytes(some.read_bytes() + b"x"),
        "a name": lambda: some.rename(some.with_name("renamed.png")),
    }
    seen = {original}
    for change in changes.values():
        change()
        seen.add(FolderSource(copy).content_hash())
    assert len(seen) == 4


def test_the_hash_knows_what_kind_of_sidecar_it_is(tmp_path: Path) -> None:
    """The same bytes are another caption as JSON than as text."""
    put(tmp_path / "x.jpg", encoded(1))
    sidecar, hashes, captions = put(tmp_path / "x.txt", b'"a cat"'), [], []
    for suffix in (".txt", ".json"):
        sidecar = sidecar.rename(sidecar.with_suffix(suffix))
        source = FolderSource(tmp_path)
        hashes.append(source.content_hash())
        captions += [record.captions for record in source]
    assert captions[0] != captions[1] and hashes[0] != hashes[1]


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    put(tmp_path / "readme.txt")
    with pytest.raises(SourceError, match="no images below it"):
        FolderSource(tmp_path)
