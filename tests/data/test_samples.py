"""Keys that come again get numbers, and however often they do, each costs the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import neurolab.data.samples
from neurolab.data.combine import ConcatSource
from neurolab.data.samples import UniqueKeys
from neurolab.data.sources import Record, Shard
from tests.data.making import MemorySource


def by_trying(keys: list[str], mark: str) -> list[str]:
    """The first free name of each key, found in the plainest way."""
    taken: list[str] = []
    for key in keys:
        names = [key, *(f"{key}{mark}{number}" for number in range(2, len(keys) + 2))]
        taken.append(next(name for name in names if name not in taken))
    return taken


@given(st.lists(st.sampled_from(["a", "b", "a~2", "a~3", "a~2~2", "b-2", ""]), max_size=30))
def test_keys_are_unique(keys: list[str]) -> None:
    for mark in ("~", "-"):
        unique = UniqueKeys(mark)
        assert [unique(key) for key in keys] == by_trying(keys, mark)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that were looked up since."""
    real, seen = neurolab.data.samples._short_hash, []

    def hash_and_note(key: str) -> bytes:
        seen.append(key)
        return real(key)

    monkeypatch.setattr(neurolab.data.samples, "_short_hash", hash_and_note)
    return seen


def test_a_key_for_all_is_looked_up_a_few_times_for_each(hashed: list[str]) -> None:
    unique = UniqueKeys()
    assert [unique("image.png") for _ in range(500)][-1] == "image.png~500"
    assert 500 <= len(hashed) <= 2 * 500


def test_parts_of_one_name_are_looked_up_a_few_times_each(hashed: list[str]) -> None:
    names = list(ConcatSource([MemorySource({}) for _ in range(500)]).parts)
    assert (names[0], names[1], names[-1]) == ("memory", "memory-2", "memory-500")
    assert 500 <= len(hashed) <= 2 * 500


@pytest.mark.parametrize("sized", [True, False])
def test_a_limit_lists_the_shards_of_its_source_once(sized: bool) -> None:
    class Listing(MemorySource):
        listed = 0

        def shards(self) -> list[Shard]:
            self.listed += 1
            return super().shards()

    inner = Listing({f"s{i}": [Record(f"{i}", b"")] for i in range(300)}, sized)
    assert len(list(inner.limit(250))) == 250
    assert inner.listed == 1
