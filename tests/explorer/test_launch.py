"""The explorer as a process: what it is started with, and what it does where there is no atlas."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from neurolab.errors import AtlasError
from neurolab.explorer import launch
from neurolab.explorer.launch import streamlit_command
from neurolab.explorer.theme import kind_colour, streamlit_options

ROOT = Path(__file__).parents[2]


def test_a_missing_atlas_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="neurolab build"):
        launch(tmp_path / "nowhere")


def test_the_exit_code_is_streamlits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        started.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    assert launch(tmp_path, port=1234, headless=True) == 3
    assert started[0][:4] == [sys.executable, "-m", "streamlit", "run"]
    assert "--server.port=1234" in started[0] and "--server.headless=true" in started[0]


def test_stopping_with_the_keyboard_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], check: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", run)
    assert launch(tmp_path) == 0


def test_the_command_names_a_script_that_is_installed_and_passes_the_model_on(tmp_path: Path) -> None:
    command = streamlit_command(tmp_path, weights="a b.safetensors", pretrained="openai")
    script, arguments = Path(command[4]), command[command.index("--") + 1 :]
    assert script.is_file() and script.parent.name == "explorer"
    assert "--server.address=localhost" in command
    assert arguments == [str(tmp_path), "--weights", "a b.safetensors", "--pretrained", "openai"]


def test_a_checkout_looks_like_an_installed_package() -> None:
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text("utf-8"))
    flat = {
        f"{section}.{name}": value for section, values in config.items() for name, value in values.items()
    }
    as_text = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in flat.items()
    }
    assert as_text == streamlit_options()


def test_a_kind_always_has_the_same_colour() -> None:
    assert kind_colour("drawing") != kind_colour("word")
    assert kind_colour("sculpture") == kind_colour("sculpture")


def test_app_py_is_the_same_entry() -> None:
    text = (ROOT / "app.py").read_text("utf-8")
    assert "from neurolab.explorer.main import main" in text and text.rstrip().endswith("main()")


def test_a_first_start_asks_nothing(tmp_path: Path) -> None:
    """Streamlit asks a new user for an email address and waits; without a terminal it ends."""
    assert "--server.showEmailPrompt=false" in streamlit_command(tmp_path)
