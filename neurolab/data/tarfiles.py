"""Reading tar archives without losing anything in silence: where one breaks off, it is told."""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from neurolab.data.samples import UniqueKeys
from neurolab.data.sources import Record, Unreadable
from neurolab.data.unpacking import unpacked
from neurolab.errors import SourceError

SUFFIXES = re.compile(r"\.(tar(\.\w+)?|tgz|parquet)(\?.*)?$")
# What webdataset leaves out: members or folders named __LIKE_THIS__.
METADATA = re.compile(r"__[^/]*__($|/)")


class _StrictHeader(tarfile.TarInfo):
    """Headers for which only the end-of-archive marker ends an archive.

    tarfile takes a damaged or cut header for the end, and what follows it would be lost unsaid.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Any:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            kind = type(error).__name__
            if kind == "EOFHeaderError":
                raise
            reason = {
                "EmptyHeaderError": "the file ends without an end-of-archive marker",
                "TruncatedHeaderError": "the file ends inside a header",
            }.get(kind, f"damaged header ({error})")
            raise tarfile.ReadError(f"{reason}, at byte {archive.offset}") from error


def tar_members(
    stream: Any,
    mode: Literal["r:", "r|*"],
    value: Callable[[tarfile.TarFile, tarfile.TarInfo], Any],
    breaks: list[str],
) -> Iterator[dict[str, Any]]:
    """The regular members of an archive as webdataset has them: {"fname", "data", "__url__"}.

    ``data`` is ``value(archive, member)``. Mode ``"r:"`` seeks over the data of a plain tar, ``"r|*"`` reads
    a plain or compressed stream once. Where the archive breaks off the members end, and ``breaks`` says why.
    """
    damage: tuple[type[Exception], ...] = (tarfile.TarError, EOFError, ValueError, zlib.error, lzma.LZMAError)
    if mode == "r|*":
        # The decompressors' complaints; errors of the stream itself come as SourceError (see streams.py).
        damage = (*damage, OSError)
        stream = unpacked(stream)
    try:
        with tarfile.open(fileobj=stream, mode=mode, tarinfo=_StrictHeader) as archive:
            for member in archive:
                if member.isreg() and not _left_out(member.name):
                    yield {"fname": member.name, "data": value(archive, member), "__url__": ""}
                # The archive would keep every header it read.
                archive.members = []  # type: ignore[attr-defined]
    except SourceError:
        raise
    except damage as error:
        text = str(error).strip()
        breaks.append(text.splitlines()[0] if text else type(error).__name__)


def _left_out(name: str) -> bool:
    """webdataset's metadata (``__NAME__``) and hidden files, such as macOS's resource forks ``._NAME``."""
    return METADATA.match(name) is not None or name.rpartition("/")[2].startswith(".")


def broken_shard(name: str, samples: int, reason: str) -> Record:
    """The record behind the last sample of a shard that breaks off."""
    return Record(f"{name}/(end of the shard)", Unreadable(f"broken off after {samples} samples: {reason}"))


def shard_names(locations: Sequence[str]) -> list[str]:
    """A name for each shard: its file's stem, with as many folders before it as tell them all apart."""
    stems = [SUFFIXES.sub("", location.rstrip("/")).split("/") for location in locations]
    for depth in range(1, max(map(len, stems), default=0) + 1):
        names = ["/".join(stem[-depth:]) for stem in stems]
        if len(set(names)) == len(names):
            return names
    unique = UniqueKeys()
    return [unique("/".join(stem)) for stem in stems]
