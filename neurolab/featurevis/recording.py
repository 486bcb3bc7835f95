"""A step that is taken once and repeated without Python and autograd: recorded as a CUDA graph, or traced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from neurolab.featurevis.fusing import fuse

Climb = Callable[[Tensor], Tensor]
# Steps from which a recording is worth its while: a GPU's is made in the time of a few, a trace in that of
# some twenty of a small network.
WORTH_IT = {"cuda": 32, "cpu": 128}
_TRACING = threading.Lock()  # make_fx changes what all threads use
TOLERANCE = 0.01  # of a gradient's length, by which a trace may miss it; rounding: 1e-6 in float32


class Recording(Protocol):
    """The gradients of a step, again and again, from other places each time."""

    def __call__(self, maps: Tensor) -> Tensor:
        """Leave in the parameters the gradients of a step with these maps; its objectives [batch]."""
        ...


def record(climb: Climb, maps: Tensor, image: nn.Module) -> Recording:
    """Record a step on the device of its maps.

    climb: from the maps of a step (`Views.maps`) it leaves gradients in the parameters of `image` and gives
    the objectives [batch]; it does the same operations each time, and has been called before, so that what
    libraries set up once is there. maps: those of two steps, the one that is recorded and another, on which a
    trace is tried. Raises RuntimeError where an operation cannot be recorded, or a trace does not do what the
    step does.
    """
    recorded, another = maps
    if maps.is_cuda:
        return CudaGraph(climb, recorded, image)
    trace = Trace(climb, recorded, image)
    trace.check(climb, another)
    return trace


class CudaGraph:
    """A step that a GPU does by itself.

    Small networks keep a GPU waiting: a step is hundreds of operations, and Python needs longer to ask for
    one than the GPU to do it. Of a graph it asks once.
    """

    def __init__(self, climb: Climb, maps: Tensor, image: nn.Module) -> None:
        _forget_gradients(image)  # so that the recording has gradients of its own
        self._maps, self._graph = maps.clone(), torch.cuda.CUDAGraph()
        # On the stream on which the steps before were taken: else gradients would have to change streams.
        with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream(maps.device)):
            self._objectives = climb(self._maps)

    def __call__(self, maps: Tensor) -> Tensor:
        self._maps.copy_(maps)
        self._graph.replay()
        return self._objectives.clone()


class Trace:
    """A step as the list of its operations, forward and backward, rewritten to be fewer (`fuse`)."""

    def __init__(self, climb: Climb, maps: Tensor, image: nn.Module) -> None:
        self._parameters = list(image.parameters())

        def step(maps: Tensor) -> tuple[Tensor, ...]:
            objectives = climb(maps)
            return (objectives, *(parameter.grad for parameter in self._parameters))  # type: ignore[arg-type]

        _forget_gradients(image)
        with _TRACING:
            self.operations = make_fx(step)(maps)
        drawn = {id(tensor) for tensor in (*image.parameters(), *image.buffers())}
        fuse(self.operations, lambda tensor: id(tensor) not in drawn)
        # A circle, in which the weights would stay until the garbage is collected.
        self.operations.graph.owning_module = None

    def __call__(self, maps: Tensor) -> Tensor:
        with torch.no_grad():
            objectives, *gradients = self.operations(maps)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return objectives

    def check(self, climb: Climb, maps: Tensor) -> None:
        """Raise RuntimeError where a picture's gradient is not that of the step.

        A network that lets Python look at an image, and choose, is not the same operations each time.
        """
        items = len(self(maps))
        found = self._gradients(items)
        for parameter in self._parameters:
            parameter.grad = None
        climb(maps)
        for ours, theirs in zip(found, self._gradients(items), strict=True):
            length = theirs.norm(dim=1)
            # Of pictures that have next to none, beside others, rounding may be all that there is.
            missed = (ours - theirs).norm(dim=1) / length.clamp_min(1e-3 * float(length.max()) or 1.0)
            if not missed.max() <= TOLERANCE:
                raise RuntimeError(f"repeated, it has a gradient that is {missed.max():.0%} off")

    def _gradients(self, items: int) -> list[Tensor]:
        """The gradients of the pictures, [items, n], and of what they have in common, [1, n]."""
        given = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        own = [gradient.reshape(items, -1) for gradient in given if gradient.shape[:1] == (items,)]
        common = [gradient.reshape(1, -1) for gradient in given if gradient.shape[:1] != (items,)]
        return [torch.cat(parts, dim=1) for parts in (own, common) if parts]


def _forget_gradients(image: nn.Module) -> None:
    for parameter in image.parameters():
        parameter.grad = None
