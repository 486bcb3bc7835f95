"""The pages of the Streamlit explorer. `launch` serves an atlas in the browser."""

from __future__ import annotations

from neurolab.explorer.launch import launch

__all__ = ["launch"]
