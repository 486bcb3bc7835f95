"""WebDataset shards that can only be read from front to back: URLs, and compressed tars."""

from __future__ import annotations

import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from neurolab.data.hashing import ContentHash, files_hash
from neurolab.data.samples import UniqueKeys, group_members, printable, sample_record
from neurolab.data.sources import Record, Shard, Source
from neurolab.data.tarfiles import broken_shard, shard_names, tar_members
from neurolab.errors import SourceError

ATTEMPTS = 3
PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 60.0


class StreamBroken(SourceError):
    """A stream could not be opened or stopped in the middle; reading it again may help."""


class TarStreamSource(Source):
    """Tar shards behind URLs (http, and what fsspec or webdataset's gopen open), or compressed on disk.

    Keys are those of TarSource. The number of records is not known before they are read, and a range is
    reached by reading what is before it. A connection that breaks is opened again up to three times and read
    on where it was; then SourceError is raised, and a build can be resumed later.
    """

    kind = "webdataset"

    def __init__(self, urls: Sequence[str], location: str | None = None) -> None:
        for url in urls:
            if url.startswith("pipe:"):
                raise SourceError(f"{url!r} would run a command: neurolab reads URLs, not pipes")
        self.urls = dict(zip(shard_names(urls), urls, strict=True))
        self.location = location if location is not None else ", ".join(urls)
        self._hash: str | None = None

    def shards(self) -> list[Shard]:
        return [Shard(name, None) for name in self.urls]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        position, failures = start, 0
        while stop is None or position < stop:
            try:
                for record in self._read_once(shard.name, position, stop):
                    yield record
                    position, failures = position + 1, 0
                return
            except StreamBroken:
                failures += 1
                if failures == ATTEMPTS:
                    raise
                time.sleep(PAUSE_SECONDS * failures)

    def content_hash(self) -> str:
        """SHA-256 over the shards' names and bytes on disk; of URLs, over names and what the server tells.

        The server's entity tag (``ETag``), else the size, stands for the bytes: hashing them would fetch
        everything twice.
        """
        if self._hash is None:
            files = {name: Path(url) for name, url in self.urls.items()}
            if not any("://" in url for url in self.urls.values()):
                self._hash = files_hash(self.kind, files.items())
            else:
                total = ContentHash("webdataset stream")
                for name, url in self.urls.items():
                    total.add_text(name)
                    total.add_text(fingerprint(url))
                self._hash = total.hexdigest()
        return self._hash

    def _read_once(self, name: str, start: int, stop: int | None) -> Iterator[Record]:
        prefix = f"{name}/" if len(self.urls) > 1 else ""
        breaks: list[str] = []
        problems: list[str] = []
        unique = UniqueKeys()
        count = 0
        with _GuardedStream(self.urls[name]) as stream:
            for sample in group_members(tar_members(stream, "r|*", _content, breaks), problems):
                notes = list(problems)
                problems.clear()
                key = unique(printable(sample["__key__"]))
                if count >= start:
                    yield sample_record(sample, prefix + key, bytes, notes)
                count += 1
                if count == stop:
                    return
        if breaks and count >= start:
            yield broken_shard(name, count, breaks[0])


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    return stream.read() if stream is not None else b""


class _GuardedStream:
    """A byte stream whose own errors (network, disk) come as StreamBroken, its content's do not."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self.stream = _open_url(url)
        except SourceError:
            raise
        except FileNotFoundError as error:
            raise SourceError(f"there is nothing at {url}: check the address") from error
        except Exception as error:
            raise self._broken("cannot be opened", error) from error

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self.stream.read(size))
        except Exception as error:
            raise self._broken("stopped", error) from error

    def _broken(self, what: str, error: Exception) -> StreamBroken:
        return StreamBroken(
            f"{self.url} {what}: {type(error).__name__}: {error}. Check the network and the address, and "
            "start again: a build goes on where it was"
        )

    def __enter__(self) -> _GuardedStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stream.close()


def _open_url(url: str) -> Any:
    """http(s) through urllib, other schemes through fsspec, and what that cannot open through webdataset."""
    import fsspec
    from webdataset.gopen import gopen, gopen_schemes

    scheme = url.partition("://")[0] if "://" in url else "file"
    if scheme in ("http", "https"):
        return _HttpStream(url)
    try:
        return fsspec.open(url, "rb").open()
    except (ImportError, ValueError) as error:
        # fsspec does not know the scheme, or lacks the package for it.
        if scheme not in gopen_schemes:
            raise SourceError(f"{url} cannot be opened: {error}") from error
    return gopen(url)


class _HttpStream:
    """A web download read from front to back. A connection closed too early is an error here, not an end."""

    def __init__(self, url: str) -> None:
        try:
            self.response = urllib.request.urlopen(_request(url), timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (403, 404, 410):
                raise SourceError(f"there is nothing at {url} ({error.code} {error.reason})") from error
            raise
        length = self.response.headers.get("Content-Length")
        self.left = int(length) if length else None

    def read(self, size: int = -1) -> bytes:
        data = bytes(self.response.read(size if size >= 0 else None))
        if self.left is not None:
            self.left -= len(data)
            if self.left > 0 and (not data or size < 0):
                raise ConnectionError(f"the connection ended {self.left} bytes before the end")
        return data

    def close(self) -> None:
        self.response.close()


def _request(url: str, method: str = "GET") -> urllib.request.Request:
    return urllib.request.Request(url, method=method, headers={"User-Agent": "neurolab"})


def fingerprint(url: str) -> str:
    """What the server says of a file without sending it: its entity tag, else its size, else nothing."""
    import fsspec

    try:
        if url.startswith(("http://", "https://")):
            with urllib.request.urlopen(_request(url, "HEAD"), timeout=TIMEOUT_SECONDS) as response:
                return str(response.headers.get("ETag") or response.headers.get("Content-Length") or "")
        system, path = fsspec.core.url_to_fs(url)
        info = system.info(path)
    except Exception:
        return ""
    return str(info.get("ETag") or info.get("etag") or info.get("size") or "")
