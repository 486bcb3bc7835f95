"""Streams of compressed tars, as tarfile takes them: what it cannot unpack by itself is unpacked before."""

from __future__ import annotations

from typing import Any

ZSTANDARD = b"\x28\xb5\x2f\xfd"


def unpacked(stream: Any) -> Any:
    """The stream to read instead of one that may be packed with Zstandard; other packings are left alone."""
    raw = _FromTheStart(stream)
    return _Zstandard(raw) if raw.head == ZSTANDARD else raw


class _FromTheStart:
    """A stream whose first bytes, the `head`, have been looked at; its last error is kept in `failure`."""

    closed = False

    def __init__(self, stream: Any) -> None:
        self.stream, self.head = stream, b""
        self.failure: Exception | None = None
        while len(self.head) < len(ZSTANDARD) and (more := stream.read(len(ZSTANDARD) - len(self.head))):
            self.head += more

    def read(self, size: int) -> bytes:
        head, self.head = self.head[:size], self.head[size:]
        if len(head) == size:
            return head
        try:
            return head + bytes(self.stream.read(size - len(head)))
        except Exception as error:
            self.failure = error
            raise

    def close(self) -> None:
        """pyarrow calls this; who has opened the stream closes it."""


class _Zstandard:
    """What a stream holds, unpacked; its own errors come as they are, and not as pyarrow's."""

    def __init__(self, raw: _FromTheStart) -> None:
        import pyarrow as pa

        self.raw = raw
        self.inner = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")

    def read(self, size: int) -> bytes:
        try:
            return bytes(self.inner.read(size))
        except Exception:
            if self.raw.failure is not None:
                raise self.raw.failure from None
            raise
