"""Sources by name, parts of sources, and sources one after another."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurolab.data.combine import ConcatSource, LimitedSource
from neurolab.data.folder import FolderSource
from neurolab.data.hashing import ContentHash, records_hash
from neurolab.data.parquet import ParquetSource, SavedSource
from neurolab.data.sources import Record, Shard, Source, Unreadable, open_source
from neurolab.data.streams import TarStreamSource
from neurolab.data.tars import TarSource
from neurolab.errors import SourceError
from tests.data.making import MemorySource, Square, encoded, samples, write_tar
from tests.data.serving import serving
from tests.data.test_tables import hf_dataset

PACKED = {
    "tar.gz": gzip.compress,
    "tgz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one source of each kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/cats").mkdir(parents=True)
    (tmp_path / "photos/cats/1.jpg").write_bytes(encoded(1))
    (tmp_path / "shards").mkdir()
    (tmp_path / "more").mkdir()
    write_tar(tmp_path / "more/t-002.tar", samples(2, 9))
    for i in range(3):
        write_tar(tmp_path / f"shards/t-{i:03d}.tar", samples(2, 2 * i))
    write_tar(tmp_path / "packed.tar.gz", samples(2), "w:gz")
    hf_dataset(3).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "repository/data").mkdir(parents=True)
    hf_dataset(3).to_parquet(tmp_path / "repository/data/train.parquet")
    hf_dataset(3).save_to_disk(tmp_path / "saved")
    (tmp_path / "empty").mkdir()
    (tmp_path / "readme.txt").write_text("hello")
    return tmp_path


SPECS: dict[str, tuple[object, type[Source], int]] = {
    "folder of images": ("photos", FolderSource, 1),
    "path": (Path("photos"), FolderSource, 1),
    "trailing slash": ("photos/", FolderSource, 1),
    "folder of tars": ("shards", TarSource, 6),
    "one tar": ("shards/t-001.tar", TarSource, 2),
    "glob": ("shards/*.tar", TarSource, 6),
    "braces": ("shards/t-{000..001}.tar", TarSource, 4),
    "braces and glob": ("{shards,more}/t-00[12].tar", TarSource, 6),
    "Parquet file": ("rows.parquet", ParquetSource, 3),
    "Parquet repository": ("repository", ParquetSource, 3),
    "saved dataset": ("saved", SavedSource, 3),
    "several": (["photos", "rows.parquet"], ConcatSource, 4),
    "a list of one": (["photos"], FolderSource, 1),
}


@pytest.mark.parametrize("spec, kind, size", SPECS.values(), ids=SPECS.keys())
def test_specs(place: Path, spec: str, kind: type[Source], size: int) -> None:
    source = open_source(spec)
    assert type(source) is kind
    assert len(source) == len(list(source)) == size
    assert len({record.key for record in source}) == size
    told = source.describe()
    assert set(told) == {"kind", "location", "hash", "size"}
    assert (told["size"], len(told["hash"])) == (size, 64)


def test_sources_and_streams_pass(place: Path) -> None:
    source = FolderSource("photos")
    assert open_source(source) is source
    assert isinstance(open_source("packed.tar.gz"), TarStreamSource)
    assert isinstance(open_source("https://example.org/{00..03}.tar?x=1"), TarStreamSource)
    assert len(open_source("s3://bucket/t-{0..9}.tar").shards()) == 10


WRONG: dict[str, tuple[object, str]] = {
    "a typo": ("photo", r"nothing at photo: did you mean photos\?"),
    "a typo in a folder": ("shards/t-0001.tar", r"did you mean t-0"),
    "deep down": ("nowhere/at/all", "nothing at nowhere/at/all"),
    "a typo of demo": ("dmeo", r"did you mean demo\?"),
    "a pattern without files": ("shards/*.tra", r"nothing at shards/\*\.tra"),
    "a hole in the braces": ("shards/t-{000..003}.tar", r"nothing at shards/t-003\.tar \(of the pattern"),
    "open braces": ("shards/t-{000..", "."),
    "an empty folder": ("empty", "no images below it"),
    "an unknown kind": ("readme.txt", r"no known kind \(\.txt\)"),
    "one image": ("photos/cats/1.jpg", "is an image: a source is a folder of images, give photos/cats"),
    "nothing": ("", "empty name"),
    "a number": (3, "not a source"),
    "an empty list": ([], "no sources"),
    "a web page": ("https://example.org/index.html", "names no tar shards"),
    "a command": ("pipe:cat x.tar", "run a command"),
    "a bad hub name": ("hf:", "does not read as"),
}


@pytest.mark.parametrize("spec, message", WRONG.values(), ids=WRONG.keys())
def test_wrong_specs_say_what_to_do(place: Path, spec: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(spec)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["shard.tar", "shard.tar.gz", "table.parquet"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(SourceError, match=f"{name} is no regular file"):
        open_source(tmp_path / name)


def test_a_folder_of_both_kinds_must_be_told(place: Path) -> None:
    os.link(place / "rows.parquet", place / "shards/rows.parquet")
    with pytest.raises(SourceError, match=r"give shards/\*\.tar or shards/\*\.parquet"):
        open_source("shards")
    assert len(open_source("shards/*.tar")) == 6


@pytest.fixture
def photos(place: Path) -> Path:
    """A folder of 20 images."""
    (place / "trip").mkdir()
    for i in range(20):
        (place / f"trip/{i:02d}.jpg").write_bytes(encoded(i))
    return place / "trip"


STRAYS = {
    "backup.tar": (r"trip/\*\.tar", 2),
    "deep/backup.tar": (r"trip/\*\*/\*\.tar", 2),
    "backup.tgz": (r"trip/\*\.tgz", 2),
    "metadata.parquet": (r"trip/\*\.parquet", 3),
}


@pytest.mark.parametrize("stray", STRAYS)
def test_images_beside_shards_are_not_ignored(photos: Path, stray: str) -> None:
    pattern, size = STRAYS[stray]
    (photos / stray).parent.mkdir(exist_ok=True)
    if stray.endswith(".parquet"):
        hf_dataset(size).to_parquet(photos / stray)
    else:
        write_tar(photos / stray, samples(size), "w:gz" if stray.endswith("gz") else "w")
    with pytest.raises(
        SourceError, match=rf"20 images \(as 00\.jpg\) and 1 \*\.\w+ file \(as {stray}\)"
    ) as said:
        open_source("trip")
    images, shards = str(said.value).partition(": give ")[2].split(" or ")
    assert (images, shards) == ("folder:trip", pattern.replace("\\", ""))
    assert len(open_source(images)) == 20
    assert len(list(open_source(shards))) == size


def test_a_folder_named_as_one_of_images(photos: Path) -> None:
    plain, told = open_source("trip"), open_source("folder:trip")
    assert told.content_hash() == plain.content_hash()
    assert open_source(told.location).content_hash() == plain.content_hash()
    assert len(list(open_source("folder:trip[key=0*]"))) == 10
    together = [[record.key for record in open_source([spec, "more"])] for spec in ("trip", "folder:trip")]
    assert together[0] == together[1]
    with pytest.raises(SourceError, match=r"nothing at trop: did you mean trip\?"):
        open_source("folder:trop")
    with pytest.raises(SourceError, match=r"rows\.parquet is no folder"):
        open_source("folder:rows.parquet")


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.bz2", "tar.xz", "tar.zst"])
def test_folders_of_compressed_shards(tmp_path: Path, suffix: str) -> None:
    for number in range(2):
        plain = write_tar(tmp_path / "plain.tar", samples(3, 3 * number))
        data = plain.read_bytes()
        plain.unlink()
        (tmp_path / f"t-{number}.{suffix}").write_bytes(PACKED[suffix](data))
    source = open_source(tmp_path)
    assert [shard.name for shard in source.shards()] == ["t-0", "t-1"]
    read = list(source)
    assert [record.key for record in read] == [f"t-{i // 3}/{i:04d}" for i in range(6)]
    assert [record.payload for record in read] == [encoded(i) for i in range(6)]
    assert [record.key for record in open_source(tmp_path / f"t-1.{suffix}")] == ["0003", "0004", "0005"]


def test_plain_and_compressed_shards_must_be_told(place: Path) -> None:
    os.link(place / "packed.tar.gz", place / "shards/packed.tar.gz")
    with pytest.raises(SourceError, match=r"give shards/\*\.tar or shards/\*\.tar\.gz"):
        open_source("shards")


@pytest.mark.parametrize("damage", ["cut", "wrong"])
def test_a_damaged_zstandard_shard_ends_with_a_record_that_says_so(tmp_path: Path, damage: str) -> None:
    write_tar(tmp_path / "plain.tar", [(f"{i:03d}.bin", random.Random(i).randbytes(9000)) for i in range(60)])
    whole = PACKED["tar.zst"]((tmp_path / "plain.tar").read_bytes())
    half = len(whole) // 2
    broken = whole[:half] if damage == "cut" else whole[:half] + bytes(400) + whole[half + 400 :]
    (tmp_path / "t.tar.zst").write_bytes(broken)
    *_, last = open_source(tmp_path / "t.tar.zst")
    assert last.key == "t/(end of the shard)"
    assert isinstance(last.payload, Unreadable)


NOT_THERE = {
    "~nosuchuser/x": "knows no home of ~nosuchuser",
    "x" * 300: "x{100}\\.\\.\\. cannot be looked up: File name too long",
    "folder:" + "x" * 300: "cannot be looked up: File name too long",
    "x" * 300 + "/{0..1}.tar": "nothing at x",
    "a\0b": "nothing at a",
}


@pytest.mark.parametrize("spec", NOT_THERE, ids=range(len(NOT_THERE)))
def test_names_that_the_system_refuses(place: Path, spec: str) -> None:
    with pytest.raises(SourceError, match=NOT_THERE[spec]):
        open_source(spec)


def test_a_pattern_may_be_longer_than_a_name(place: Path) -> None:
    again = ",".join(["t-000"] * 60)
    assert len(open_source(f"shards/{{{again},t-001}}.tar")) == 4


def records(prefix: str, count: int) -> list[Record]:
    return [Record(f"{prefix}{i}", f"bytes {i}".encode()) for i in range(count)]


def test_several_sources(place: Path) -> None:
    (place / "more/photos/dogs").mkdir(parents=True)
    (place / "more/photos/dogs/2.jpg").write_bytes(encoded(2))
    source = open_source(["photos", "more/photos", "shards/t-000.tar", "shards"])
    keys = [record.key for record in source]
    assert keys[:4] == ["photos/cats/1.jpg", "photos-2/dogs/2.jpg", "t-000/0000", "t-000/0001"]
    assert keys[4] == "shards/t-000/0000"
    names = [shard.name for shard in source.shards()]
    assert len(set(names)) == len(names)
    assert list(source.read(source.shards()[-1], 1)) == list(source)[-1:]
    other_way = open_source(["more/photos", "photos", "shards/t-000.tar", "shards"])
    assert other_way.content_hash() != source.content_hash()


def test_labels_that_name_keys_go_on_naming_them() -> None:
    part = MemorySource({"s": [Record("x", b"", labels={"clean": "y"})]})
    (record,) = ConcatSource([part])
    assert record.labels == {"clean": "memory/y"}


sizes = st.lists(st.integers(0, 5), min_size=1, max_size=5)


@given(sizes, st.integers(1, 20), st.booleans())
def test_limits_take_the_first_records(counts: list[int], limit: int, sized: bool) -> None:
    inner = MemorySource({f"s{i}": records(f"{i}-", count) for i, count in enumerate(counts)}, sized)
    source = inner.limit(limit)
    expected = list(inner)[:limit]
    assert list(source) == expected
    # Shards in any order, as a resumed build or another process reads them, and in ranges.
    fresh = inner.limit(limit)
    parts = {shard.name: list(fresh.read(shard)) for shard in reversed(fresh.shards())}
    assert [record for shard in fresh.shards() for record in parts[shard.name]] == expected
    for shard in fresh.shards():
        ranged = [record for i in range(6) for record in inner.limit(limit).read(shard, i, i + 1)]
        assert ranged == parts[shard.name]
    if sized:
        assert len(source) == len(expected)


@pytest.mark.parametrize(("limit", "read"), [(5, "a"), (9, "a"), (12, "ab"), (18, "ab"), (99, "abc")])
def test_a_limit_reads_no_more_than_it_gives_and_that_once(limit: int, read: str) -> None:
    inner = MemorySource({"a": records("a", 9), "b": records("b", 9), "c": records("c", 9)}, sized=False)
    assert len(list(inner.limit(limit))) == min(limit, 27)
    assert inner.reads == [(name, 0) for name in read]


def test_a_limit_is_at_least_one_image() -> None:
    inner = MemorySource({"a": records("a", 9)})
    with pytest.raises(SourceError, match="at least 1"):
        LimitedSource(inner, 0)


def test_the_hash_of_a_limited_source_is_of_what_it_takes(place: Path) -> None:
    one, two = open_source("shards/t-000.tar"), open_source("shards/t-{000..001}.tar")
    assert one.limit(1).content_hash() != one.limit(2).content_hash()
    assert two.limit(2).content_hash() == open_source("shards").limit(2).content_hash()
    drawn = MemorySource({"s": [Record("a", Square(1)), Record("b", Square(2))]})
    assert records_hash("x", drawn) is None
    assert drawn.limit(1).content_hash() != drawn.limit(2).content_hash() != drawn.content_hash()


def test_a_limit_on_shards_behind_urls_is_hashed_without_fetching(tmp_path: Path) -> None:
    files = {f"/t-{i}.tar": write_tar(tmp_path / f"t-{i}.tar", samples(4, 4 * i)) for i in range(3)}
    with serving({name: path.read_bytes() for name, path in files.items()}) as server:
        spec = f"{server.address}/t-{{0..2}}.tar"
        for source in (open_source(spec), ConcatSource([open_source(spec)]), open_source(f"{spec}[label=1]")):
            found = {source.limit(count).describe()["hash"] for count in (5, 6)}
            assert len(found | {source.content_hash()}) == 3
        assert {asked.split()[0] for asked in server.asked} == {"HEAD"}
        limited = open_source(spec).limit(9)
        before = limited.content_hash()
        limited.recall({"t-0": 4, "t-1": 4}, {})
        assert [record.key for record in limited.read(limited.shards()[2])] == ["t-2/0008"]
        assert [asked for asked in server.asked if "GET" in asked] == ["GET /t-2.tar"]
        server.files["/t-1.tar"] += bytes(512)
        assert open_source(spec).limit(9).content_hash() != before


def test_record_hashes_know_every_part() -> None:
    variants = [
        *(Record("a", b"x"), Record("b", b"x"), Record("a", b"y"), Record("a", b"x", ("c",))),
        *(Record("a", b"x", labels={"l": "1"}), Record("a", Unreadable("x")), Record("a", Path("nowhere"))),
    ]
    assert len({records_hash("x", [record]) for record in variants}) == len(variants)


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_different_texts_hash_differently(a: list[str], b: list[str]) -> None:
    def digest(texts: list[str]) -> str:
        total = ContentHash("x")
        for text in texts:
            total.add_text(text)
        return total.hexdigest()

    assert (digest(a) == digest(b)) == (a == b)


def test_reading_sources_needs_no_torch() -> None:
    code = (
        "import sys, neurolab.data.worker, neurolab.data.loader, neurolab.data.opening; "
        "sys.exit('torch' in sys.modules or 'datasets' in sys.modules or 'webdataset' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shards_are_values() -> None:
    assert Shard("a", 3) == Shard("a", 3)
    assert Record("a", b"").labels == {}


@pytest.mark.parametrize(
    "wrong",
    [{"key": 1}, {"captions": (1,)}, {"captions": "a dog"}, {"labels": {"kind": 3}}, {"notes": (None,)}],
)
def test_texts_that_are_none_are_refused_where_they_are_given(wrong: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="for texts: its key and labels are strings"):
        Record(**{"key": "a", "payload": b""} | wrong)


def test_a_folder_may_be_called_as_a_selection_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "pictures[label=x]"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(encoded(1))
    assert [record.key for record in open_source(str(folder))] == ["a.jpg"]
    with pytest.raises(SourceError, match="there is nothing at"):
        open_source(str(tmp_path / "pictures[label=y]"))


def test_tables_lie_beside_the_images_that_they_name(place: Path) -> None:
    folder = place / "named"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(encoded(1))
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": None, "path": "a.jpg"}], kind)
    pq.write_table(pa.table({"image": images}), folder / "t.parquet")
    source = open_source(str(folder))
    assert isinstance(source, ParquetSource) and len(source) == 1


def test_a_folder_that_may_not_be_listed_does_not_hide_the_shards_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "a.tar", samples(3))
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def forbidden(path: Any) -> Any:
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    assert len(open_source(str(tmp_path))) == 3
    (tmp_path / "a.tar").unlink()
    with pytest.raises(SourceError, match=r"cannot list .*lost.found: Permission denied"):
        open_source(str(tmp_path))
