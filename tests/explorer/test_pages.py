"""Every page through Streamlit's own test harness, by its address as a visitor's link would give it."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from neurolab.atlas import Atlas
from neurolab.explorer import unit_page
from neurolab.explorer.lab import Lab
from neurolab.explorer.markup import deviations
from neurolab.explorer.tables import select_units
from tests.explorer.conftest import OpenPage, shown
from tests.explorer.sample_atlas import SITES, SampleSite, sample_images, sample_picture, write_atlas
from tests.explorer.test_markup import Reader

SITE = SITES[0].short


def units_of(html: str) -> list[int]:
    """The units whose cards are on the page, in order."""
    return [int(unit) for unit in re.findall(r'class="nl-card" href="[^"]*unit=(\d+)"', html)]


def test_without_parameters_the_units_are_shown(open_page: OpenPage, small_atlas: Atlas) -> None:
    html = shown(open_page(small_atlas.path))
    assert SITES[-1].short in html
    assert sorted(units_of(html)) == list(range(SITES[-1].units))


def test_the_grid_is_paged_and_sorted_by_its_address(open_page: OpenPage, small_atlas: Atlas) -> None:
    first = shown(open_page(small_atlas.path, page="units", site=SITE, sort="number"))
    assert units_of(first) == list(range(24))
    assert "1 to 24 of 40" in first and "from=24" in first
    second = shown(open_page(small_atlas.path, page="units", site=SITE, sort="number", from_="24"))
    assert units_of(second) == list(range(24, 40))
    far = shown(open_page(small_atlas.path, page="units", site=SITE, sort="number", from_="99999"))
    assert units_of(far) == units_of(second)


@pytest.mark.parametrize(
    "parameters",
    [{"from_": "-3"}, {"from_": "x"}, {"sort": "no such"}, {"pictured": "yes"}, {"text": ""}],
)
def test_nonsense_in_the_address_is_left_aside(
    open_page: OpenPage, small_atlas: Atlas, parameters: dict[str, str]
) -> None:
    html = shown(open_page(small_atlas.path, page="units", site=SITE, **parameters))
    assert len(units_of(html)) == 24


def test_cards_lead_with_the_picture_where_there_is_one(open_page: OpenPage, small_atlas: Atlas) -> None:
    html = shown(open_page(small_atlas.path, page="units", site=SITE, pictured="1"))
    assert units_of(html) and all(unit % 3 == 0 for unit in units_of(html))
    assert html.count('alt="feature visualization') == len(units_of(html))


def test_widgets_write_the_address(open_page: OpenPage, small_atlas: Atlas) -> None:
    page = open_page(small_atlas.path, page="units", site=SITE, from_="24")
    page.selectbox(key="widget-sort").select("max").run()
    assert page.query_params["sort"] in ("max", ["max"]) and "from" not in page.query_params
    page.text_input(key="widget-text").input("a star").run()
    expected = select_units(small_atlas, SITE, Lab(small_atlas).texts, "max", "a star").units[:24]
    assert units_of(shown(page)) == expected.tolist()
    page.text_input(key="widget-text").input("").run()
    assert "text" not in page.query_params
    page.selectbox(key="widget-site").select(SITES[1].short).run()
    assert len(units_of(shown(page))) == SITES[1].units


def test_a_filter_that_finds_nothing_says_so(open_page: OpenPage, small_atlas: Atlas) -> None:
    html = shown(open_page(small_atlas.path, page="units", site=SITE, text="<b>nowhere</b>"))
    assert "No units here" in html and "&lt;b&gt;nowhere" in html and "<b>nowhere" not in html


def test_a_unit_page_shows_what_the_atlas_holds(open_page: OpenPage, small_atlas: Atlas) -> None:
    html = shown(open_page(small_atlas.path, page="unit", site=SITE, unit="6"))
    unit = small_atlas.unit(f"{SITE}/6")
    for exemplar in unit.exemplars[:24]:
        assert f"<b>{deviations(exemplar.value / unit.sd)}</b>" in html
    assert html.count('<figure class="nl-tile">') == 24
    assert "seed 0" in html and "steps 256" in html and "activation <b>12.5</b>" in html
    assert "unit=5" in html and "unit=7" in html
    assert len(units_of(html)) == 8  # similar units
    assert all(word in html for word in ("How it fires", "What excites it", "drawing", "Similar units"))


def test_a_unit_without_pictures_shows_its_top_exemplar(open_page: OpenPage, small_atlas: Atlas) -> None:
    assert "Top exemplar." in shown(open_page(small_atlas.path, page="unit", site=SITE, unit="7"))


@pytest.mark.parametrize("unit", ["0", "39"])
def test_first_and_last_units_have_pages(open_page: OpenPage, small_atlas: Atlas, unit: str) -> None:
    html = shown(open_page(small_atlas.path, page="unit", site=SITE, unit=unit, mark="outline", show="100"))
    assert "unit=-1" not in html and "unit=40" not in html
    assert html.count('<figure class="nl-tile">') == 30


@pytest.mark.parametrize(("site", "unit"), [("nowhere", "1"), (SITE, "40"), (SITE, "-1"), (SITE, "<b>")])
def test_an_unknown_unit_is_told_kindly(
    open_page: OpenPage, small_atlas: Atlas, site: str, unit: str
) -> None:
    html = shown(open_page(small_atlas.path, page="unit", site=site, unit=unit))
    assert "This page cannot be shown" in html and "<b>'" not in html


def test_the_site_of_a_unit_may_be_named_in_full(open_page: OpenPage, small_atlas: Atlas) -> None:
    assert "Unit 3" in shown(open_page(small_atlas.path, page="unit", site=SITES[0].name, unit="3"))


def test_people_name_units(open_page: OpenPage, fresh_atlas: Atlas) -> None:
    page = open_page(fresh_atlas.path, page="unit", site=SITE, unit="6")
    page.text_input[0].input("<i>warm</i> colours")
    page.text_input[1].input("Ada")
    page.button[0].click().run()
    html = shown(page)
    (label,) = fresh_atlas.labels.of(f"{SITE}/6")
    assert (label.text, label.author) == ("<i>warm</i> colours", "Ada")
    assert "&lt;i&gt;warm&lt;/i&gt; colours" in html and "<i>warm" not in html
    page.text_input[0].input("   ")
    page.button[0].click().run()
    assert "A label needs a text" in shown(page)
    assert len(fresh_atlas.labels.of(f"{SITE}/6")) == 1


def test_the_atlas_page_tells_what_it_is(open_page: OpenPage, small_atlas: Atlas) -> None:
    html = shown(open_page(small_atlas.path, page="atlas"))
    assert small_atlas.manifest["model"]["weights_hash"] in html
    assert SITES[0].name in html and "OpenMoji" in html
    assert "image/&lt;b&gt;broken&lt;/b&gt;" in html and "truncated &lt;file&gt;" in html


@pytest.mark.parametrize("page", ["units", "unit", "image", "atlas", "search"])
def test_hostile_captions_stay_text(open_page: OpenPage, small_atlas: Atlas, page: str) -> None:
    html = shown(open_page(small_atlas.path, page=page, site=SITE, unit="6", image="0"))
    tags = {tag for tag, _ in Reader(html).elements}
    assert not tags & {"script", "iframe", "object", "embed", "svg"}
    handlers = [
        name for _, attributes in Reader(html).elements for name in attributes if name.startswith("on")
    ]
    assert not handlers
    if page in ("unit", "image"):
        assert "alert(1)" in Reader(html).text


@pytest.mark.parametrize("page", ["units", "unit", "image", "atlas", "search"])
def test_hostile_names_stay_text(open_page: OpenPage, tmp_path: Path, page: str) -> None:
    evil = '<i onclick="x">\''
    atlas = write_atlas(
        tmp_path / "atlas", sample_images(20), [SampleSite(f"m.{evil}:out", evil, 9)], name=evil
    )
    atlas.add_pictures([replace(sample_picture(f"{evil}/6", seed), facet=evil, kind=evil) for seed in (0, 1)])
    atlas.labels.add(f"{evil}/6", evil, evil)
    html = shown(open_page(atlas.path, page=page, site=evil, unit="6", image="3", text="a"))
    assert not [a for _, a in Reader(html).elements if "onclick" in a]
    assert "<i onclick" in Reader(html).text


def test_a_warm_unit_page_costs_little(
    open_page: OpenPage, small_atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[float] = []
    show = unit_page.show

    def timed(lab: Lab) -> None:
        start = time.thread_time()
        show(lab)
        spent.append(time.thread_time() - start)

    monkeypatch.setattr(unit_page, "show", timed)
    page = open_page(small_atlas.path, page="unit", site=SITE, unit="6")
    for unit in ("9", "12", "15"):
        page.query_params["unit"] = unit
        page.run()
    assert len(spent) == 4 and min(spent[1:]) < 0.2  # seconds of processor time


def test_an_unknown_page_is_told_kindly(open_page: OpenPage, small_atlas: Atlas) -> None:
    assert "no page" in shown(open_page(small_atlas.path, page="<script>"))


def test_a_missing_atlas_says_what_to_do(open_page: OpenPage, tmp_path: Path) -> None:
    for path in (None, tmp_path / "nowhere", tmp_path):
        html = shown(open_page(path))
        assert "There is no atlas to show yet" in html and "neurolab build" in html


def test_an_incomplete_or_newer_atlas_says_what_to_do(
    open_page: OpenPage, fresh_atlas: Atlas, tmp_path: Path
) -> None:
    (tmp_path / "half" / ".building").mkdir(parents=True)
    assert "incomplete" in shown(open_page(tmp_path / "half"))
    manifest = fresh_atlas.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 99'))
    assert "newer than this neurolab" in shown(open_page(fresh_atlas.path))


def test_an_atlas_built_anew_is_seen_without_a_restart(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(tmp_path / "atlas")
    assert "There is no atlas" in shown(page)
    write_atlas(tmp_path / "atlas", sample_images(20))
    assert units_of(shown(page.run()))


def test_a_command_line_that_is_wrong_is_told(open_page: OpenPage, small_atlas: Atlas) -> None:
    assert "the command line says" in shown(open_page(small_atlas.path, "--weights")).lower()
