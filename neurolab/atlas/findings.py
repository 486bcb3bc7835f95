"""What is found wrong with an atlas, as it is gathered and as it is reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neurolab.errors import AtlasError

REBUILD = "restore it from a copy, or build the atlas again"


@dataclass(frozen=True)
class Finding:
    """A file that is not as it should be, by its path in the atlas; what is wrong, and what to do."""

    file: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class Report:
    """What `neurolab.atlas.checking.check` found. `notes` say what is no damage but good to know.

    files, bytes: how many files were found as they were written, by a hash of their content, and their size.
    """

    path: Path
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    files: int
    bytes: int

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self) | {"path": str(self.path), "sound": self.sound}


class Findings:
    """Gathers what is wrong with the atlas in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self._findings: list[Finding] = []
        self._files = self._bytes = 0

    def add(self, file: str, problem: str, remedy: str = REBUILD) -> None:
        """Something is wrong with a file."""
        self._findings.append(Finding(file, problem, remedy))

    def verified(self, file: str) -> None:
        """A file is as it was written: the hash of its content says so."""
        self._files += 1
        self._bytes += (self.folder / file).stat().st_size

    def about(self, file: str) -> bool:
        """Whether something was found about the file."""
        return any(finding.file == file for finding in self._findings)

    @contextmanager
    def reading(self, file: str, remedy: str = REBUILD) -> Iterator[None]:
        """Inside, whatever is raised is a finding about the file: damage breaks a reader in any way."""
        try:
            yield
        except AtlasError as error:
            # Its message ends with what to do.
            problem, _, told = str(error).removeprefix(f"{self.folder / file} ").rpartition("; ")
            self.add(file, problem or told, told if problem else remedy)
        except Exception as error:
            self.add(file, f"cannot be read ({type(error).__name__}: {error})", remedy)

    def report(self) -> Report:
        """All that was gathered."""
        return Report(self.folder, tuple(self._findings), tuple(self.notes), self._files, self._bytes)
