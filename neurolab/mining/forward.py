"""What the network says of a batch: the one place where mining computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurolab.atlas.reductions import OnDevice, Reduced, reduce_map
from neurolab.data.items import Batch
from neurolab.errors import AtlasError, UnknownSiteError
from neurolab.memory import freed_memory_kept
from neurolab.models.attention_layout import contiguous_attention
from neurolab.models.capture import capture
from neurolab.models.exact_float import full_float32
from neurolab.models.patches import patches_by_product
from neurolab.models.sites import Site
from neurolab.models.zoo import Model

PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Staged(NamedTuple):
    """A batch and its pixels [n, height, width, 3] on the device; to a GPU they are on their way."""

    batch: Batch
    pixels: Tensor
    arrived: torch.cuda.Event | None


class Pass(NamedTuple):
    """The network's pass over a batch: what it gives, on the device, which may still be computing it."""

    batch: Batch
    reduced: dict[str, OnDevice]
    embedded: Tensor | None

    def to_host(self) -> dict[str, Reduced]:
        """The reduced values of each site, once they are there."""
        return {name: found.to_host() for name, found in self.reduced.items()}

    def embeddings(self) -> NDArray[np.float16] | None:
        """The embeddings [n, D] of the images, once they are there; None where the model has none."""
        return None if self.embedded is None else self.embedded.to("cpu", torch.float16).numpy()


class Forward:
    """The reduced activations of some sites, and the embeddings, for batches of images.

    precision: "float32" runs the network as it is, and on a GPU without TensorFloat-32; "bfloat16" or
    "float16" by torch's autocast. Values are float32 in any case. only: the units of sites of which not all
    are asked for; `sites` then have so many. Use as a context manager: inside, the model is under capture.
    Maps are reduced while the network runs, and none is kept: those of all sites of a batch would take
    gigabytes.
    """

    def __init__(
        self,
        model: Model,
        sites: Sequence[Site],
        reduction: str,
        precision: str = "float32",
        only: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise AtlasError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
        self.model, self.reduction, self.precision, self.only = model, reduction, precision, dict(only or {})
        self.sites = [replace(s, units=len(self.only[s.name])) if s.name in self.only else s for s in sites]
        self.embedding_dim = model.embedding_dim if model.is_clip else None
        self._by_name = {site.name: site for site in self.sites}
        self._found: dict[str, OnDevice] = {}
        self._held = ExitStack()
        on_gpu = model.device.type == "cuda"
        self._copying = torch.cuda.Stream(model.device) if on_gpu else None
        # Channels last, convolutions on a CPU and the maximum over a map are faster; cuDNN's convolutions in
        # full float32 are much slower.
        first = on_gpu and precision == "float32"
        self._layout = torch.contiguous_format if first else torch.channels_last

    @property
    def runs_ahead(self) -> bool:
        """Whether `start` returns before the network has run: on a GPU."""
        return self._copying is not None

    def __enter__(self) -> Forward:
        # Without embeddings nothing behind the deepest site is needed, and the pass stops there.
        stop = None if self.embedding_dim is None else False
        with ExitStack() as stack:
            if self.model.device.type == "cpu":
                stack.enter_context(freed_memory_kept())
            if self.precision == "float32":
                stack.enter_context(full_float32())
                if self.model.device.type == "cuda":
                    stack.enter_context(patches_by_product(self.model.module))
            stack.enter_context(capture(self.model, list(self._by_name), stop=stop, reader=self._read))
            if self.precision != "float32":  # in which torch has a fast path, for batches first in memory
                stack.enter_context(contiguous_attention(self.model.module))
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()

    def __call__(self, batch: Batch) -> tuple[dict[str, Reduced], NDArray[np.float16] | None]:
        """The reduced values of each site, by its name, and embeddings [images, D] of a batch with images."""
        pass_ = self.start(self.stage(batch))
        return pass_.to_host(), pass_.embeddings()

    def stage(self, batch: Batch) -> Staged:
        """Send the pixels of a batch to the device; a GPU gets them while it computes something else."""
        pixels = torch.from_numpy(batch.images)
        if self._copying is None:
            return Staged(batch, pixels.to(self.model.device), None)
        with torch.cuda.stream(self._copying):
            there = pixels.pin_memory().to(self.model.device, non_blocking=True)
        return Staged(batch, there, self._copying.record_event())

    @torch.inference_mode()
    def start(self, staged: Staged) -> Pass:
        """Have the network run on a batch; a GPU is not waited for."""
        batch, pixels, arrived = staged
        if not batch.items:
            return Pass(batch, {}, None)
        if arrived is not None:
            current = torch.cuda.current_stream(self.model.device)
            current.wait_event(arrived)
            pixels.record_stream(current)
        images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=self._layout) / 255
        with self._computing():
            embedded = self.model.encode_image(images)
        if missing := self._by_name.keys() - self._found.keys():
            names = ", ".join(sorted(missing))
            raise UnknownSiteError(f"{names}: not computed for the images of {batch.shard}; mine other sites")
        reduced = {name: self._found.pop(name) for name in self._by_name}
        return Pass(batch, reduced, embedded if self.embedding_dim is not None else None)

    def _computing(self) -> AbstractContextManager[Any]:
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.model.device.type, dtype) if dtype else nullcontext()

    def _read(self, name: str, activation: Tensor) -> None:
        """Reduce a site's map, in the middle of the pass."""
        site = self._by_name[name]
        if (units := self.only.get(name)) is not None:
            axis = 1 if site.layout == "map" else activation.ndim - 1
            activation = activation.index_select(axis, torch.from_numpy(units).to(activation.device))
        self._found[name] = reduce_map(activation, site, self.reduction)
