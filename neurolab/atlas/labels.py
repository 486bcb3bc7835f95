"""labels.sqlite: what people say of units, kept beside the arrays and never in them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from neurolab.atlas.writing import locked
from neurolab.errors import AtlasError

VERSION = 1
_WAIT_SECONDS = 30.0
_CREATE = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS labels (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    unit TEXT NOT NULL,
    text TEXT NOT NULL,
    author TEXT NOT NULL,
    created TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS labels_by_unit ON labels (unit);
PRAGMA user_version = 1;
COMMIT;
"""


@dataclass(frozen=True)
class Label:
    """What `author` called a unit, and when (UTC, ISO 8601)."""

    id: int
    unit: str
    text: str
    author: str
    created: str


class Labels:
    """People's labels of units. Several threads and processes may read and write at once.

    Every call opens the file anew, so an object may be shared between threads and survives a fork. Reading
    never makes the file. Raises AtlasError where the file cannot be written to, or is of a newer version.
    """

    def __init__(
        self,
        path: str | Path,
        canonical: Callable[[str], str] = str,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = Path(path)
        self._check = check  # called before the file is looked at: whether it is still of the same atlas
        self._canonical = canonical  # a unit's full name, from the full or the short one

    def add(self, unit: str, text: str, author: str = "") -> Label:
        """Give a unit a label; the text must not be blank."""
        self._check()
        if not text.strip():
            raise AtlasError("a label needs a text")
        row = (
            self._canonical(unit),
            text.strip(),
            author.strip(),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with self._connect(write=True) as connection:
            insert = "INSERT INTO labels (unit, text, author, created) VALUES (?, ?, ?, ?)"
            number = connection.execute(insert, row).lastrowid
        return Label(int(number or 0), *row)

    def remove(self, label_id: int) -> bool:
        """Remove a label by its id; tells whether there was one."""
        self._check()
        if not self.path.exists():
            return False
        with self._connect(write=True) as connection:
            return connection.execute("DELETE FROM labels WHERE id = ?", (label_id,)).rowcount > 0

    def of(self, unit: str) -> list[Label]:
        """The labels of a unit, oldest first."""
        return self._select("WHERE unit = ? ORDER BY id", (self._canonical(unit),))

    def all(self) -> list[Label]:
        """Every label, oldest first."""
        return self._select("ORDER BY id", ())

    def damage(self) -> list[str]:
        """What SQLite's own check finds wrong with the file; AtlasError where it cannot be read at all."""
        if not self.path.exists():
            return []
        with self._connect(write=False) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
        return [line for line in found if line != "ok"]

    def _select(self, condition: str, parameters: tuple[str, ...]) -> list[Label]:
        self._check()
        if not self.path.exists():
            return []
        with self._connect(write=False) as connection:
            query = f"SELECT id, unit, text, author, created FROM labels {condition}"
            return [Label(*row) for row in connection.execute(query, parameters)]

    @contextlib.contextmanager
    def _connect(self, write: bool) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(self._open(write)) as connection:
                self._prepare(connection, write)
                with connection:  # commits, or rolls back on an error
                    yield connection
        except (sqlite3.Error, OSError) as error:
            action = "write labels to" if write else "read labels from"
            denied = isinstance(error, OSError) or "readonly" in str(error) or "unable to open" in str(error)
            hint = "; the atlas seems to be read-only: use a copy of it" if denied else ""
            raise AtlasError(f"cannot {action} {self.path}: {error}{hint}") from error

    def _open(self, write: bool) -> sqlite3.Connection:
        mode = "rwc" if write else "ro"
        uri = f"{self.path.resolve().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS)
        if write:
            return connection
        try:
            connection.execute("PRAGMA user_version")
        except sqlite3.OperationalError:
            # A WAL file in a folder that cannot be written to: nobody writes it, so it may be read as it
            # lies.
            connection.close()
            connection = sqlite3.connect(f"{uri}&immutable=1", uri=True)
        return connection

    def _prepare(self, connection: sqlite3.Connection, write: bool) -> None:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise AtlasError(
                f"{self.path} is of version {version}, newer than this neurolab reads ({VERSION}); "
                "upgrade neurolab"
            )
        if write and version < VERSION:
            # SQLite does not wait for its turn to change the journal mode; so wait here.
            with locked(self.path.with_name(".labels.lock")):
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_CREATE)
