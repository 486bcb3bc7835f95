"""What a build tells of itself names sources as they are named."""

from __future__ import annotations

import pytest

from neurolab.progress import reporting, say, status

NAME = "demo[kind=word]"


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_in_a_name_are_no_markup(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    say(True, f"said {NAME}")
    with status(True, f"hashed {NAME}"):
        pass
    with reporting(True, f"mined {NAME}", 3, 0) as reporter:
        reporter.advance(3)
    told = capsys.readouterr().err
    for word in ("said", "hashed", "mined"):
        assert f"{word} {NAME}" in told, (word, told)


def test_nothing_is_said_where_nothing_is_to_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    say(False, NAME)
    with status(False, NAME), reporting(False, NAME, None, 0) as reporter:
        reporter.advance(1)
    assert capsys.readouterr().err == ""
