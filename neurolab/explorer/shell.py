"""What frames every page: the style, the masthead with the search field, and the foot."""

from __future__ import annotations

import inspect

import streamlit as st

import neurolab
from neurolab.explorer.lab import Lab
from neurolab.explorer.markup import esc, href
from neurolab.explorer.theme import navigation_script, stylesheet

PAGES = {"units": "Units", "search": "Search", "image": "Image", "atlas": "Atlas"}


def dress() -> None:
    """Put the style sheet on the page, and the script that follows links where Streamlit runs scripts."""
    st.html(stylesheet())
    if "unsafe_allow_javascript" in inspect.signature(st.html).parameters:
        st.html(navigation_script(), unsafe_allow_javascript=True)


def masthead(lab: Lab | None, page: str, question: str = "") -> None:
    """The name, the pages, the search field, and which model this is."""
    shown = "units" if page == "unit" else page
    links = "".join(
        f'<a href="{href(key)}" target="_self" class="{"on" if key == shown else ""}">{name}</a>'
        for key, name in PAGES.items()
    )
    right = ""
    if lab is not None:
        model = lab.atlas.manifest["model"]["name"]
        right = (
            '<form class="nl-find" method="get" action="?"><input type="hidden" name="page" value="search">'
            f'<input type="text" name="q" value="{esc(question)}" maxlength="300" '
            'placeholder="Search the units: a beach, the word “no” …" aria-label="Search the units"></form>'
            f'<a class="nl-model" href="{href("atlas")}" target="_self">{esc(model)}</a>'
        )
    brand = f'<a class="nl-brand" href="{href("units")}" target="_self"><i></i>neurolab</a>'
    st.html(f'<div class="nl-top">{brand}<nav class="nl-nav">{links if lab else ""}</nav>{right}</div>')


def title(heading: str, small: str = "", text: str = "", right: str = "") -> None:
    """A page's title. `right` is HTML that the caller has escaped; the other texts are escaped here."""
    st.html(
        f'<div class="nl-title"><h1>{esc(heading)}<small>{esc(small)}</small></h1><p>{esc(text)}</p>'
        f'<div class="right">{right}</div></div>'
    )


def heading(text: str, note: str = "", first: bool = False) -> str:
    """The heading of a section, with a quiet remark."""
    return f'<div class="nl-h{" first" if first else ""}">{esc(text)}<span>{esc(note)}</span></div>'


def foot(lab: Lab) -> None:
    """What the page was made from, in a line."""
    model, source = lab.atlas.manifest["model"], lab.atlas.manifest["source"]
    parts = [
        f"neurolab {neurolab.__version__}",
        f"{model['name']} ({str(model.get('weights_hash', ''))[:12]})",
        f"{len(lab.atlas):,} images of {source.get('location') or source.get('kind')}",
    ]
    st.html(f'<div class="nl-foot">{esc(" · ".join(parts))}</div>')
