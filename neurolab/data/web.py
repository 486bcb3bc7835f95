"""Files behind URLs, read from front to back and to their end."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from neurolab.errors import SourceError

TIMEOUT_SECONDS = 60.0
GONE = (404, 410)
UNKNOWN_METHODS = (501, 505)
PASSING_REFUSALS = (408, 425, 429)
"""Timeout, too early, too many requests: the only answers of the 400s that may be others later."""


class UrlRefused(SourceError):
    """A server answered that it will not give a file, and will go on saying so."""


def may_pass(error: Exception) -> bool:
    """Whether asking again may help: all that a network does, but no answer that is meant to last."""
    lasting = SourceError | FileNotFoundError | PermissionError | ImportError | ValueError
    return not isinstance(error, lasting | http.client.InvalidURL)


def is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def local_path(url: str) -> str:
    """The path that a ``file://`` URL names; other URLs and paths as they are."""
    if not url.startswith("file://"):
        return url
    path = url.removeprefix("file://").removeprefix("localhost")
    return path if Path(path).exists() else unquote(path)


def request(
    url: str, method: str = "GET", headers: Mapping[str, str] | None = None, timeout: float = TIMEOUT_SECONDS
) -> Any:
    """The response to a request; UrlRefused where the answer will stay the same, else what urllib raises."""
    sent = {"User-Agent": "neurolab", **(headers or {})}
    asked = urllib.request.Request(_in_ascii(url), method=method, headers=sent)
    try:
        return urllib.request.urlopen(asked, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code not in UNKNOWN_METHODS and (error.code // 100 != 4 or error.code in PASSING_REFUSALS):
            raise
        what = "there is nothing at" if error.code in GONE else "the server refuses"
        raise UrlRefused(f"{what} {url} ({error.code} {error.reason})") from error


def _in_ascii(url: str) -> str:
    """A URL as HTTP writes it, with spaces and what is not ASCII as %XX."""
    parts = urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode("ascii")
    path, query = (quote(part, safe="/%:=&?~#+!$,;'@()*[]") for part in (parts.path, parts.query))
    return parts._replace(netloc=host, path=path, query=query).geturl()


def open_http(url: str, timeout: float = TIMEOUT_SECONDS) -> WholeStream:
    response = request(url, timeout=timeout)
    length = response.headers.get("Content-Length")
    return WholeStream(response, int(length) if length else None)


def open_fsspec(url: str) -> WholeStream:
    """What fsspec opens; ImportError or ValueError where it does not know the scheme or lacks its package."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    stream = system.open(path, "rb")
    size = getattr(stream, "size", None)
    if size is None:
        with suppress(NotImplementedError, FileNotFoundError):  # it is there, as it was opened
            size = system.info(path).get("size")
    return WholeStream(stream, size)


class WholeStream:
    """A stream that must give so many bytes (None: nobody knows); to end before that is an error."""

    def __init__(self, stream: Any, size: int | None) -> None:
        self.stream, self.left = stream, size

    def read(self, size: int = -1) -> bytes:
        data = bytes(self.stream.read(size) if size >= 0 else self.stream.read())
        if self.left is not None:
            self.left -= len(data)
            if self.left > 0 and size and (not data or size < 0):
                raise ConnectionError(f"the connection ended {self.left} bytes before the end")
        return data

    def close(self) -> None:
        self.stream.close()
