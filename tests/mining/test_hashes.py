"""What images are drawn by: their keys and nothing else."""

from __future__ import annotations

from neurolab.mining.hashes import draw_hashes


def test_names_that_are_no_text_are_told_apart() -> None:
    """Bytes that are not UTF-8 come as surrogates; each key has a number of its own."""
    keys = ["caf\udce9.jpg", "caf\udce8.jpg", "caf?.jpg", "caf\ufffd.jpg", "café.jpg"]
    assert len(set(draw_hashes(keys).tolist())) == len(keys)
