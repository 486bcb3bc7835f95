"""What mining remembers of every unit: small summaries that are updated batch by batch and merged.

All have `update` with values [n, units], `merge(other)`, `state()` (a dict of arrays, for checkpoints and
shards) and `from_state(state)`; those that name images have `shift_images`. They are NumPy on one thread:
their bytes do not depend on the number of threads or on the device of the model. Merging is associative and
commutative to the byte, for every sharding and order of the images:

- `TopK`, `BottomK`: the best images of each unit, ties by the image's number;
- `Moments`: count, mean, variance, minimum, maximum, from exact sums;
- `Histogram`: where all have the same edges (give them to every shard: those of a sample of its own would
  differ);
- `ActivationBuckets`: images of every level of activation, drawn by hashes of their keys, and how many are of
  which concept;
- `CoActivation`: random projections that tell correlations; edges as for the histogram.
"""

from neurolab.mining.buckets import ActivationBuckets
from neurolab.mining.coactivation import CoActivation
from neurolab.mining.hashes import draw_hashes
from neurolab.mining.histogram import Histogram
from neurolab.mining.moments import Moments
from neurolab.mining.topk import BottomK, TopK

__all__ = [
    "ActivationBuckets",
    "BottomK",
    "CoActivation",
    "Histogram",
    "Moments",
    "TopK",
    "draw_hashes",
]
