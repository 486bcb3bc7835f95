"""The page "Search": units whose exemplars are like a text, by the model's text tower."""

from __future__ import annotations

from collections import Counter

import streamlit as st

from neurolab.errors import MissingTextTowerError, NeurolabError, UnknownModelError
from neurolab.explorer import address, shell
from neurolab.explorer.cards import pills, unit_card, unit_row
from neurolab.explorer.lab import Lab
from neurolab.explorer.markup import grid, href, link, notice
from neurolab.explorer.tables import select_units

TOP = 24
EXAMPLES = 8
STARTS = 8  # units to look at before there is a question


def show(lab: Lab) -> None:
    """Parameters of the address: q, site (none: all sites)."""
    question, site = address.text("q").strip(), address.text("site")
    shell.title(
        "Search", "", "Units whose exemplars are most like a text, as the model itself understands it"
    )
    _controls(lab, question, site)
    if not question:
        ask = '<p class="nl-dim">Ask for a thing, a scene, a style, or a written word:</p>'
        st.html(ask + _examples(lab, site) + _start(lab))
        return
    try:
        with st.spinner("Asking the model …"):  # the first time, torch and the model are loaded
            hits = search(lab, question, site or None)
    except MissingTextTowerError:
        st.html(_no_text_tower(lab, question))
    except UnknownModelError as error:
        st.html(model_missing(lab, error))
    else:
        st.html(hits)


def search(lab: Lab, question: str, site: str | None) -> str:
    """The result rows as HTML, best first; raises what loading and running the model raise."""
    if not lab.atlas.manifest["model"].get("has_text", True) and not lab.weights:
        raise MissingTextTowerError("the atlas was mined with a model without a text tower")
    from neurolab.analysis.search import units_like_text

    hits = units_like_text(lab.atlas, lab.model(), question, site, TOP)
    rows = []
    for hit in hits:
        name, _, unit = hit.unit.rpartition("/")
        rows.append(unit_row(lab, lab.short(name), int(unit), f"{hit.score:.3f}"))
    head = shell.heading(
        f"“{question}”",
        f"the {len(rows)} closest units; the number is the cosine of their exemplars and the text",
        first=True,
    )
    return head + grid(rows, "nl-results")


def model_missing(lab: Lab, error: NeurolabError) -> str:
    """What to do where the atlas's model cannot be had."""
    command = f"streamlit run app.py -- {lab.atlas.path} --weights FILE"
    return notice("The model of this atlas is needed here", f"{error}", [command])


def _controls(lab: Lab, question: str, site: str) -> None:
    left, right = st.columns([3, 1.1], gap="medium", vertical_alignment="bottom")
    with left:
        key = address.follow("q", question)
        st.text_input(
            "Text", key=key, on_change=address.write, args=("q",), max_chars=300,
            placeholder="a photo of the sea, a happy face, the word “stop” …",
        )  # fmt: skip
    with right:
        shorts = ["", *(lab.short(name) for name in lab.atlas.sites)]
        key = address.follow("site", lab.short(site) if site else "")
        st.selectbox(
            "Site", shorts, key=key, on_change=address.write, args=("site",),
            format_func=lambda short: short or "all sites",
        )  # fmt: skip


def _examples(lab: Lab, site: str) -> str:
    """A few things that the atlas's own images show, as questions."""
    common = Counter(subject for subject in lab.texts.subject if subject).most_common(EXAMPLES)
    words = [subject for subject, _ in common] or ["a face", "water", "a dog", "a drawing", "writing"]
    return pills([(word, href("search", q=word, site=site), False) for word in words])


def _start(lab: Lab) -> str:
    """Units to look at before there is a question."""
    shown = address.site(lab)
    cards = (
        unit_card(lab, shown, int(unit)) for unit in select_units(lab.atlas, shown, lab.texts).units[:STARTS]
    )
    return shell.heading("Or start here", f"the most selective units of {shown}") + grid(cards, "nl-cards")


def _no_text_tower(lab: Lab, question: str) -> str:
    text = (
        f"{lab.atlas.manifest['model']['name']} was loaded as an image tower alone, so it cannot read a "
        "question. The captions and labels of the exemplars can still be searched."
    )
    other = link(f"Units with “{question}” in their captions", "units", text=question)
    return notice("This model cannot read text", text) + f'<p class="nl-pill">{other}</p>'
