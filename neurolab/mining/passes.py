"""Batches through the network, one after the other; on a GPU, each while the host takes in the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas.reductions import Reduced
from neurolab.data.items import Batch
from neurolab.mining.checkpoint import MiningState
from neurolab.mining.concepts import Concepts
from neurolab.mining.forward import Forward, Pass
from neurolab.mining.sieve import Sifted
from neurolab.mining.summaries import draw_hashes


class Computed(NamedTuple):
    """A batch that is ready to be taken in.

    found: the reduced values of its images by site, or what was sifted of them; nothing where it has no
    images. embeddings: [n, D], where the model has them. concepts: the numbers of the images' concepts [n].
    """

    batch: Batch
    found: Mapping[str, Reduced] | list[Sifted]
    embeddings: NDArray[np.float16] | None = None
    concepts: NDArray[np.int64] | None = None

    @property
    def records(self) -> int:
        """How many records the batch is made of, bad ones included."""
        return self.batch.records


def computed(
    forward: Forward, batches: Iterable[Batch], state: MiningState, concepts: Concepts | None = None
) -> Iterator[Computed]:
    """What `forward`, which is entered, says of batches, in their order. `state` must take in each before the
    next is asked for.

    On a GPU the next one is computed meanwhile, so that neither waits for the other. What an error ends is
    the pass: of what it had computed, all that it has handed on counts, and nothing else.
    """
    try:
        staged = (forward.stage(batch) for batch in batches)
        now, ready = next(staged, None), None
        while now is not None:
            running = forward.start(now)
            if ready is not None:
                yield ready
            if forward.runs_ahead:
                now = next(staged, None)
                ready = _read(forward, running, state, concepts)
            else:
                yield _read(forward, running, state, concepts)
                now = next(staged, None)
        if ready is not None:
            yield ready
    finally:
        if (close := getattr(batches, "close", None)) is not None:
            close()


def _read(forward: Forward, passed: Pass, state: MiningState, concepts: Concepts | None) -> Computed:
    """What a pass gave, once the device is there. Before the edges of the histograms are known, and from
    devices that do not run ahead, it is all values."""
    items = passed.batch.items
    sieves = state.sieves_on(forward.model.device) if forward.runs_ahead and items else []
    hashes = draw_hashes([item.key for item in items]) if sieves else None
    found = (
        [sieve.sift(passed.reduced, hashes) for sieve in sieves] if hashes is not None else passed.to_host()
    )
    embeddings = passed.embeddings()
    numbers = concepts.numbers(items, embeddings) if concepts else None
    return Computed(passed.batch, found, embeddings, numbers)
