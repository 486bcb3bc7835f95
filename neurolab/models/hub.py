"""Weights that others host: from the local cache first, and quickly given up where there is no network."""

from __future__ import annotations

import contextlib
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from neurolab.errors import UnknownModelError


def fetch(config: dict[str, str], what: str) -> Path:
    """The file of one of open_clip's pretrained configurations: cached, or downloaded.

    Safetensors are preferred. Raises UnknownModelError, naming the ways out, where neither is to be had.
    """
    import huggingface_hub

    repository, filename = os.path.split(config.get("hf_hub", ""))
    names = _candidates(filename)
    for name in names:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    reason: Exception = ConnectionError("the model hub cannot be reached")
    if hub_answers():
        for name in names:
            try:
                return Path(huggingface_hub.hf_hub_download(repository, name, etag_timeout=10))
            except Exception as error:  # of many kinds: no such file, repository, permission, connection
                reason = error
    raise not_to_be_had(what, reason) from reason


def _candidates(filename: str) -> list[str]:
    """The names under which a repository may hold the weights, best first."""
    if not filename:
        plain = "open_clip_pytorch_model"
        return ["open_clip_model.safetensors", f"{plain}.safetensors", f"{plain}.bin"]
    stem, suffix = os.path.splitext(filename)
    return [f"{stem}.safetensors", filename] if suffix in (".bin", ".pth", ".pt") else [filename]


def not_to_be_had(what: str, reason: BaseException, variable: str = "HF_HOME") -> UnknownModelError:
    """The error for weights that are neither cached nor to be downloaded."""
    now = os.environ.get(variable)
    because = str(reason).strip().partition("\n")[0]
    return UnknownModelError(
        f"{what} cannot be had: not from the cache, and not from the network. Three ways out: set {variable} "
        f"({f'now {now}' if now else 'now not set'}) to a cache that holds it; pass a local checkpoint as "
        'weights=FILE; or use load_model("pocket"), which ships with neurolab. '
        f"({type(reason).__name__}: {because})"
    )


def hub_answers(seconds: float = 3.0) -> bool:
    """Whether the model hub can be reached; through a proxy it is taken for granted."""
    import huggingface_hub.constants as hub

    return not hub.HF_HUB_OFFLINE and host_answers(hub.ENDPOINT, seconds)


def host_answers(url: str, seconds: float = 3.0) -> bool:
    """Whether a connection to the host of a URL can be made; through a proxy it is taken for granted."""
    parts = urllib.parse.urlsplit(url)
    if urllib.request.getproxies().keys() & {parts.scheme, "all"}:
        return True
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=seconds).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def cache_only_if_offline() -> Iterator[None]:
    """Keep the hub's client to its cache where the hub does not answer: it would try again for a minute."""
    import huggingface_hub.constants as hub

    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or not hub_answers()
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before
