"""Images behind URLs, which some tables have in place of bytes: fetched ahead of their use, in order."""

from __future__ import annotations

import socket
import urllib.error
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from neurolab.data import patience
from neurolab.data.daemons import DaemonPool
from neurolab.data.decode import open_image
from neurolab.data.files import AGAIN
from neurolab.data.patience import patiently
from neurolab.data.sources import Record, Unreadable
from neurolab.data.web import UrlRefused, is_http, may_pass, open_fsspec, open_http
from neurolab.errors import SourceError

if TYPE_CHECKING:
    from PIL import Image

AT_ONCE, AHEAD = 16, 64
FAILURES_IN_A_ROW = 32
"""With so many the network is down: a cable that is unplugged must not cost the images of a whole table."""
TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Remote:
    """The drawing of a record whose image lies behind a URL."""

    url: str

    def __call__(self) -> Image.Image:
        payload, by_network = fetch(self.url)
        if isinstance(payload, Unreadable) and by_network:
            raise SourceError(f"{payload.reason}. Check the network, and {AGAIN}")
        return open_image(payload)


class Fetched(NamedTuple):
    """What is behind a URL, and whether it is the network that kept it from being had."""

    payload: bytes | Unreadable
    by_network: bool = False


def fetched(records: Iterable[Record]) -> Iterator[Record]:
    """Records in their order, those behind URLs with their bytes, or unreadable where these cannot be had.

    A row that fails for reasons of the network is held back until another shows that the network works: after
    FAILURES_IN_A_ROW of them, or where all that was to be fetched failed, comes SourceError, and none of
    these rows.
    """
    held: list[Record] = []
    works = False
    for record, was_remote, by_network in _in_order(records):
        if not by_network:
            works = works or was_remote
            yield from held
            held.clear()
            yield record
            continue
        held.append(record)
        if len(held) == FAILURES_IN_A_ROW:
            raise _network_fails(held)
    if held and not works:
        raise _network_fails(held)
    yield from held


def _network_fails(held: list[Record]) -> SourceError:
    last = held[-1]
    assert isinstance(last.payload, Unreadable)
    return SourceError(
        f"{len(held)} images in a row could not be fetched, the last one {last.key}: {last.payload.reason}. "
        f"Check the network and the server, and {AGAIN}"
    )


def _in_order(records: Iterable[Record]) -> Iterator[tuple[Record, bool, bool]]:
    """Records with what was fetched, a window of them at once; whether there was something to fetch, and
    whether the network kept it back."""
    pool = DaemonPool(AT_ONCE, "neurolab-fetch")
    waiting: deque[tuple[Record, Future[Fetched] | None]] = deque()
    try:
        for record in records:
            url = record.payload.url if isinstance(record.payload, Remote) else None
            waiting.append((record, None if url is None else pool.submit(fetch, url)))
            # Rows are read ahead only behind one that is waited for.
            while waiting and (waiting[0][1] is None or len(waiting) > AHEAD):
                yield _with_payload(*waiting.popleft())
        while waiting:
            yield _with_payload(*waiting.popleft())
    finally:
        pool.close()


def _with_payload(record: Record, future: Future[Fetched] | None) -> tuple[Record, bool, bool]:
    if future is None:
        return record, False, False
    payload, by_network = future.result()
    return replace(record, payload=payload), True, by_network


def fetch(url: str) -> Fetched:
    """What is behind a URL, asked for again where that may help; SourceError where a package is missing."""
    try:
        return Fetched(patiently(partial(_read, url), _may_pass, patience.ROW_WAITS))
    except UrlRefused as error:
        return Fetched(Unreadable(f"the row has no bytes, and {error}"))
    except FileNotFoundError:
        return Fetched(Unreadable(f"the row has no bytes, and there is nothing at {url}"))
    except ImportError as error:
        raise SourceError(f"{url} cannot be fetched: {error}") from error
    except Exception as error:
        reason = f"the row has no bytes, and {url} cannot be fetched: {type(error).__name__}: {error}"
        # An answer, be it that the server fails, has come over a network that works.
        by_network = may_pass(error) and not isinstance(error, urllib.error.HTTPError)
        return Fetched(Unreadable(reason), by_network)


def _read(url: str) -> bytes:
    with closing(open_http(url, TIMEOUT_SECONDS) if is_http(url) else open_fsspec(url)) as stream:
        return stream.read()


def _may_pass(error: Exception) -> bool:
    return may_pass(error) and not _is_unknown_host(error)


def _is_unknown_host(error: Exception) -> bool:
    """A host that does not exist. Without a network none does, so that this still counts as its failure."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else None
    return isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN
