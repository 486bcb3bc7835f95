"""The pages that run the model, on an atlas that the real miner made."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

import neurolab
from neurolab.analysis.search import units_excited_by, units_like_text
from neurolab.atlas import Atlas
from neurolab.errors import UnknownModelError
from neurolab.explorer.cards import unit_card
from neurolab.explorer.lab import Lab
from neurolab.models.zoo import Model
from tests.explorer.conftest import OpenPage, shown
from tests.explorer.sample_atlas import HOSTILE, sample_images, write_atlas
from tests.explorer.test_markup import Reader


@pytest.fixture(autouse=True)
def model_at_hand(monkeypatch: pytest.MonkeyPatch, tiny_clip: Model) -> list[tuple[str, object]]:
    """`load_model` gives the model of the mined atlas; returns what it was asked for."""
    asked: list[tuple[str, object]] = []

    def load(name: str, *, pretrained: object = None, weights: object = None) -> Model:
        asked.append((name, weights or pretrained))
        return tiny_clip

    monkeypatch.setattr(neurolab, "load_model", load)
    return asked


def results(html: str) -> list[int]:
    """The units of the result rows, in order."""
    return [int(unit) for unit in re.findall(r'class="frame" href="[^"]*unit=(\d+)"', html)]


def png(colour: tuple[int, int, int] = (200, 30, 30)) -> tuple[str, bytes, str]:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 50), colour).save(buffer, "PNG")
    return "a.png", buffer.getvalue(), "image/png"


def test_the_pages_show_an_atlas_that_was_mined(open_page: OpenPage, mined_atlas: Atlas) -> None:
    units = shown(open_page(mined_atlas.path, page="units", text="even"))
    assert "match" in units
    html = shown(open_page(mined_atlas.path, page="unit", unit="3"))
    assert html.count('<figure class="nl-tile">') == 12
    assert "How it fires" in html and "label: " in html
    assert mined_atlas.manifest["source"]["hash"] in shown(open_page(mined_atlas.path, page="atlas"))


def test_text_search_gives_the_librarys_answer(
    open_page: OpenPage, mined_atlas: Atlas, tiny_clip: Model, model_at_hand: list[tuple[str, object]]
) -> None:
    page = open_page(mined_atlas.path, page="search", q="a red ball")
    expected = [
        int(hit.unit.rpartition("/")[2]) for hit in units_like_text(mined_atlas, tiny_clip, "a red ball")
    ]
    assert results(shown(page)) == expected
    page.text_input(key="widget-q").input("the sea").run()
    assert page.query_params["q"] in ("the sea", ["the sea"])
    assert results(shown(page)) != expected
    assert len(model_at_hand) == 1  # loaded once, for all questions


def test_a_question_is_text_not_html(open_page: OpenPage, mined_atlas: Atlas) -> None:
    html = shown(open_page(mined_atlas.path, page="search", q=HOSTILE))
    assert "script" not in {tag for tag, _ in Reader(html).elements}
    assert "alert(1)" in Reader(html).text


def test_an_image_only_model_says_that_it_cannot_read(open_page: OpenPage, tmp_path: Path) -> None:
    atlas = write_atlas(tmp_path / "atlas", sample_images(20), has_text=False)
    html = shown(open_page(atlas.path, page="search", q="a star"))
    assert "This model cannot read text" in html and "page=units&amp;text=a+star" in html


def test_a_model_that_cannot_be_had_is_told_kindly(
    open_page: OpenPage, mined_atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, **_: object) -> Model:
        raise UnknownModelError(f"{name} has no <weights> here")

    monkeypatch.setattr(neurolab, "load_model", refuse)
    html = shown(open_page(mined_atlas.path, page="search", q="a star"))
    assert "The model of this atlas is needed here" in html and "&lt;weights&gt;" in html


def test_other_weights_than_the_atlass_are_refused(open_page: OpenPage, tmp_path: Path) -> None:
    atlas = write_atlas(tmp_path / "atlas", sample_images(20))
    assert "other weights" in shown(open_page(atlas.path, page="search", q="a star"))


def test_weights_given_on_the_command_line_are_used(
    open_page: OpenPage, mined_atlas: Atlas, model_at_hand: list[tuple[str, object]]
) -> None:
    shown(open_page(mined_atlas.path, "--weights", "some.safetensors", page="search", q="x"))
    assert model_at_hand == [("tiny", "some.safetensors")]


def test_an_image_that_is_brought_finds_the_librarys_units(
    open_page: OpenPage, mined_atlas: Atlas, tiny_clip: Model
) -> None:
    page = open_page(mined_atlas.path, page="image")
    page.file_uploader[0].set_value(png()).run()
    picture = Image.new("RGB", (80, 50), (200, 30, 30))
    expected = units_excited_by(mined_atlas, tiny_clip, picture)
    assert results(shown(page)) == [int(hit.unit.rpartition("/")[2]) for hit in expected]
    assert f"z {expected[0].score:.1f}" in shown(page)


BROKEN = {
    "empty": b"",
    "text": b"not an image",
    "cut": png()[1][:60],
    "zeros": b"\xff\xd8\xff\xe0" + bytes(100),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_upload_is_told_kindly(open_page: OpenPage, mined_atlas: Atlas, data: bytes) -> None:
    page = open_page(mined_atlas.path, page="image")
    page.file_uploader[0].set_value(("<b>.png", data, "image/png")).run()
    assert "This image cannot be read" in shown(page)


def test_an_image_of_the_atlas_shows_where_it_is_an_exemplar(
    open_page: OpenPage, mined_atlas: Atlas, tiny_clip: Model
) -> None:
    page: AppTest = open_page(mined_atlas.path, page="image", image="5")
    html = shown(page)
    for unit in results(html):
        assert 5 in [e.image for e in mined_atlas.unit(f"layer4.0/{unit}").exemplars]
    assert mined_atlas.image(5).key in html and results(html)
    page.toggle(key="widget-run").set_value(True).run()
    assert len(results(shown(page))) > len(results(html))


def test_an_image_that_is_no_exemplar_goes_through_the_model(
    open_page: OpenPage, mined_atlas: Atlas, tiny_clip: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurolab.explorer.image_page.units_of_image", lambda *_: [])
    html = shown(open_page(mined_atlas.path, page="image", image="5"))
    with Image.open(io.BytesIO(mined_atlas.thumbnail(5))) as picture:
        expected = units_excited_by(mined_atlas, tiny_clip, picture.convert("RGB"))
    assert "the model was asked" in html
    assert results(html) == [int(hit.unit.rpartition("/")[2]) for hit in expected]


def test_images_are_found_by_what_is_written_about_them(open_page: OpenPage, mined_atlas: Atlas) -> None:
    html = shown(open_page(mined_atlas.path, page="image", find="ODD"))
    found = [int(i) for i in re.findall(r"image=(\d+)&amp;find=ODD", html)]
    assert found and all(mined_atlas.image(i).labels["label"] == "odd" for i in found)
    assert "No image of the atlas" in shown(open_page(mined_atlas.path, page="image", find="nothing"))
    assert "Bring an image of your own" in shown(open_page(mined_atlas.path, page="image", image="999999"))


def test_a_unit_is_shown_at_every_level(open_page: OpenPage, mined_atlas: Atlas) -> None:
    """From the highest down, each with its images; and an atlas without them says so."""
    html = shown(open_page(mined_atlas.path, page="unit", site="layer4.0", unit="3"))
    levels = [level for level in mined_atlas.site("layer4.0").levels(3) if level.count]
    assert len(levels) > 2
    sd = mined_atlas.unit("layer4.0/3").sd
    ranges = re.findall(r'class="range"[^>]*><b>(-?[\d.]+) to (-?[\d.]+)</b><span>(\d+) image', html)
    assert ranges == [(f"{x.low / sd:.1f}", f"{x.high / sd:.1f}", str(x.count)) for x in levels]
    rows = html.split('class="nl-level"')[1:]
    for row, level in zip(rows, levels, strict=True):
        shown_images = [int(i) for i in re.findall(r"page=image&amp;image=(\d+)", row)]
        assert shown_images[: len(level.images)] == level.images[:10]
    assert [x.high for x in levels[1:]] <= [x.low for x in levels[:-1]]


def test_an_atlas_of_tokens_speaks_of_patches(
    open_page: OpenPage, tiny_vit: Model, image_folder: Path, tmp_path: Path
) -> None:
    """Counts are of patches, those drawn are marked in their image, and a card shows no image twice."""
    out = tmp_path / "atlas"
    settings: dict[str, Any] = {"k": 12, "workers": 0, "reduction": "token", "progress": False}
    atlas = neurolab.mine(tiny_vit, image_folder, "block2", out, **settings)
    site = atlas.site("block2")
    unit = int(np.argmin([len(set(images)) for images in site.images.tolist()]))
    html = shown(open_page(out, page="unit", site="block2", unit=str(unit)))
    assert f"12 of the 12 patches of {24 * 16} that excite it most" in html and "Patches seen" in html
    levels = [level for level in site.levels(unit) if level.count]
    counts = re.findall(r'class="range"[^>]*><b>[^<]*</b><span>(\d+) patch', html)
    assert counts == [str(level.count) for level in levels]
    row = html.split('class="nl-level"')[1]
    plain = Lab(atlas).thumbnail(levels[0].images[0])
    assert plain is not None and base64.b64encode(plain).decode() not in row.split("</a>")[0]
    card = unit_card(Lab(atlas), "block2", unit)
    pictures = re.findall(r'src="([^"]+)"', card)
    distinct = len(set(site.images[unit].tolist()))
    assert distinct < 7 and len(set(pictures)) == len(pictures) == distinct


def test_an_atlas_without_levels_says_so(open_page: OpenPage, small_atlas: Atlas) -> None:
    assert "without images of every level" in shown(open_page(small_atlas.path, page="unit", unit="3"))
