"""Packed streams: unpacked or left alone by their first bytes, their own errors as they are."""

from __future__ import annotations

import io
import random

import pyarrow as pa
import pytest

from neurolab.data.unpacking import unpacked
from neurolab.errors import SourceError

CONTENT = random.Random(0).randbytes(200_000)


class Breaking(io.BytesIO):
    """A stream whose connection ends behind so many bytes."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 100_000:
            raise SourceError("the network is gone")
        return super().read(size)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("step", [1, 3, 4, 5, 10_240])
def test_the_content_is_read_in_any_steps(packed: bool, step: int) -> None:
    content = CONTENT[:20_000]
    data = pa.compress(content, codec="zstd", asbytes=True) if packed else content
    stream = unpacked(io.BytesIO(data))
    assert b"".join(iter(lambda: stream.read(step), b"")) == content


@pytest.mark.parametrize("data", [b"", b"\x28", b"\x28\xb5\x2f"])
def test_short_streams(data: bytes) -> None:
    assert unpacked(io.BytesIO(data)).read(10) == data


@pytest.mark.parametrize("packed", [True, False])
def test_an_error_of_the_stream_stays_what_it_is(packed: bool) -> None:
    stream = unpacked(Breaking(pa.compress(CONTENT, codec="zstd", asbytes=True) if packed else CONTENT))
    with pytest.raises(SourceError, match="the network is gone"):
        while stream.read(10_240):
            pass
