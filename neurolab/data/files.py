"""Files on disks and network drives that may fail for a while, or go away in the middle of a build.

What is wrong with one file must never end a build; what is wrong with the disk must never be put down to
its files, which would be skipped for good.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypeVar

from neurolab.data import patience
from neurolab.data.patience import patiently
from neurolab.errors import SourceError

T = TypeVar("T")


def _numbers(names: str) -> frozenset[int]:
    """Those of the named errors that this system has."""
    return frozenset(getattr(errno, name) for name in names.split() if hasattr(errno, name))


GONE = _numbers("ENOENT ENOTDIR")
ENVIRONMENT = _numbers(
    "ESTALE EMFILE ENFILE ENOMEM ENOBUFS EAGAIN EBUSY ENODEV ENXIO ENOTCONN ENOLINK ETIMEDOUT EPIPE "
    "EHOSTDOWN EHOSTUNREACH ENETDOWN ENETRESET ENETUNREACH ECONNREFUSED ECONNRESET ECONNABORTED ESHUTDOWN "
    "EKEYEXPIRED"
)
"""What a disk, a server or the limits of the process can do to any file."""
FAILED_READ = _numbers("EIO EREMOTEIO")
"""What a bad spot under one file and a dying disk have in common."""

AGAIN = "give the same command again: what is finished is kept"
NEIGHBOURS, LOOKED_AMONG = 8, 1000


def says_nothing_of_the_file(error: Exception) -> bool:
    """Whether an error may be one of the disk and not of the file, and may pass."""
    return isinstance(error, OSError) and error.errno in ENVIRONMENT | FAILED_READ


def may_come_back(error: Exception) -> bool:
    """The same for a file that was there: it may be gone with its disk for a moment."""
    return says_nothing_of_the_file(error) or (isinstance(error, OSError) and error.errno in GONE)


@dataclass(frozen=True)
class ListedFile:
    """A file that was there when the source's folder was listed."""

    path: Path
    folder: Path

    def read(self) -> bytes:
        """Its bytes; see `apply`."""
        return self.apply(lambda path: path.read_bytes())

    def apply(self, read: Callable[[Path], T]) -> T:
        """What `read` gives of its path, tried again where that may help.

        OSError where this file alone cannot be read; SourceError where it is gone, its folder cannot be
        listed any more, or the disk or the system fails.
        """
        try:
            return patiently(lambda: read(self.path), may_come_back, patience.DISK_WAITS)
        except OSError as error:
            if error.errno in GONE:
                self._give_up(f"{self.path} is gone, which was there before", "Bring it back", error)
            if problem := problem_of_listing(self.folder):
                where = f"{self.folder} cannot be listed any more ({problem})"
                self._give_up(f"{self.path} cannot be read: {where}", "Bring it back", error)
            if error.errno in ENVIRONMENT:
                what = f"{self.path} cannot be read: {error.strerror}"
                self._give_up(what, "See to the disk, the network and the system's limits", error)
            if error.errno in FAILED_READ and not self._others_can_be_read():
                what = f"{self.path} cannot be read ({error.strerror}), nor can others of {self.folder}"
                self._give_up(what, "See to the disk", error)
            raise

    def _give_up(self, what: str, do: str, error: OSError) -> NoReturn:
        raise SourceError(f"{what}. {do}, and {AGAIN}") from error

    def _others_can_be_read(self) -> bool:
        """Whether one can of some files around it; where there are none, the disk is given the benefit."""
        tried = False
        for place in (self.path.parent, self.folder):
            found = list(islice(_files_below(place, self.path), LOOKED_AMONG))
            if any(map(_is_readable, found[:: max(1, len(found) // NEIGHBOURS)])):
                return True
            tried = tried or bool(found)
        return not tried


def ask(question: Callable[[], bool], path: str | Path) -> bool:
    """The answer to a question about a file; OSError where it is the file that cannot be asked, SourceError
    where it is the disk."""
    try:
        return patiently(question, says_nothing_of_the_file, patience.DISK_WAITS)
    except OSError as error:
        if error.errno in ENVIRONMENT:
            raise SourceError(
                f"cannot look at {path}: {error.strerror}. See to the disk, and {AGAIN}"
            ) from error
        raise


def is_file(path: Path) -> bool:
    """Whether there is a file; of a damaged one, which reading will tell, too."""
    if "\0" in str(path):
        return False
    try:
        return ask(lambda: stat.S_ISREG(path.stat().st_mode), path)
    except OSError as error:
        return error.errno in FAILED_READ


def problem_of_listing(folder: Path) -> str:
    """Why a folder cannot be listed, or nothing."""
    try:
        with os.scandir(folder) as entries:
            next(entries, None)
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def _files_below(folder: Path, but: Path) -> Iterator[Path]:
    paths = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return (path for path in paths if path != but)


def _is_readable(path: Path) -> bool:
    """Whether the disk, and not what the system remembers of it, gives the beginning of a file."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return bool(stream.read(1))
    except OSError:
        return False
