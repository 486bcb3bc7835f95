"""Small pieces of HTML. Every text that comes from an atlas passes `esc`: captions are hostile input."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from urllib.parse import urlencode


def esc(text: object) -> str:
    """`text` safe inside an element and inside a quoted attribute; control characters become spaces."""
    clean = "".join(c if c.isprintable() or c == "\n" else " " for c in str(text))
    return html.escape(clean, quote=True)


def href(page: str, /, **params: object) -> str:
    """The address of a page, safe inside a quoted attribute; parameters that are None or "" are left out."""
    query = {"page": page} | {name: value for name, value in params.items() if value not in (None, "")}
    return esc("?" + urlencode(query))


def link(text: object, page: str, /, **params: object) -> str:
    """An `<a>` to a page around escaped text."""
    return f'<a href="{href(page, **params)}" target="_self">{esc(text)}</a>'


def data_uri(data: bytes) -> str:
    """The bytes of a WebP, PNG or JPEG picture as an address that needs no second request."""
    mime = "image/png" if data.startswith(b"\x89PNG") else "image/webp"
    if data.startswith(b"\xff\xd8"):
        mime = "image/jpeg"
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def image(data: bytes, alt: str = "", title: str = "") -> str:
    """An `<img>` that carries its picture; `alt` is for readers without sight, `title` is the tooltip."""
    tooltip = f' title="{esc(title)}"' if title else ""
    return f'<img src="{data_uri(data)}" alt="{esc(alt)}"{tooltip}>'


def grid(cells: Iterable[str], css_class: str) -> str:
    """The cells in a `<div>` that the theme lays out as a grid."""
    return f'<div class="{css_class}">{"".join(cells)}</div>'


def table(rows: Iterable[tuple[object, str]], css_class: str = "nl-facts") -> str:
    """A list of facts: names are escaped here, values are HTML that the caller has escaped."""
    body = "".join(f"<tr><th>{esc(name)}</th><td>{value}</td></tr>" for name, value in rows)
    return f'<table class="{css_class}"><tbody>{body}</tbody></table>'


def notice(title: str, text: str, commands: Iterable[str] = ()) -> str:
    """A friendly message: what is so, why, and the commands that change it. `text` is escaped here."""
    shell = "".join(f"<pre>{esc(command)}</pre>" for command in commands)
    paragraphs = "".join(f"<p>{esc(part)}</p>" for part in text.split("\n") if part.strip())
    return f'<div class="nl-notice"><h3>{esc(title)}</h3>{paragraphs}{shell}</div>'


def number(value: float) -> str:
    """A number as people read it: thousands apart, three significant digits below that."""
    if float(value).is_integer() and abs(value) >= 1:
        return f"{int(value):,}".replace("-", "−")
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def deviations(value: float) -> str:
    """A number of standard deviations: one decimal, a real minus, and no negative zero."""
    return f"{round(value, 1) + 0.0:.1f} sd".replace("-", "−")
