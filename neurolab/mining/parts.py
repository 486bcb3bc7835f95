"""Parts of a pass: runs of groups of a shard that are mined anywhere and put together in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from neurolab.data.decode import ImageTransform
from neurolab.data.items import Item
from neurolab.data.loader import ALL_DONE, load_batches
from neurolab.data.sources import Record, Shard, Source
from neurolab.mining.checkpoint import MiningState, fresh_state
from neurolab.mining.concepts import Concepts
from neurolab.mining.forward import Forward
from neurolab.mining.observations import count_per_image
from neurolab.mining.passes import computed
from neurolab.mining.remembered import Kept

ENDLESS = 2**62
GUESSED = 16  # groups of a shard of unknown length: a thousand images


@dataclass(frozen=True)
class Span:
    """Groups of a shard, from number `first` to before `stop`; None: to its end, which nobody knows yet."""

    shard: Shard
    first: int
    stop: int | None

    @property
    def groups(self) -> int:
        """How many groups it has; of one whose end nobody knows, a guess."""
        return GUESSED if self.stop is None else self.stop - self.first

    def ends(self, records: int, batch_size: int) -> bool:
        """Whether the shard is known to end with it, where so many records were read of it."""
        if self.stop is None or records < (self.stop - self.first) * batch_size:
            return True
        return self.shard.size is not None and self.stop * batch_size >= self.shard.size


@dataclass
class Part:
    """What was mined of a run of spans: a state that counts images from 0, and what is known of each image;
    of a model that embeds images, [n, D] for each batch."""

    state: MiningState
    items: list[Item] = field(default_factory=list)
    embeddings: list[NDArray[np.float16]] = field(default_factory=list)

    @property
    def records(self) -> int:
        """How many records it is made of, bad ones included."""
        return self.state.records


@dataclass(frozen=True)
class Task:
    """All that it takes to mine any spans of a source, but the model."""

    source: Source
    transform: ImageTransform
    batch_size: int
    kept: Kept
    workers: int
    concepts: Concepts | None = None

    def mine(
        self, forward: Forward, run: Sequence[Span], edges: Mapping[str, NDArray[np.float64]] | None
    ) -> Part:
        """Mine spans, each of which begins where the one before it ends; `forward` is entered. edges: of the
        histograms by site, None while nobody has them."""
        # What comes before the edges are known is handed on as it is.
        kept = replace(self.kept, sample=ENDLESS)
        per_image = count_per_image(forward.sites, forward.reduction)
        part = Part(fresh_state(forward.sites, kept, edges, per_image))
        for span in run:
            self._mine_span(forward, span, part)
        part.state.settle()
        part.state.sieves = []  # which belong to the device here
        return part

    def _mine_span(self, forward: Forward, span: Span, part: Part) -> None:
        before = part.records
        batches = load_batches(
            SpanSource(self.source, span, self.batch_size),
            self.transform,
            batch_size=self.batch_size,
            workers=self.workers,
            done={span.shard.name: span.first},
        )
        for batch, found, embeddings, concepts in computed(forward, batches, part.state, self.concepts):
            # It may be the end of the span, and not of the shard.
            part.state.take(replace(batch, ends=False), found, concepts)
            part.items += batch.items
            if embeddings is not None:
                part.embeddings.append(embeddings)
        if span.ends(part.records - before, self.batch_size):
            part.state.done[span.shard.name] = ALL_DONE


class SpanSource(Source):
    """The one shard of a span, as long as the span reaches."""

    def __init__(self, source: Source, span: Span, batch_size: int) -> None:
        self.source, self.span = source, span
        self.kind, self.location = source.kind, source.location
        self.stop = None if span.stop is None else span.stop * batch_size

    def shards(self) -> list[Shard]:
        ends = [end for end in (self.span.shard.size, self.stop) if end is not None]
        return [Shard(self.span.shard.name, min(ends) if ends else None)]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        ends = [end for end in (stop, self.stop) if end is not None]
        return self.source.read(self.span.shard, start, min(ends) if ends else None)

    def content_hash(self) -> str:
        return self.source.content_hash()


def spans(
    shards: Sequence[Shard],
    done: Mapping[str, int],
    batch_size: int,
    groups: int,
    of_unknown: int | None = None,
) -> Iterator[Span]:
    """What is not done of some shards, in their order, in spans of up to so many groups.

    A shard of unknown length is one span, of up to `of_unknown` groups.
    """
    for shard in shards:
        first = done.get(shard.name, 0)
        if first == ALL_DONE:
            continue
        if shard.size is None:
            yield Span(shard, first, None if of_unknown is None else first + of_unknown)
            continue
        end = -(-shard.size // batch_size)
        for start in range(first, end, groups):
            yield Span(shard, start, min(start + groups, end))


def runs(spans: Iterable[Span], groups: int) -> Iterator[list[Span]]:
    """Spans in their order, as many together as have so many groups, the last of them included; and none
    behind one whose length nobody knows."""
    run: list[Span] = []
    for span in spans:
        run.append(span)
        if span.stop is None or sum(one.groups for one in run) >= groups:
            yield run
            run = []
    if run:
        yield run
