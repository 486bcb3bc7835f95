"""The page "Atlas": what this atlas was made from, what is in it, and what was left out."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import streamlit as st

from neurolab.errors import AtlasError
from neurolab.explorer import shell
from neurolab.explorer.cards import bars
from neurolab.explorer.lab import Lab
from neurolab.explorer.markup import esc, grid, href, table

SKIPPED_SHOWN = 100
FIRST = ("name", "kind")  # of a table of facts; the others stand in the order of the alphabet

# What the parts of the demo set ask of those who pass pictures on.
DEMO_LICENCES = (
    ("Drawings", "OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0"),
    (
        "Photos",
        "from scikit-image, scikit-learn and matplotlib, under the licences that these packages state",
    ),
    (
        "Words and attacks",
        "drawn by neurolab in the fonts of matplotlib; the attacks contain OpenMoji drawings",
    ),
)


def show(lab: Lab) -> None:
    """Takes no parameters of the address."""
    about = lab.atlas.summary()
    shell.title("Atlas", "", str(lab.atlas.path))
    counts = [(name, about[key]) for name, key in (
        ("images", "images"), ("units", "units"), ("sites", "sites"), ("exemplars", "exemplars"),
        ("pictures", "pictures"), ("images skipped", "skipped"),
    )]  # fmt: skip
    st.html(
        grid((f"<div><b>{count or 0:,}</b><span>{name}</span></div>" for name, count in counts), "nl-big")
    )
    left, right = st.columns(2, gap="large")
    with left:
        st.html(shell.heading("Model") + _facts(lab.atlas.manifest["model"]))
        st.html(shell.heading("Settings") + _facts(lab.atlas.manifest["settings"]))
    with right:
        st.html(shell.heading("Source") + _facts(lab.atlas.manifest["source"]))
        st.html(_kinds(lab) + _licences(lab))
    st.html(shell.heading("Sites") + _sites(lab))
    st.html(_skipped(lab))


def _facts(values: dict[str, Any]) -> str:
    named = sorted(values.items(), key=lambda item: item[0] not in FIRST)
    return table((name.replace("_", " "), _value(value)) for name, value in named if value is not None)


def _value(value: Any) -> str:
    if isinstance(value, str) and len(value) >= 32 and " " not in value:
        return f"<code>{esc(value)}</code>"
    if isinstance(value, list):
        sizes = all(isinstance(part, int) for part in value)
        parts = (f"{part:.4g}" if isinstance(part, float) else str(part) for part in value)
        return esc((" × " if sizes else ", ").join(parts))
    return esc(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | bool) else value)


def _kinds(lab: Lab) -> str:
    counts = Counter(lab.texts.kinds[code] for code in lab.texts.kind.tolist() if code >= 0).most_common()
    return shell.heading("What its images are") + bars(counts) if counts else ""


def _licences(lab: Lab) -> str:
    head = shell.heading("Licences", "of the images, not of neurolab")
    if "demo" in str(lab.atlas.manifest["source"].get("kind", "")):
        return head + table((name, esc(text)) for name, text in DEMO_LICENCES)
    return head + (
        '<p class="nl-dim">The thumbnails are under the licence of the source they were made from. '
        "Look it up before you pass the atlas or pictures of it on.</p>"
    )


def _sites(lab: Lab) -> str:
    names = ("Site", "Full name", "Units", "Map", "Reduction", "Exemplars a unit")
    rows = []
    for name in lab.atlas.sites:
        site = lab.atlas.site(name)
        address = href("units", site=site.short)
        place = (
            f"{site.grid[0]} × {site.grid[1]}" if site.grid else " × ".join(map(str, site.shape)) or "none"
        )
        cells = (esc(text) for text in (f"{site.units:,}", place, site.reduction, site.k))
        rows.append(
            f'<tr><td><a href="{address}" target="_self">{esc(site.short)}</a></td>'
            f"<td><code>{esc(name)}</code></td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<table class="nl-table"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _skipped(lab: Lab) -> str:
    """The images that could not be read, with their reasons."""
    faults = skipped_images(lab)
    head = shell.heading("Skipped images", f"{len(faults):,}" if faults else "")
    if not faults:
        return head + '<p class="nl-dim">Every image of the source could be read.</p>'
    rows = "".join(
        f"<tr><td><code>{esc(fault.get('key', ''))}</code></td><td>{esc(fault.get('reason', ''))}</td></tr>"
        for fault in faults[:SKIPPED_SHOWN]
    )
    more = len(faults) - SKIPPED_SHOWN
    rest = f'<p class="nl-dim">and {more:,} more in report.json</p>' if more > 0 else ""
    names = "<thead><tr><th>Key</th><th>Reason</th></tr></thead>"
    return f'{head}<table class="nl-table">{names}<tbody>{rows}</tbody></table>{rest}'


def skipped_images(lab: Lab) -> list[dict[str, str]]:
    """The skipped images of report.json, [{key, reason}]; AtlasError where the report cannot be read."""
    path = lab.atlas.path / "report.json"
    try:
        return list(json.loads(path.read_text("utf-8"))["skipped"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AtlasError(f"{path} cannot be read ({error}); build the atlas again") from error
