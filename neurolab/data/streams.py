"""WebDataset shards that can only be read from front to back: URLs, and compressed tars."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from neurolab.data import patience
from neurolab.data.fingerprints import fingerprints
from neurolab.data.hashing import ContentHash, files_hash
from neurolab.data.patience import read_on
from neurolab.data.samples import UniqueKeys, group_members, printable, sample_record
from neurolab.data.sources import Record, Shard, Source
from neurolab.data.tarfiles import broken_shard, shard_names, tar_members
from neurolab.data.web import is_http, local_path, open_fsspec, open_http
from neurolab.errors import SourceError


class StreamBroken(SourceError):
    """A stream could not be opened or stopped in the middle; reading it again may help."""


class TarStreamSource(Source):
    """Tar shards behind URLs (http, and what fsspec or webdataset's gopen open), or compressed on disk.

    Keys are those of TarSource. The number of records is not known before they are read, and a range is
    reached by reading what is before it. A connection that breaks is opened again and read on where it was;
    three times within half a minute for the same record (`neurolab.data.patience`), then SourceError is
    raised, and a build can be resumed later.
    """

    kind = "webdataset"

    def __init__(self, urls: Sequence[str], location: str | None = None) -> None:
        for url in urls:
            if url.startswith("pipe:"):
                raise SourceError(f"{url!r} would run a command: neurolab reads URLs, not pipes")
        self.urls = dict(zip(shard_names(urls), map(local_path, urls), strict=True))
        self.location = location if location is not None else ", ".join(urls)
        self.remote = any("://" in url for url in self.urls.values())
        self._hash: str | None = None

    def shards(self) -> list[Shard]:
        return [Shard(name, None) for name in self.urls]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        once = partial(self._read_once, shard.name, stop=stop)
        return read_on(once, start, lambda error: isinstance(error, StreamBroken), patience.NET_WAITS)

    def content_hash(self) -> str:
        """SHA-256 over the shards' names and bytes on disk; of URLs, over names and what the server tells.

        The server's entity tag (``ETag``), else date and size, stand for the bytes: hashing them would fetch
        everything twice.
        """
        if self._hash is None:
            files = {name: Path(url) for name, url in self.urls.items()}
            if not self.remote:
                self._hash = files_hash(self.kind, files)
            else:
                total = ContentHash("webdataset stream")
                for name, told in zip(self.urls, fingerprints(list(self.urls.values())), strict=True):
                    total.add_text(name)
                    total.add_text(told)
                self._hash = total.hexdigest()
        return self._hash

    def _read_once(self, name: str, start: int, stop: int | None) -> Iterator[Record]:
        prefix = f"{name}/" if len(self.urls) > 1 else ""
        if stop is not None and start >= stop:
            return
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
        except PermissionError as error:
            raise SourceError(f"{url} may not be read: {error}") from error
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
    from webdataset.gopen import gopen, gopen_schemes

    if is_http(url):
        return open_http(url)
    try:
        return open_fsspec(url)
    except (ImportError, ValueError) as error:
        # fsspec does not know the scheme, or lacks the package for it.
        if url.partition("://")[0] not in gopen_schemes:
            raise SourceError(f"{url} cannot be opened: {error}") from error
    return gopen(url)
