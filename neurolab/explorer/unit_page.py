"""The page of one unit: its pictures, its exemplars, what they are, how it fires, and what is like it."""

from __future__ import annotations

import io

import streamlit as st

from neurolab.analysis.similar import similar_units
from neurolab.atlas.arrays import Unit
from neurolab.atlas.pictures import PictureRow
from neurolab.errors import AtlasError
from neurolab.explorer import address, shell
from neurolab.explorer.cards import bars, exemplar_tile, pills, thumbnail, unit_card
from neurolab.explorer.histogram import histogram
from neurolab.explorer.lab import Lab
from neurolab.explorer.levels import levels
from neurolab.explorer.markup import deviations, esc, grid, href, image, notice, number, table
from neurolab.explorer.spotlight import STYLES
from neurolab.explorer.tables import COUNTED, counted_as, in_sd, kind_counts, subjects

AMOUNTS = ("24", "48", "100")
ALIKE = {
    "coactivation": "by the correlation of their activations over all images",
    "embedding": "by the cosine of their exemplars’ embeddings",
    "exemplars": "by the exemplars that they share",
}


def show(lab: Lab) -> None:
    """Parameters of the address: site, unit, picture, mark, show."""
    site = address.site(lab)
    unit = lab.atlas.unit(f"{site}/{address.text('unit', '0')}")
    _title(lab, site, unit)
    left, right = st.columns([1, 2.35], gap="large")
    with left:
        st.html(_pictures(lab, site, unit))
        st.html(shell.heading("What excites it", f"its first {COUNTED} exemplars") + _shown(lab, site, unit))
        st.html(shell.heading("Statistics") + _statistics(lab, site, unit))
        _labels(lab, unit)
    with right:
        st.html(_exemplars(lab, site, unit))
        values = [exemplar.value for exemplar in unit.exemplars]
        what = lab.atlas.site(site)
        note = f"{counted_as(what)} on a logarithmic scale; in red, where the exemplars lie"
        shown = histogram(
            unit.histogram, unit.edges, unit.sd, values, (counted_as(what, 1), counted_as(what))
        )
        st.html(shell.heading("How it fires", note) + shown)
        st.html(levels(lab, site, unit))
        st.html(_alike(lab, site, unit))


def _title(lab: Lab, site: str, unit: Unit) -> None:
    last = lab.atlas.site(site).units - 1
    cells = [f'<a class="nl-pill" href="{href("units", site=site)}" target="_self">{esc(site)}</a>']
    for text, other in ((f"← {unit.index - 1}", unit.index - 1), (f"{unit.index + 1} →", unit.index + 1)):
        if 0 <= other <= last:
            cells.append(
                f'<a class="nl-pill" href="{href("unit", site=site, unit=other)}" target="_self">{text}</a>'
            )
    words = ", ".join(label.text for label in lab.atlas.labels.of(unit.name))
    shell.title(f"Unit {unit.index}", words, unit.name, "".join(cells))


def _pictures(lab: Lab, site: str, unit: Unit) -> str:
    """The chosen feature visualization with how it was made, and the others small; else the top exemplar."""
    if not unit.pictures:
        large = thumbnail(lab, unit.exemplars[0].image) if unit.exemplars else '<div class="nl-blank"></div>'
        caption = (
            "<b>Top exemplar.</b> This unit has not been drawn yet: "
            "<code>atlas.add_pictures(neurolab.render(model, [name]))</code> draws it."
        )
        return _figure(large, caption)
    chosen = min(address.integer("picture"), len(unit.pictures) - 1)
    picture = unit.pictures[chosen]
    large = image(_file(picture), f"feature visualization of {unit.name}")
    result = _figure(large, _made(picture))
    if len(unit.pictures) > 1:
        cells = (_small(lab, site, unit, i, i == chosen) for i in range(len(unit.pictures)))
        result += grid(cells, "nl-more")
    return result


