"""What two builds must have in common."""

from __future__ import annotations

import pytest

from neurolab.mining.identity import Identity, differences


def made_with(**settings: object) -> Identity:
    given = {"k": 5, "precision": "float32", "device": "cpu", "threads": 1, "torch": "2.9"} | settings
    return {"model": {"weights_hash": "ab"}, "source": {"hash": "cd"}, "settings": given}


@pytest.mark.parametrize(
    ("change", "of_engine"),
    [
        ({"device": "cuda"}, True),
        ({"threads": 2}, True),
        ({"torch": "2.10"}, True),
        ({"precision": "bfloat16"}, False),
        ({"k": 6}, False),
    ],
)
def test_a_finished_atlas_is_good_with_any_engine(change: dict[str, object], of_engine: bool) -> None:
    """But only the one that began a build may go on with it."""
    before, now = made_with(), made_with(**change)
    ((name, value),) = change.items()
    assert differences(before, now, engine=True) == [f"{name} was {before['settings'][name]!r}, is {value!r}"]
    assert (differences(before, now, engine=False) == []) == of_engine
    assert differences(before, made_with(), engine=True) == []
