"""What a source of images is: records in shards, read by random access, with a hash of their content.

A source gives records (one image each, not yet decoded) in a fixed order. The records are cut into
shards, and a shard is read from any record to any other, so that a build that was killed goes on
where it was. Nothing here imports torch: the decode workers import this module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurolab.data.files import ListedFile
from neurolab.errors import BadImageError, SourceError

if TYPE_CHECKING:
    from PIL import Image

Drawing = Callable[[], "Image.Image"]
"""A picklable call without arguments that draws the image: an instance of a class in an importable module."""

Payload = bytes | Path | ListedFile | Drawing


@dataclass(frozen=True)
class Unreadable:
    """The drawing of a record whose image cannot be had: decoding it raises BadImageError(reason).

    A source that finds a broken place (a cut tar shard, a row without image) gives such a record there,
    so that the place keeps its number and the report names it.
    """

    reason: str

    def __call__(self) -> Image.Image:
        raise BadImageError(self.reason)


@dataclass(frozen=True)
class Record:
    """One image of a source, not yet decoded.

    ``key`` is unique in the source and the same on every machine. ``payload`` is the encoded image, its file,
    or a drawing; a path that leads nowhere is a bad image, a listed file that is gone ends the reading.
    ``notes`` say what was wrong beside the image (captions that cannot be read). Raises SourceError for texts
    that are none: they would end a build where it writes them down.
    """

    key: str
    payload: Payload
    captions: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        several = self.captions, tuple(self.labels), tuple(self.labels.values()), self.notes
        for texts in ((self.key,), *several):
            if not isinstance(texts, tuple) or not all(isinstance(text, str) for text in texts):
                raise SourceError(
                    f"the record {self.key!r} has {texts!r} for texts: its key and labels are strings, its "
                    "captions and notes tuples of strings; see to the source that gives it"
                )


@dataclass(frozen=True)
class Shard:
    """A run of records of a source; ``size`` is None where only reading to its end would tell."""

    name: str
    size: int | None


class Source(ABC):
    """A stream of images with stable keys, and captions or labels where it has them.

    Subclasses set ``kind`` and ``location`` and give shards(), read() and content_hash(). Their records keep
    their place: record ``i`` of a shard is the same whatever range is read.
    """

    kind: str
    location: str
    remote: bool = False
    """Whether reading it fetches, while content_hash asks a server for what names the content."""

    @abstractmethod
    def shards(self) -> list[Shard]:
        """The shards in order, their names unique."""

    @abstractmethod
    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Records start, start + 1, ... before stop (None: the end) of a shard. A stream skips by reading."""

    @abstractmethod
    def content_hash(self) -> str:
        """SHA-256 (hex) of what the source holds; the same wherever it lies. May read everything once."""

    def recall(self, counted: Mapping[str, int], begun: Mapping[str, int]) -> None:  # noqa: B027
        """Learn how many records an earlier pass has counted in shards that it read to their end, and how
        many at least are in those that it began: where numbers matter, streams would be read again for them.
        """

    def size(self) -> int | None:
        """The number of records, bad images included; None where it is not known without reading."""
        sizes = [shard.size for shard in self.shards()]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def __len__(self) -> int:
        """The same; TypeError where it is not known."""
        size = self.size()
        if size is None:
            raise TypeError(f"the length of {self.location} is not known before it is read (a stream)")
        return size

    def __bool__(self) -> bool:
        # Without this, truth would ask for a length, which a stream does not have.
        return True

    def __iter__(self) -> Iterator[Record]:
        """All records in order."""
        for shard in self.shards():
            yield from self.read(shard)

    def describe(self) -> dict[str, Any]:
        """kind, location, hash and size (None for a stream): what an atlas says about its source."""
        about = {"kind": self.kind, "location": self.location, "hash": self.content_hash()}
        return about | {"size": self.size()}

    def limit(self, count: int) -> Source:
        """The first ``count`` records of this source, as a source."""
        from neurolab.data.combine import LimitedSource

        return LimitedSource(self, count)


def open_source(spec: str | Path | Source | Sequence[str | Path | Source]) -> Source:
    """Open a source of images by what names it.

    ``spec`` is one of

    - ``"demo"``: the demo set, drawn from installed packages
    - a folder of images (JPEG, PNG, WebP, GIF, BMP, TIFF), searched recursively; ``folder:PATH`` where shards
      or tables lie among them and the images are meant
    - WebDataset shards: a .tar file, a folder of them, a pattern ``train-{000..099}.tar`` or ``*.tar``, or a
      URL, with braces too (``https://.../{00..07}.tar``, ``s3://...``: anything that fsspec opens);
      compressed ones (.tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst) likewise, which are read front to back
    - Parquet: a .parquet file, a folder of them, or a pattern (``**`` stands for folders at any depth)
    - a folder written by ``datasets.save_to_disk``
    - ``"hf:NAME[@REVISION][#CONFIG][:SPLIT]"``: a dataset of the Hugging Face hub, streamed
    - one of these with a selection by label, or by key: ``"demo[kind=word|photo]"``,
      ``"demo[group!=flags]"``, ``"photos.parquet[wnid=n01*]"``; several one after another all hold
    - a source (given back as it is), or a sequence of any of these (their records one after another)

    Raises SourceError, naming what is there instead, when nothing is found or its kind is not known.
    """
    from neurolab.data.opening import open_any

    return open_any(spec)
