"""A step that a GPU does by itself: its operations are recorded once, as a CUDA graph, and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


class Recording:
    """The gradients of a step, again and again, from other places each time.

    Small networks keep a GPU waiting: a step is hundreds of operations, and Python needs longer to ask for
    one than the GPU to do it. Of a recording it asks once. climb: from the maps of a step (`Views.maps`) it
    leaves gradients in the parameters and gives the objectives [batch]; it does the same operations each
    time, and has been called before, so that what libraries set up once is there. maps: those of any step.
    Raises RuntimeError where an operation cannot be recorded.
    """

    def __init__(
        self, climb: Callable[[Tensor], Tensor], maps: Tensor, parameters: Iterable[nn.Parameter]
    ) -> None:
        for parameter in parameters:
            parameter.grad = None  # so that the recording has gradients of its own
        self._maps, self._graph = maps.clone(), torch.cuda.CUDAGraph()
        try:
            # On the stream on which the steps before were taken: else gradients would have to change streams.
            with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream(maps.device)):
                self._objectives = climb(self._maps)
        except RuntimeError as error:
            raise RuntimeError(
                f"a step cannot be recorded as a CUDA graph ({error}): give cuda_graph=False "
                "(--no-cuda-graph), and it is taken operation by operation"
            ) from error

    def __call__(self, maps: Tensor) -> Tensor:
        """The step with these maps: its objectives [batch]."""
        self._maps.copy_(maps)
        self._graph.replay()
        return self._objectives.clone()
