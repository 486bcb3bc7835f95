"""The page "Image": which units an image excites, one of the atlas's or one that the visitor brings."""

from __future__ import annotations

import io

import numpy as np
import streamlit as st
from PIL import Image

from neurolab.analysis.holding import units_of_image
from neurolab.data.decode import decode_image
from neurolab.errors import BadImageError, UnknownModelError
from neurolab.explorer import address, shell
from neurolab.explorer.cards import telling_labels, thumbnail, unit_row
from neurolab.explorer.lab import Lab
from neurolab.explorer.markup import esc, grid, href, image, notice
from neurolab.explorer.search_page import model_missing

TOP = 24
STRIP = 40  # images to choose from
TYPES = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"]
SHOWN_PIXELS = 640


def show(lab: Lab) -> None:
    """Parameters of the address: image (a number of the atlas), run, find, site (none: all sites)."""
    shell.title("Image", "", "Which units does an image excite?")
    left, right = st.columns([1, 2.35], gap="large")
    with left:
        uploaded = st.file_uploader("Bring an image", type=TYPES, key="upload")
        site = _site(lab)
    chosen = address.integer("image", -1)
    if uploaded is not None:
        shown, found = _brought(lab, uploaded.getvalue(), site)
    elif chosen in range(len(lab.atlas)):
        shown, found = _portrait(lab, chosen), ""
    else:
        shown, found = "", '<p class="nl-dim">Bring an image of your own, or choose one of the atlas.</p>'
    if shown:
        left.html(shown)
    with right:
        if found:
            st.html(found)
        else:
            _of_atlas(lab, chosen, site)
    _choose(lab)


def _site(lab: Lab) -> str:
    shorts = ["", *(lab.short(name) for name in lab.atlas.sites)]
    asked = address.text("site")
    key = address.follow("site", lab.short(asked) if asked else "")
    return st.selectbox(
        "Site", shorts, key=key, on_change=address.write, args=("site",),
        format_func=lambda short: short or "all sites",
    )  # fmt: skip


def _brought(lab: Lab, data: bytes, site: str) -> tuple[str, str]:
    """The visitor's image, and the units it excites; or nothing, and why it cannot be read."""
    try:
        picture = decode_image(data)
    except BadImageError as error:
        return "", notice("This image cannot be read", f"{error}\nA PNG, JPEG or WebP file works best.")
    small = image(_small(picture), "the image you brought")
    return f'<figure class="nl-picture">{small}</figure>', _by_model(lab, picture, site)


def _portrait(lab: Lab, number: int) -> str:
    """An image of the atlas and what is written about it."""
    row = lab.atlas.image(number)
    data = lab.thumbnail(number)
    words = "".join(f"<p>{esc(caption)}</p>" for caption in row.captions)
    labels = " · ".join(f"{esc(name)} <b>{esc(value)}</b>" for name, value in telling_labels(row.labels))
    large = image(data, lab.caption(number)) if data else ""
    return (
        f'<figure class="nl-picture">{large}<figcaption>{words}<p>{labels}</p>'
        f'<p class="nl-crumb">image {number} · {esc(row.key)} · {row.width} × {row.height}</p>'
        "</figcaption></figure>"
    )


def _of_atlas(lab: Lab, number: int, site: str) -> None:
    """The units that hold an image among their exemplars; where there are none, the model is asked."""
    found = units_of_image(lab.atlas, number, site or None, TOP)
    if found:
        rows = []
        for hit in found:
            name, _, unit = hit.unit.rpartition("/")
            rows.append(unit_row(lab, lab.short(name), int(unit), f"exemplar {hit.rank} · z {hit.score:.1f}"))
        note = "it is one of their exemplars; z: standard deviations above the unit's mean"
        st.html(shell.heading("Units that it excites most", note, first=True) + grid(rows, "nl-results"))
    else:
        st.html('<p class="nl-dim">No unit has it among its exemplars, so the model was asked.</p>')
    data = lab.thumbnail(number)
    if data is None:
        return
    asked = not found
    if found:
        key = address.follow("run", address.text("run") == "1")
        asked = st.toggle("Ask the model too", key=key, on_change=address.write, args=("run",))
    if asked:
        st.html(_by_model(lab, decode_image(data), site))


def _by_model(lab: Lab, picture: Image.Image, site: str) -> str:
    """The units that the image excites most when the model looks at it now."""
    try:
        with st.spinner("Asking the model …"):  # the first time, torch and the model are loaded
            from neurolab.analysis.search import units_excited_by

            hits = units_excited_by(lab.atlas, lab.model(), picture, site or None, TOP)
    except UnknownModelError as error:
        return model_missing(lab, error)
    rows = []
    for hit in hits:
        name, _, unit = hit.unit.rpartition("/")
        rows.append(unit_row(lab, lab.short(name), int(unit), f"z {hit.score:.1f}"))
    head = shell.heading(
        "Units that it excites most", "z: standard deviations above the unit's mean", first=True
    )
    return head + grid(rows, "nl-results")


def _choose(lab: Lab) -> None:
    """A strip of the atlas's images, those whose captions and labels hold a text first asked for."""
    st.html(shell.heading("Images of the atlas"))
    find = address.text("find")
    key = address.follow("find", find)
    st.text_input(
        "Find",
        key=key,
        on_change=address.write,
        args=("find",),
        max_chars=200,
        placeholder="a caption or a label",
    )
    wanted = find.strip().lower()
    if wanted:
        numbers = [i for i, text in enumerate(lab.texts.text) if wanted in text][:STRIP]
    else:
        numbers = (
            np.unique(np.linspace(0, len(lab.atlas) - 1, STRIP).astype(int)).tolist()
            if len(lab.atlas)
            else []
        )
    tiles = (
        f'<figure class="nl-tile"><a href="{href("image", image=i, find=find)}" target="_self">'
        f'<div class="pic">{thumbnail(lab, i)}<div class="tip">{esc(lab.caption(i))}</div></div></a></figure>'
        for i in numbers
    )
    nothing = '<p class="nl-dim">No image of the atlas has this in its captions or labels.</p>'
    st.html(grid(tiles, "nl-tiles row") if numbers else nothing)


def _small(picture: Image.Image) -> bytes:
    shown = picture.copy()
    shown.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "WEBP", quality=90, method=0)
    return buffer.getvalue()
