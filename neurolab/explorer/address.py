"""The address is the state: every page reads its parameters from the URL, and widgets write theirs there."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from neurolab.errors import UnknownSiteError
from neurolab.explorer.lab import Lab


def text(name: str, default: str = "") -> str:
    """A parameter of the address."""
    return st.query_params.get(name, default)


def integer(name: str, default: int = 0) -> int:
    """A whole number of the address that is not negative; `default` where it is no such number."""
    value = text(name)
    return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else default


def choice(name: str, options: Sequence[str], default: str) -> str:
    """A parameter of the address that is one of `options`."""
    value = text(name)
    return value if value in options else default


def site(lab: Lab) -> str:
    """The short name of the address's site, or of the last site of the atlas where it names none.

    Raises UnknownSiteError where the atlas has no such site, AtlasError's kin for an atlas without sites.
    """
    if not lab.atlas.sites:
        raise UnknownSiteError("this atlas has no sites; build it with at least one")
    return lab.short(text("site") or lab.atlas.sites[-1])


def follow(name: str, value: object) -> str:
    """The key of a widget that shows `value`, which the address gave, and not what it was last set to."""
    key = f"widget-{name}"
    st.session_state[key] = value
    return key


def write(name: str, *resets: str) -> None:
    """A widget's callback: put its value into the address, and drop the parameters it makes meaningless."""
    value = st.session_state[f"widget-{name}"]
    if value in ("", None, False):
        st.query_params.pop(name, None)
    else:
        st.query_params[name] = "1" if value is True else str(value)
    for other in resets:
        st.query_params.pop(other, None)
