"""How the explorer looks: a printed atlas. Warm paper, ink, hairlines; the pictures bring the colour."""

from __future__ import annotations

from functools import cache
from importlib import resources

from PIL import Image, ImageDraw

PAPER, PANEL, INK, MUTED, LINE = "#F8F6F1", "#FFFFFF", "#1D1B18", "#756F66", "#E4DFD4"
ACCENT = "#B23A22"

# What an exemplar shows, each in its own colour wherever it is counted.
KIND_COLOURS = {"drawing": "#DE9A1F", "word": "#2C5FA8", "photo": "#3E8E63", "typographic": "#A43B8A"}
OTHER_COLOURS = ("#7C8794", "#B07A4F", "#5B8E9B", "#8C7BB0")


def streamlit_options() -> dict[str, str]:
    """Streamlit's own settings: the same as in .streamlit/config.toml, which serves a checkout."""
    return {
        "theme.base": "light",
        "theme.primaryColor": ACCENT,
        "theme.backgroundColor": PAPER,
        "theme.secondaryBackgroundColor": "#EFEBE2",
        "theme.textColor": INK,
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "server.address": "localhost",
        "server.maxUploadSize": "50",
        "server.fileWatcherType": "none",
        "server.showEmailPrompt": "false",  # a new user would be asked for an address, and waited for
    }


def kind_colour(kind: str) -> str:
    """The colour of a kind of exemplar; unknown kinds get one of a few greys, always the same."""
    return KIND_COLOURS.get(kind) or OTHER_COLOURS[sum(kind.encode()) % len(OTHER_COLOURS)]


def stylesheet() -> str:
    """The style sheet in a `<style>` element."""
    return f"<style>{resources.files(__package__).joinpath('theme.css').read_text('utf-8')}</style>"


def navigation_script() -> str:
    """A script that follows links inside the page: the address changes, the page is not loaded anew.

    Streamlit reads the address again on `popstate`. Without the script every link works as a plain link.
    """
    return f"<script>{resources.files(__package__).joinpath('navigate.js').read_text('utf-8')}</script>"


@cache
def icon() -> Image.Image:
    """The mark in the browser's tab: a ring around a spot, as on the exemplars."""
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((3, 3, 61, 61), outline=INK, width=7)
    draw.ellipse((19, 19, 45, 45), fill=ACCENT)
    return picture
