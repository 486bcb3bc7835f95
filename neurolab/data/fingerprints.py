"""What a server says of a file without sending it, to tell whether it is still the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from neurolab.data import patience
from neurolab.data.daemons import DaemonPool
from neurolab.data.hashing import file_hash
from neurolab.data.patience import patiently
from neurolab.data.web import UrlRefused, is_http, may_pass, request
from neurolab.errors import SourceError

ASKED_AT_ONCE = 16
TIMEOUT_SECONDS = 20.0
FIRST_BYTE = {"Range": "bytes=0-0"}
CONTENT_NAMES = ("ETag", "etag", "md5Hash", "sha256", "blob_id")
"""Under which fsspec's file systems tell what names the content of a file."""


def fingerprints(urls: Sequence[str]) -> list[str]:
    """The fingerprint of each URL, and a warning of those that have none.

    SourceError where there is nothing, or the network fails: with less than all, a source would look changed.
    """
    pool = DaemonPool(ASKED_AT_ONCE, "neurolab-ask")
    try:
        asked = [pool.submit(fingerprint, url) for url in urls]
        found = [future.result() for future in asked]
    finally:
        pool.close()
    if silent := [url for url, told in zip(urls, found, strict=True) if not told]:
        more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
        warnings.warn(
            f"the server says neither entity tag, date nor size of {silent[0]}{more}: should the content "
            "change, a build will not notice",
            stacklevel=4,
        )
    return found


def fingerprint(url: str) -> str:
    """The entity tag of what is behind a URL, else its date and size, as far as they are told; else nothing.

    Of a file on the disk, its hash.
    """
    try:
        if "://" not in url:
            return file_hash(Path(url)).hex()
        return _of_http(url) if is_http(url) else _asked(partial(_of_fsspec, url))
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise SourceError(f"there is nothing at {url}: check the address") from error
    except Exception as error:
        raise SourceError(
            f"what is at {url} cannot be learned: {type(error).__name__}: {error}. Check the network and the "
            "address, and start again"
        ) from error


def _asked(ask: Callable[[], str]) -> str:
    return patiently(ask, may_pass, patience.NET_WAITS)


def _of_http(url: str) -> str:
    try:
        told = _asked(partial(_answer, url, "HEAD"))
    except UrlRefused:
        told = ""
    except Exception:
        # Some servers fail over the question only, and every time.
        return _answer(url, "GET", FIRST_BYTE)
    return told or _asked(partial(_answer, url, "GET", FIRST_BYTE))


def _answer(url: str, method: str, headers: dict[str, str] | None = None) -> str:
    # Closed without reading: a server that knows no ranges would send everything.
    with request(url, method, headers, TIMEOUT_SECONDS) as response:
        told, whole = response.headers, response.status != 206
    if told.get("ETag"):
        return str(told["ETag"])
    size = told.get("Content-Length") if whole else (told.get("Content-Range") or "").rpartition("/")[2]
    return " ".join(part for part in (told.get("Last-Modified"), size) if part and part != "*")


def _of_fsspec(url: str) -> str:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError):
        return ""  # webdataset may open it; it tells nothing
    info = system.info(path)
    named = next((info[name] for name in CONTENT_NAMES if info.get(name)), None)
    if named is not None:
        return str(named)
    parts = (_version(system, path), info.get("size"))
    return " ".join(str(part) for part in parts if part is not None)


def _version(system: Any, path: str) -> Any:
    """What a file system has to tell one version of a file from another, if anything."""
    from fsspec import AbstractFileSystem

    # fsspec's own ukey is of all it knows, among it when a file was last read.
    if type(system).ukey is not AbstractFileSystem.ukey:
        return system.ukey(path)
    try:
        return system.modified(path)
    except NotImplementedError:
        return None
