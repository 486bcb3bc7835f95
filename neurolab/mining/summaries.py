"""What mining remembers of every unit: small summaries that are updated batch by batch and merged.

All three have `update(values, indices, positions)` with values [n, units], `merge(other)`, `state()` (a dict
of arrays, for checkpoints and shards) and `from_state(state)`. They are NumPy on one thread: their bytes do
not depend on the number of threads or on the device of the model.

What merging promises:

- `TopK`: byte-identical for every sharding and every order.
- `Histogram`: counts are integers, so byte-identical for every sharding and order, where all have the same
  edges (give them to every shard: those of a sample of its own would differ).
- `Moments`: sums are exact, so byte-identical for every sharding and order.
"""

from neurolab.mining.histogram import Histogram
from neurolab.mining.moments import Moments
from neurolab.mining.topk import Positions, TopK

__all__ = ["Histogram", "Moments", "Positions", "TopK"]
