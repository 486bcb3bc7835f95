"""The grammar of site and unit names: MODULE.PATH, MODULE.PATH:PORT, MODULE.PATH#RUN:PORT, SITE/UNIT."""

from __future__ import annotations

import re
from dataclasses import dataclass

from neurolab.errors import UnknownSiteError

INPUT, OUTPUT, HEADS = "in", "out", "heads"
PORTS = (INPUT, OUTPUT, HEADS)

_NAME = re.compile(r"(?P<path>[^:#/]*)(#(?P<run>\d+))?(:(?P<port>\w+))?")


@dataclass(frozen=True)
class SitePath:
    """A site's name taken apart; run is None for the last run of the module in a pass."""

    path: str
    port: str = OUTPUT
    run: int | None = None

    def __str__(self) -> str:
        run = "" if self.run is None else f"#{self.run}"
        return f"{self.path}{run}:{self.port}"


def parse_site(name: str) -> SitePath:
    """Take a full name apart; UnknownSiteError for one that is not of the form PATH[#RUN][:PORT]."""
    match = _NAME.fullmatch(name)
    if match is None and "/" in name:
        raise UnknownSiteError(f"{name!r} is a unit's name: the site is {name.rpartition('/')[0]!r}")
    port = (match["port"] or OUTPUT) if match else ""
    if match is None or port not in PORTS:
        raise UnknownSiteError(
            f"{name!r} is no site: write MODULE.PATH:PORT, with the port one of {', '.join(PORTS)}"
        )
    return SitePath(match["path"], port, int(match["run"]) if match["run"] else None)


def parse_unit(text: str) -> tuple[str, int]:
    """Take "SITE/89" apart into ("SITE", 89); UnknownSiteError where there is no unit number."""
    site, _, unit = text.rpartition("/")
    if not (site and unit.isascii() and unit.isdecimal()):
        raise UnknownSiteError(f'{text!r} names no unit: write SITE/NUMBER, as "layer4.1/89"')
    return site, int(unit)
