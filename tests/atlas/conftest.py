"""Atlases that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurolab.atlas import Atlas
from tests.atlas.making import make_atlas


@pytest.fixture
def atlas(tmp_path: Path) -> Atlas:
    """A finished atlas of 32 images and two sites, to read or to write to."""
    return make_atlas(tmp_path / "atlas")
