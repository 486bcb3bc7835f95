"""The sheet: which units it shows, which pictures of them, and that they are really there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurolab.analysis.selectivity import most_selective
from neurolab.atlas import Atlas
from neurolab.errors import AtlasError, UnknownSiteError
from neurolab.figures.saving import save_figure
from neurolab.figures.sheet import CELL, MARGIN, caption, chosen_pictures, unit_row, units_sheet
from tests.explorer.sample_atlas import SITES, SamplePicture, sample_images, write_atlas

SITE, POOL = SITES[0].name, SITES[1].name


@pytest.fixture
def atlas(tmp_path: Path) -> Atlas:
    return write_atlas(tmp_path / "atlas", sample_images())


def plain(unit: str, grey: int, seed: int = 0, **about: object) -> SamplePicture:
    return SamplePicture(unit, np.full((50, 50, 3), grey, np.uint8), seed, **about)  # type: ignore[arg-type]


def cells(sheet: Image.Image, grey: int) -> int:
    """How many cells of a sheet are all of one grey."""
    return int((np.asarray(sheet) == grey).all(2).sum()) // CELL**2


def height(sheet: Image.Image, grey: int) -> int:
    """The first line of pixels of a cell that is all of one grey."""
    return int(np.argmax((np.asarray(sheet) == grey).all(2).sum(1) >= CELL))


def test_units_are_the_most_selective_of_those_drawn(atlas: Atlas) -> None:
    ranked = most_selective(atlas, SITE, 40)
    chosen = [ranked[i] for i in (30, 5, 12)]
    atlas.add_pictures([plain(unit, 40 * i + 50) for i, unit in enumerate(chosen)])
    full = units_sheet(atlas, columns=1)
    assert [cells(full, grey) for grey in (50, 90, 130)] == [1, 1, 1]
    first = [height(full, grey) for grey in (50, 90, 130)]
    assert first[1] < first[2] < first[0]  # from the most selective down
    assert [cells(units_sheet(atlas, count=2), grey) for grey in (50, 90, 130)] == [0, 1, 1]


def test_a_method_shows_the_picture_of_the_lowest_seed(atlas: Atlas) -> None:
    unit = f"{SITE}/3"
    atlas.add_pictures(
        [plain(unit, 60, 2), plain(unit, 90, 1), plain(unit, 120, 5, kind="maco"),
         plain(unit, 150, 5, kind="maco", facet="face")]
    )  # fmt: skip
    row = unit_row(atlas, unit, "layer4.0", atlas.pictures(), 4)
    assert row.name == "layer4.0/3" and len(row.exemplars) == 4
    assert [(name, p.seed) for name, p in row.pictures.items()] == [
        ("fourier", 1), ("maco", 5), ("maco · face", 5),
    ]  # fmt: skip
    sheet = units_sheet(atlas)
    assert [cells(sheet, grey) for grey in (60, 90, 120, 150)] == [0, 1, 1, 1]
    assert [cells(units_sheet(atlas, kinds=["maco"]), grey) for grey in (90, 120, 150)] == [0, 1, 1]


def test_exemplars_are_on_the_sheet(atlas: Atlas) -> None:
    atlas.add_pictures([plain(f"{SITE}/3", 60)])
    with_them, without = units_sheet(atlas), units_sheet(atlas, exemplars=0)
    assert without.width < with_them.width and cells(without, 60) == 1
    best = Image.open(io.BytesIO(atlas.thumbnail(atlas.unit(f"{SITE}/3").exemplars[0].image)))
    colour = np.asarray(best.convert("RGB").resize((1, 1), Image.Resampling.BOX)).astype(int)[0, 0]
    top = height(with_them, 60)
    place = np.asarray(with_them).astype(int)[top : top + CELL, MARGIN : MARGIN + CELL].mean((0, 1))
    assert np.abs(place - colour).max() < 25


def test_scores_are_below_the_pictures(atlas: Atlas) -> None:
    scores = {"activation_percentile": 99.98, "selectivity": 0.5}
    (full,) = atlas.add_pictures([plain(f"{SITE}/3", 60, scores=scores)])
    assert caption(full) == "99.98 % · 0.500"
    (half,) = atlas.add_pictures([plain(f"{SITE}/3", 60, scores={"selectivity": 1.0})])
    (none,) = atlas.add_pictures([plain(f"{SITE}/4", 60, scores={})])
    assert caption(half) == "1.000" and caption(none) == ""


def test_the_site_is_the_deepest_drawn_unless_one_is_named(atlas: Atlas) -> None:
    atlas.add_pictures([plain(f"{SITE}/3", 60)])
    assert {p.unit for p in chosen_pictures(atlas, None, None)} == {f"{SITE}/3"}
    atlas.add_pictures([plain(f"{POOL}/2", 90)])
    assert {p.unit for p in chosen_pictures(atlas, None, None)} == {f"{POOL}/2"}
    assert {p.unit for p in chosen_pictures(atlas, "layer4.0", None)} == {f"{SITE}/3"}


def test_a_missing_method_leaves_its_place_and_blocks_stand_side_by_side(atlas: Atlas) -> None:
    atlas.add_pictures([plain(f"{SITE}/{u}", 60 + u) for u in (3, 4, 5)])
    atlas.add_pictures([plain(f"{SITE}/3", 100, kind="maco")])
    one, two = units_sheet(atlas, columns=1), units_sheet(atlas, columns=2)
    assert cells(one, 0xF1) == cells(two, 0xF1) == 2
    assert two.width > 1.8 * one.width and two.height < one.height


def test_mistakes_are_refused(atlas: Atlas, tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="has no pictures; draw some"):
        units_sheet(atlas)
    (row,) = atlas.add_pictures([plain(f"{SITE}/3", 60)])
    with pytest.raises(AtlasError, match="no pictures of pool"):
        units_sheet(atlas, "pool")
    with pytest.raises(AtlasError, match="of the kinds cppn"):
        units_sheet(atlas, kinds=["cppn"])
    with pytest.raises(UnknownSiteError):
        units_sheet(atlas, "layer9")
    with pytest.raises(ValueError, match="at least one unit"):
        units_sheet(atlas, count=0)
    with pytest.raises(ValueError, match="should end in"):
        save_figure(units_sheet(atlas), tmp_path / "sheet.svg")
    row.path.write_bytes(b"no image")
    with pytest.raises(AtlasError, match="cannot be read"):
        units_sheet(atlas)


def test_a_sheet_is_saved(atlas: Atlas, tmp_path: Path) -> None:
    atlas.add_pictures([plain(f"{SITE}/3", 60)])
    sheet = units_sheet(atlas)
    path = save_figure(sheet, tmp_path / "deep" / "sheet.png")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(sheet))
