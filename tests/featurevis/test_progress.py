"""The bar of a drawing says what is drawn and how far it has come."""

import pytest
import torch

from neurolab.featurevis.progress import progress_bar
from neurolab.featurevis.render import render
from neurolab.models.zoo import Model


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")


def test_it_shows_what_is_drawn_the_steps_and_the_mean_objective(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(7, True) as report:
        report("layer4.0/3", torch.tensor([1.0, 1.5]))
    told = capsys.readouterr().err
    for part in ("layer4.0/3", "1/7", "objective 1.25"):
        assert part in told, told


def test_a_drawing_names_its_unit(tiny_clip: Model, capsys: pytest.CaptureFixture[str]) -> None:
    (picture,) = render(tiny_clip, "layer4.0/3", steps=1)
    told = capsys.readouterr().err
    assert picture.name in told and f"objective {picture.history[0]:.4g}" in told


def test_nothing_is_shown_where_nothing_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(2, False) as report:
        report("layer4.0/3", torch.ones(1))
    assert capsys.readouterr().err == ""


def test_brackets_in_a_name_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(1, True) as report:
        report('"a sign that says [/b]"', torch.ones(1))
    assert "says [/b]" in capsys.readouterr().err
