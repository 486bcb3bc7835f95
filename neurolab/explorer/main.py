"""The entry of the explorer: reads the command line and the address, opens the atlas, shows the page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

import streamlit as st

from neurolab.errors import AtlasError, NeurolabError
from neurolab.explorer import address, atlas_page, image_page, search_page, shell, unit_page, units_page
from neurolab.explorer.lab import Lab, open_lab
from neurolab.explorer.markup import esc, href, notice
from neurolab.explorer.theme import icon

SHOW: dict[str, Callable[[Lab], None]] = {
    "units": units_page.show,
    "unit": unit_page.show,
    "search": search_page.show,
    "image": image_page.show,
    "atlas": atlas_page.show,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Tell the page instead of ending the server."""
        raise AtlasError(f"the command line says: {message}")


def main() -> None:
    """Show the page that the address asks for, of the atlas that the command line names."""
    st.set_page_config(page_title=_title(), page_icon=icon(), layout="wide")
    shell.dress()
    try:
        lab = _lab(sys.argv[1:])
    except AtlasError as error:
        shell.masthead(None, "")
        st.html(_no_atlas(error))
        return
    page = address.text("page") or ("unit" if address.text("unit") else "units")
    shell.masthead(lab, page, address.text("q"))
    try:
        if page not in SHOW:
            raise AtlasError(f"the explorer has no page {page!r}")
        SHOW[page](lab)
        shell.foot(lab)
    except NeurolabError as error:
        st.html(notice("This page cannot be shown", str(error)))
        st.html(f'<a class="nl-pill" href="{href("units")}" target="_self">{esc("All units")}</a>')


def _title() -> str:
    """The title of the browser's tab, which is what a bookmark is called."""
    parts = [f"Unit {address.text('unit')}" if address.text("unit") else "", address.text("site"), "neurolab"]
    return " · ".join(part for part in parts if part)


def _lab(arguments: list[str]) -> Lab:
    parser = _Parser(prog="streamlit run app.py --", add_help=False)
    parser.add_argument("atlas", nargs="?")
    parser.add_argument("--weights")
    parser.add_argument("--pretrained")
    options, _ = parser.parse_known_args(arguments)
    if options.atlas is None:
        raise AtlasError("no atlas was named on the command line")
    return open_lab(options.atlas, options.weights, options.pretrained)


def _no_atlas(error: AtlasError) -> str:
    reason = str(error)
    return notice(
        "There is no atlas to show yet",
        f"{reason[:1].upper()}{reason[1:]}.\nAn atlas is a folder that `neurolab build` makes of a model and "
        "a source of images. Build one and name it when you start the explorer, or load this page again.",
        ["neurolab build --model pocket --source demo --out atlas/demo", "neurolab explore atlas/demo"],
    )


if __name__ == "__main__":
    main()
