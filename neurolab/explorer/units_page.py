"""The page "Units": a site's units as plates, sorted, filtered, and by the page."""

from __future__ import annotations

import streamlit as st

from neurolab.explorer import address, shell
from neurolab.explorer.cards import kinds_legend, unit_card
from neurolab.explorer.lab import Lab
from neurolab.explorer.markup import grid, href, notice
from neurolab.explorer.tables import SORTS, select_units

PAGE = 24  # units on one page


def show(lab: Lab) -> None:
    """Parameters of the address: site, sort, text, pictured, from."""
    site = address.site(lab)
    sort = address.choice("sort", list(SORTS), "selective")
    text, pictured = address.text("text"), address.text("pictured") == "1"
    arrays = lab.atlas.site(site)
    source = f"{arrays.units:,} units, seen through {len(lab.atlas):,} images"
    shell.title(site, arrays.name if arrays.name != site else "", source, kinds_legend(lab.texts.kinds))
    _controls(lab, site, sort, text, pictured)
    chosen = select_units(lab.atlas, site, lab.texts, sort, text, pictured)
    total = len(chosen.units)
    start = min(address.integer("from"), max(total - 1, 0)) // PAGE * PAGE
    state = {"site": site, "sort": sort, "text": text, "pictured": "1" if pictured else ""}
    if not total:
        st.html(notice("No units here", _nothing(text, pictured)))
        return
    cards = []
    for i in range(start, min(start + PAGE, total)):
        badge = "" if chosen.matches is None else f"{int(chosen.matches[i])} match"
        cards.append(unit_card(lab, site, int(chosen.units[i]), badge))
    st.html(grid(cards, "nl-cards") + _paging(state, start, total))


def _controls(lab: Lab, site: str, sort: str, text: str, pictured: bool) -> None:
    shorts = [lab.short(name) for name in lab.atlas.sites]
    columns = st.columns([1.1, 1.1, 1.8, 1], gap="medium", vertical_alignment="bottom")
    with columns[0]:
        key = address.follow("site", site)
        st.selectbox("Site", shorts, key=key, on_change=address.write, args=("site", "from"))
    with columns[1]:
        key = address.follow("sort", sort)
        options = list(SORTS)
        st.selectbox(
            "Order",
            options,
            key=key,
            on_change=address.write,
            args=("sort", "from"),
            format_func=SORTS.__getitem__,
        )
    with columns[2]:
        key = address.follow("text", text)
        st.text_input(
            "Filter", key=key, on_change=address.write, args=("text", "from"), max_chars=200,
            placeholder="a caption, a label, or a unit number",
        )  # fmt: skip
    with columns[3]:
        key = address.follow("pictured", pictured)
        st.toggle("Only with pictures", key=key, on_change=address.write, args=("pictured", "from"))


def _paging(state: dict[str, str], start: int, total: int) -> str:
    if total <= PAGE:
        return ""
    cells = []
    for name, target in (("← Previous", start - PAGE), ("Next →", start + PAGE)):
        if 0 <= target < total:
            address_ = href("units", **state, **{"from": target or ""})
            cells.append(f'<a class="nl-pill" href="{address_}" target="_self">{name}</a>')
        else:
            cells.append(f'<span class="nl-pill off">{name}</span>')
    place = f"<span>{start + 1:,} to {min(start + PAGE, total):,} of {total:,}</span>"
    return f'<div class="nl-pages">{cells[0]}{place}{cells[1]}</div>'


def _nothing(text: str, pictured: bool) -> str:
    if text:
        return (
            f"No unit of this site has “{text}” among the captions and labels of its strongest exemplars. "
            "The search field above asks the model instead of the captions."
        )
    if pictured:
        return (
            "No unit of this site has been drawn: neurolab.render draws units, atlas.add_pictures keeps them."
        )
    return "This site has no units."
