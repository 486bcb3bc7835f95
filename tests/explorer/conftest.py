"""Atlases for the pages to show, and a way to open a page."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import neurolab
from neurolab.atlas import Atlas
from neurolab.explorer.lab import Lab
from neurolab.models.zoo import Model
from tests.explorer.sample_atlas import SITES, sample_images, sample_picture, write_atlas

APP = Path(__file__).parents[2] / "neurolab" / "explorer" / "main.py"

OpenPage = Callable[..., AppTest]


@pytest.fixture(scope="session")
def small_atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """60 images, two sites; every third unit of the first has pictures. Do not write to it."""
    atlas = write_atlas(tmp_path_factory.mktemp("explorer") / "atlas", sample_images())
    names = [f"{SITES[0].name}/{unit}" for unit in range(0, SITES[0].units, 3)]
    atlas.add_pictures([sample_picture(name, seed) for name in names for seed in (0, 1)])
    return atlas


@pytest.fixture
def fresh_atlas(tmp_path: Path) -> Atlas:
    """A small atlas that the test may write to."""
    return write_atlas(tmp_path / "atlas", sample_images(20))


@pytest.fixture(scope="session")
def small_lab(small_atlas: Atlas) -> Lab:
    return Lab(small_atlas)


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    """open_page(atlas path or None, *arguments, **parameters of the address): the page, run once."""

    def open_it(path: Path | None, *arguments: str, **parameters: str) -> AppTest:
        given = [] if path is None else [str(path)]
        monkeypatch.setattr(sys, "argv", ["main.py", *given, *arguments])
        st.cache_resource.clear()
        test = AppTest.from_file(str(APP), default_timeout=60)
        for name, value in parameters.items():
            test.query_params[name.rstrip("_")] = value
        return test.run()

    return open_it


def shown(page: AppTest) -> str:
    """The page's HTML, style sheet and script left out; fails when the page ended in an exception."""
    assert not page.exception, page.exception
    bodies = (str(element.value) for element in page.html)
    return "\n".join(body for body in bodies if not body.startswith(("<style>", "<script>")))


@pytest.fixture(scope="session")
def mined_atlas(tiny_clip: Model, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """What the real miner makes of a small real model and the folder of pictures."""
    out = tmp_path_factory.mktemp("mined") / "atlas"
    return neurolab.mine(tiny_clip, image_folder, "layer4.0", out, k=12, workers=0, progress=False)
