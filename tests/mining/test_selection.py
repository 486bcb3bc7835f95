"""Which units of which sites are mined."""

from __future__ import annotations

from neurolab.mining.selection import find_units
from tests.mining.small_build import small_model


def test_a_site_that_is_named_whole_too_has_all_its_units() -> None:
    """Under whatever name: what is asked for by units is in what is asked for as a whole."""
    model = small_model()
    for whole in ("0", "0:out"):
        sites, units = find_units(model, whole, ["0/7", "2/3", "0:out/2", "2:out/1"], "max")
        assert [site.name for site in sites] == ["0:out", "2:out"]
        assert {name: of.tolist() for name, of in units.items()} == {"2:out": [1, 3]}
