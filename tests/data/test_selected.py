from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from neurolab.data.selected import SelectedSource, Selection, split_selection
from neurolab.data.sources import Record, Shard, Source, open_source


@dataclass
class Listed(Source):
    """Records that lie in memory, three to a shard."""

    records: list[Record] = field(default_factory=list)
    kind: str = "listed"
    location: str = "listed"

    def shards(self) -> list[Shard]:
        return [Shard(str(i), len(self.records[i : i + 3])) for i in range(0, len(self.records), 3)]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        first = int(shard.name)
        yield from self.records[first : first + 3][start:stop]

    def content_hash(self) -> str:
        return "0" * 64


KINDS = ["word", "photo", "word", "drawing", "photo", "word", "word"]
SOURCE = Listed(
    [Record(str(i), b"", labels={"kind": kind, "wnid": f"n0{i}4"}) for i, kind in enumerate(KINDS)]
    + [Record("bare", b"")]
)


def keys(selection: Selection) -> list[str]:
    return [record.key for record in SelectedSource(SOURCE, selection)]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection("kind", ("word",)), ["0", "2", "5", "6"]),
        (Selection("kind", ("word", "drawing")), ["0", "2", "3", "5", "6"]),
        (Selection("kind", ("word",), wanted=False), ["1", "3", "4", "bare"]),
        (Selection("wnid", ("n0[02]*", "n06?")), ["0", "2", "6"]),
        (Selection("wnid", ("4",)), []),  # a whole label, not a part of it
        (Selection("colour", ("*",)), []),
        (Selection("key", ("[3-5]", "b*")), ["3", "4", "5", "bare"]),
    ],
)
def test_the_records_that_fit(selection: Selection, expected: list[str]) -> None:
    assert keys(selection) == expected


def test_any_range_of_a_shard() -> None:
    source = SelectedSource(SOURCE, Selection("kind", ("word",)))
    first, second, third = source.shards()
    assert [record.key for record in source.read(first, 1)] == ["2"]
    assert [record.key for record in source.read(second, 0, 5)] == ["5"]
    assert [record.key for record in source.read(third, 1)] == []
    assert [record.key for record in source.limit(3)] == ["0", "2", "5"]
    with pytest.raises(TypeError, match="not known"):
        len(source)


def test_the_hash_tells_selections_apart() -> None:
    hashes = {
        SelectedSource(SOURCE, selection).content_hash()
        for selection in (
            Selection("kind", ("word",)),
            Selection("kind", ("word",), wanted=False),
            Selection("kind", ("word", "photo")),
            Selection("group", ("word",)),
        )
    }
    assert len(hashes) == 4


def test_names_of_selections() -> None:
    assert split_selection("demo[kind=word| photo]") == ("demo", Selection("kind", ("word", "photo")))
    found = split_selection("a/b.parquet[wnid=n01*][label!=3]")
    assert found == ("a/b.parquet[wnid=n01*]", Selection("label", ("3",), wanted=False))
    for plain in ("demo", "train-[0-9].tar", "train-{00..03}.tar", "hf:name#config:split", "a=b.tar"):
        assert split_selection(plain) is None


def test_a_selection_of_the_demo_set() -> None:
    source = open_source("demo[kind=drawing][group=smileys-emotion]")
    records = list(source)
    assert len(records) > 100
    assert all(record.labels["group"] == "smileys-emotion" for record in records)
    assert source.location == "demo[kind=drawing][group=smileys-emotion]"
