"""A step that is taken once and repeated without Python and autograd: recorded as a CUDA graph, or traced."""

from __future__ import annotations

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


class Recording(Protocol):
    """The gradients of a step, again and again, from other places each time."""

    def __call__(self, maps: Tensor) -> Tensor:
        """Leave in the parameters the gradients of a step with these maps; its objectives [batch]."""
        ...


def record(climb: Climb, maps: Tensor, image: nn.Module) -> Recording:
    """Record a step on the device of its maps.

    climb: from the maps of a step (`Views.maps`) it leaves gradients in the parameters of `image` and gives
    the objectives [batch]; it does the same operations each time, and has been called before, so that what
    libraries set up once is there. maps: those of any step. Raises RuntimeError where an operation cannot be
    recorded.
    """
    try:
        return CudaGraph(climb, maps, image) if maps.is_cuda else Trace(climb, maps, image)
    except RuntimeError as error:
        raise RuntimeError(
            f"a step cannot be recorded ({error}): give record=False (--no-record), "
            "and it is taken operation by operation"
        ) from error


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
        self.operations = make_fx(step)(maps)
        drawn = {id(tensor) for tensor in (*image.parameters(), *image.buffers())}
        fuse(self.operations, lambda tensor: id(tensor) not in drawn)

    def __call__(self, maps: Tensor) -> Tensor:
        with torch.no_grad():
            objectives, *gradients = self.operations(maps)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return objectives


def _forget_gradients(image: nn.Module) -> None:
    for parameter in image.parameters():
        parameter.grad = None
