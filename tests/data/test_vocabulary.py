"""Words to write, and choices that are functions of their names."""

from __future__ import annotations

from collections import Counter

import pytest

from neurolab.data.chance import between, fraction, pick, shuffled
from neurolab.data.vocabulary import common_words, themes
from neurolab.errors import SourceError


def test_themes_are_plain_words() -> None:
    words = themes()
    assert len(words) >= 400 and len(set(words.values())) >= 12
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    assert words["happy"] == "feelings" and words["london"] == "places"


def test_common_words_are_frequent_whole_words() -> None:
    words = common_words(3000)
    assert len(words) == len(set(words)) == 3000
    assert all(len(word) >= 4 and word.isascii() and word.isalpha() and word.islower() for word in words)
    assert common_words(100) == words[:100]
    assert words.index("love") < words.index("mountain") < words.index("avocado")
    # Endings, which CLIP's vocabulary holds too, and more often than words.
    assert not {"tion", "ation", "ment", "ness", "ting", "ality", "iest"} & set(words)
    assert not {"aaaa", "hahahahaha", "zzzz"} & set(common_words(5000))
    # Most of the everyday words above are found again, so the sieve is not too fine.
    known = [word for word in themes() if len(word) >= 4]
    assert len(set(known) & set(common_words(5000))) > 0.65 * len(known)


def test_too_many_words() -> None:
    with pytest.raises(SourceError, match="fewer than"):
        common_words(10**6)


def test_choices_depend_on_their_names_only() -> None:
    assert fraction("a", 1) == fraction("a", "1") != fraction("a1")
    # By `printf neurolab | sha256sum`: the first 12 hexadecimal digits over 16 ** 12.
    assert fraction("neurolab") == pytest.approx(0.94310995, abs=1e-8)
    values = [fraction("x", i) for i in range(2000)]
    assert 0 <= min(values) < 0.01 and 0.99 < max(values) < 1
    assert abs(sum(values) / 2000 - 0.5) < 0.03
    assert all(3 <= between(3, 4, i) < 4 for i in range(50))
    counts = Counter(pick("abcd", i) for i in range(2000))
    assert set(counts) == set("abcd") and min(counts.values()) > 420


def test_shuffled() -> None:
    items = list(range(100))
    assert sorted(shuffled(items, "one")) == items != shuffled(items, "one")
    assert shuffled(items, "one") == shuffled(items, "one") != shuffled(items, "two")