def _figure(picture: str, caption: str) -> str:
    return (
        f'<figure class="nl-picture"><div class="frame">{picture}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _small(lab: Lab, site: str, unit: Unit, i: int, shown: bool) -> str:
    picture = unit.pictures[i]
    address_ = href("unit", site=site, unit=unit.index, picture=i or "")
    name = picture.facet or f"seed {picture.seed}"
    return (
        f'<a class="{"on" if shown else ""}" href="{address_}" target="_self"><div class="frame">'
        f"{image(_file(picture), name)}</div><small>{esc(name)}</small></a>"
    )


def _file(picture: PictureRow) -> bytes:
    """The picture as WebP: a quarter of the PNG's bytes, and no difference that the eye finds."""
    buffer = io.BytesIO()
    picture.to_pil().save(buffer, "WEBP", quality=93, method=0)
    return buffer.getvalue()


def _made(picture: PictureRow) -> str:
    """How a picture was made and how well it does: kind, facet, seed, settings, scores."""
    parts = [picture.kind, f"facet {picture.facet}" if picture.facet else "", f"seed {picture.seed}"]
    parts += [
        f"{name} {value}" for name, value in picture.settings.items() if isinstance(value, int | float | str)
    ]
    scores = ", ".join(f"{esc(name)} <b>{number(value)}</b>" for name, value in picture.scores.items())
    made = esc(" · ".join(part for part in parts if part))
    return f"<b>Feature visualization.</b> {made}{f'<br>{scores}' if scores else ''}"


def _exemplars(lab: Lab, site: str, unit: Unit) -> str:
    style = address.choice("mark", STYLES, STYLES[0])
    amount = address.choice("show", AMOUNTS, AMOUNTS[0])
    here = {"site": site, "unit": unit.index, "picture": address.text("picture")}
    shown = unit.exemplars[: int(amount)]
    tiles = grid((exemplar_tile(lab, exemplar, unit.sd, style) for exemplar in shown), "nl-tiles")
    what = counted_as(lab.atlas.site(site))
    note = f"{len(shown)} of the {len(unit.exemplars)} {what} of {unit.count:,} that excite it most"
    ways = pills([(s, href("unit", **here, mark=s, show=amount), s == style) for s in STYLES])
    useful = [
        a for a, before in zip(AMOUNTS, ("0", *AMOUNTS), strict=False) if len(unit.exemplars) > int(before)
    ]
    sizes = pills([(a, href("unit", **here, mark=style, show=a), a == amount) for a in useful])
    bar = f'<div style="margin-left:auto;display:flex;gap:1.4rem">{ways}{sizes}</div>'
    return f'<div class="nl-h first">Exemplars<span>{esc(note)}</span>{bar}</div>{tiles}'


def _shown(lab: Lab, site: str, unit: Unit) -> str:
    images = lab.atlas.site(site).images[unit.index]
    counts = kind_counts(images[None], lab.texts)[0].tolist()
    kinds = [(name, count) for name, count in zip(lab.texts.kinds, counts, strict=True) if count]
    found = [(name, count) for name, count in subjects(images, lab.texts)[:8] if count > 1]
    if not kinds and not found:
        return '<p class="nl-dim">Its exemplars have no label in common.</p>'
    gap = '<div style="height:1.1rem"></div>' if kinds and found else ""
    return (bars(kinds) if kinds else "") + gap + (bars(found, "#b9b2a4") if found else "")


def _statistics(lab: Lab, site: str, unit: Unit) -> str:
    arrays = lab.atlas.site(site)
    place = f"{arrays.grid[0]} × {arrays.grid[1]} map" if arrays.grid else "no places"
    rows: list[tuple[object, str]] = [
        (f"{counted_as(arrays).capitalize()} seen", f"{unit.count:,}"),
        ("Mean", number(unit.mean)),
        ("Standard deviation", number(unit.sd)),
        ("Minimum", _in_sd(unit.min, unit.sd)),
        ("Maximum", _in_sd(unit.max, unit.sd)),
        ("Reduction", esc(f"{arrays.reduction} ({place})")),
    ]
    return table(rows)


def _in_sd(value: float, sd: float) -> str:
    return f'{number(value)} <span class="nl-dim">({deviations(float(in_sd(value, sd)))})</span>'


def _alike(lab: Lab, site: str, unit: Unit) -> str:
    arrays = lab.atlas.site(site)
    way = next(
        (way for way in ("coactivation", "embedding") if getattr(arrays, way) is not None), "exemplars"
    )
    head = shell.heading("Similar units", ALIKE[way])
    try:
        found = similar_units(lab.atlas, unit.name, way, top=8)
    except AtlasError as error:  # such a unit has nothing to be compared by
        return f'{head}<p class="nl-dim">{esc(error)}</p>'
    cards = []
    for hit in found:
        name, _, index = hit.unit.rpartition("/")
        where = "" if name == arrays.name else f"{lab.short(name)} · "
        cards.append(unit_card(lab, lab.short(name), int(index), f"{where}{hit.score:.2f}"))
    return head + grid(cards, "nl-cards four")


def _labels(lab: Lab, unit: Unit) -> None:
    said = [
        f'<span class="nl-said">{esc(label.text)}<small>{esc(label.author)}</small></span>'
        for label in lab.atlas.labels.of(unit.name)
    ]
    nothing = '<p class="nl-dim">Nobody has named this unit yet. What do its exemplars share?</p>'
    st.html(shell.heading("What people call it") + ("".join(said) or nothing))
    with st.form("label", clear_on_submit=True, border=False):
        text = st.text_input("Label", max_chars=200, placeholder="what this unit stands for")
        author = st.text_input("Your name", max_chars=80, placeholder="optional")
        sent = st.form_submit_button("Add the label")
    if sent and not text.strip():
        st.html(notice("A label needs a text", "Write what this unit stands for."))
    elif sent:
        lab.atlas.labels.add(unit.name, text, author)
        st.rerun()
