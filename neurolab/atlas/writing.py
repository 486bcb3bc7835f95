"""Files that are written once or not at all: atomic writing, and arrays that are read in place.

Every file of an atlas is written to a temporary sibling, synced, and renamed over the old one, so a reader
sees the old file or the new one and never half of either, whatever kills the writer. The same content gives
the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import secrets
import struct
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from neurolab.errors import AtlasError

if sys.platform != "win32":
    import fcntl

ALIGNMENT = 64  # bytes; a cache line, and what NumPy itself aligns the data inside a .npy file to
TEMPORARY_PREFIX = ".writing-"
_PADDING_FIELD = 0xD935  # the id under which zipalign, too, keeps padding in a member's extra field
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
# Windows reserves these as file names, with any extension.
_DEVICES = {"con", "prn", "aux", "nul"} | {f"{port}{i}" for port in ("com", "lpt") for i in range(10)}
_LONGEST_FOLDER = 240


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on leaving without error it replaces `path` atomically.

    On an error the temporary file is removed and `path` stays as it was. The file's bytes are on the disk
    before the rename, and the rename is on the disk before this returns.
    """
    target = Path(path)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}-{target.name[-48:]}"
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        if sys.platform != "win32":  # where a folder cannot be opened
            _sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: str | Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`; other threads and processes that ask for it wait.

    With `wait=False`, AtlasError where somebody holds it. The system lets go of it when a holder dies. Where
    the system has no file locks (Windows), nothing is locked.
    """
    with open(path, "a") as file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise AtlasError(f"{Path(path).parent} is being written by another process") from error
        yield


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, or leave what was there."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def json_bytes(value: Any) -> bytes:
    """`value` as JSON whose bytes depend on its content only: keys sorted, two spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "surrogatepass")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON (sorted keys) to `path`, atomically."""
    atomic_write_bytes(path, json_bytes(value))


def write_npz(path: str | Path, /, **arrays: np.ndarray) -> None:
    """Write arrays to an .npz that `read_npz` maps into memory, and `numpy.load` reads.

    Unlike numpy.savez: members are in the order of their names, carry no date, and their data starts at a
    multiple of 64 bytes, so the same arrays give the same bytes and can be used where they lie. Never
    compressed. Raises AtlasError for arrays of objects (they would be pickled) and of structured types.
    """
    write_npz_in_turn(path, ({name: arrays[name]} for name in sorted(arrays)))


def write_npz_in_turn(path: str | Path, parts: Iterable[Mapping[str, np.ndarray]]) -> None:
    """As `write_npz`, of parts that are asked for one after the other, in their order: no two of them have to
    be in memory at once."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for part in parts:
            for name, array in part.items():
                _write_member(archive, name, np.asarray(array, order="C"))


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, read-only and mapped into memory: nothing is read until it is used.

    Raises AtlasError for a missing or damaged file, compressed members (they cannot be mapped) and arrays of
    objects (they would have to be unpickled, which could run code).
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return {
                info.filename.removesuffix(".npy"): _map_member(path, mapped, info)
                for info in archive.infolist()
            }
    except FileNotFoundError as error:
        raise AtlasError(f"{path} is missing; build the atlas again") from error
    except (zipfile.BadZipFile, ValueError, OSError, struct.error) as error:
        if isinstance(error, AtlasError):
            raise
        raise AtlasError(f"{path} cannot be read as arrays ({error}); build the atlas again") from error


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def site_folder(name: str) -> str:
    """The folder name of a site: ASCII that every file system keeps apart, upper and lower case too.

    a-z, 0-9, `.`, `_` and `-` stand for themselves, `:` becomes `@`, every other UTF-8 byte becomes `%xx`.
    `site_name` is the inverse. Raises AtlasError where no folder can have the name (empty, or over 240
    characters).
    """
    data = name.encode("utf-8", "surrogatepass")
    folder = "".join(chr(b) if chr(b) in _PLAIN else "@" if b == ord(":") else f"%{b:02x}" for b in data)
    if folder[:1] == "." or folder.split(".")[0].split("@")[0] in _DEVICES:
        folder = f"%{ord(folder[0]):02x}{folder[1:]}"
    if folder[-1:] == ".":  # Windows drops a last dot
        folder = f"{folder[:-1]}%2e"
    if not 0 < len(folder) <= _LONGEST_FOLDER:
        raise AtlasError(f"a site named {name[:80]!r} ({len(name)} characters) cannot have a folder")
    return folder


def site_name(folder: str) -> str:
    """The site whose folder this is: the inverse of `site_folder`."""
    data, i = bytearray(), 0
    while i < len(folder):
        escaped = folder[i] == "%"
        data.append(
            int(folder[i + 1 : i + 3], 16) if escaped else ord(":" if folder[i] == "@" else folder[i])
        )
        i += 3 if escaped else 1
    return data.decode("utf-8", "surrogatepass")


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files that a killed writer left in `folder`; only its one writer may call this."""
    for path in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)


def _write_member(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    if array.dtype.hasobject or array.dtype.names is not None:
        raise AtlasError(
            f"array {name!r} has dtype {array.dtype}; an atlas keeps plain numbers and strings only"
        )
    info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16  # the same bytes on every system
    # The local header: 30 bytes, the name, our padding field, and the 20 bytes that force_zip64 adds.
    start = archive.start_dir + 30 + len(info.filename.encode()) + 4 + 20
    padding = -start % ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING_FIELD, padding) + bytes(padding)
    header = io.BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))
    with archive.open(info, "w", force_zip64=True) as member:
        member.write(header.getvalue())
        flat = array.reshape(-1)
        step = max(1, (16 << 20) // max(1, array.itemsize))
        for first in range(0, flat.size, step):
            member.write(flat[first : first + step].tobytes())


def _map_member(path: str | Path, mapped: mmap.mmap, info: zipfile.ZipInfo) -> np.ndarray:
    where = f"{path}, array {info.filename.removesuffix('.npy')!r},"
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
        raise AtlasError(f"{where} is compressed or encrypted and cannot be mapped; write it with write_npz")
    # The local header's extra field may differ from the central one, so its own lengths are what counts.
    local = mapped[info.header_offset : info.header_offset + 30]
    name_length, extra_length = struct.unpack("<HH", local[26:30])
    member = info.header_offset + 30 + name_length + extra_length
    header = io.BytesIO(mapped[member : member + min(info.file_size, 65536)])
    version = npy.read_magic(header)
    if version not in ((1, 0), (2, 0)):
        raise AtlasError(f"{where} is of .npy version {version}, which neurolab does not write")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(header)
    if dtype.hasobject:
        raise AtlasError(f"{where} holds pickled objects, which neurolab never loads")
    start, size = member + header.tell(), int(np.prod(shape, dtype=object)) * dtype.itemsize
    if header.tell() + size != info.file_size or start + size > len(mapped):
        raise AtlasError(f"{where} is shorter or longer than its header says; build the atlas again")
    array = np.ndarray(shape, dtype, mapped, start, order="F" if fortran else "C")
    return array


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
