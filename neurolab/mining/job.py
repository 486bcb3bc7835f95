"""A build at work: batches in, an atlas out, and the state on the disk in between."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas import Atlas, AtlasWriter
from neurolab.atlas.embeddings import EmbeddingsFile, mean_direction, unit_embeddings
from neurolab.atlas.manifest import BUILDING
from neurolab.atlas.writing import remove_leftovers
from neurolab.data.items import Batch, Item
from neurolab.errors import AtlasError, SourceError
from neurolab.mining.checkpoint import MiningState, fresh_state
from neurolab.mining.concepts import Concepts
from neurolab.mining.forward import Forward
from neurolab.mining.identity import Identity, unfinished
from neurolab.mining.observations import count_per_image
from neurolab.mining.parts import Part
from neurolab.mining.passes import Computed, computed
from neurolab.mining.remembered import Kept
from neurolab.mining.selection import Units, written
from neurolab.models.sites import Site
from neurolab.models.zoo import Model
from neurolab.progress import Reporter

CHECKPOINT = "checkpoint.npz"
Taken = TypeVar("Taken", Computed, Part)


class Job:
    """Mines `sites` of a model into the folder `out`, from the start or from the checkpoint there.

    `run` takes the batches that `state.done` leaves (or `run_parts` what others have mined of them), `finish`
    makes the atlas. Use as a context manager: only one job may have the folder.
    """

    def __init__(
        self,
        model: Model,
        sites: Sequence[Site],
        out: Path,
        identity: Identity,
        checkpoint_seconds: float,
        concepts: Concepts | None = None,
        only: Units | None = None,
    ) -> None:
        self.sites, self.out, self.identity, self.concepts = sites, out, identity, concepts
        self.checkpoint_seconds = checkpoint_seconds
        self.reduction: str = identity["settings"]["reduction"]
        self.kept = Kept.of(identity["settings"])
        self.forward = Forward(model, sites, self.reduction, identity["settings"]["precision"], only)
        self._held = ExitStack()

    def __enter__(self) -> Job:
        self.state = self._restore()
        self._saved = time.monotonic()
        with self._writing(), ExitStack() as stack:
            self.writer = stack.enter_context(
                AtlasWriter(self.out, **self.identity, image_rows=self.state.images)
            )
            for folder in (self.writer.build_folder, *(self.out / "sites").glob("*")):
                remove_leftovers(folder)
            self.embeddings = self._open_embeddings()
            if self.embeddings is not None:
                stack.callback(self.embeddings.close)
            self._held = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.close()

    def run(self, batches: Iterable[Batch], reporter: Reporter) -> None:
        """Compute all batches and take them in."""
        with self.forward:
            self._take_all(computed(self.forward, batches, self.state, self.concepts), self.take, reporter)

    def run_parts(self, parts: Iterable[Part], reporter: Reporter) -> None:
        """Take in parts that were mined elsewhere, in the order of the source."""
        self._take_all(parts, self.take_part, reporter)

    def _take_all(self, things: Iterable[Taken], take: Callable[[Taken], None], reporter: Reporter) -> None:
        """Take in all, saving the state now and then, at the end, and before an error goes on.

        Ctrl-C is such an error.
        """
        try:
            for thing in things:
                take(thing)
                reporter.advance(thing.records)
                if time.monotonic() - self._saved >= self.checkpoint_seconds:
                    self.save()
            self.state.end()
            self.save()
        except BaseException:
            if not self.state.torn:
                with suppress(AtlasError):  # on a full disk the last checkpoint has to do
                    self.save()
            raise
        finally:
            close = getattr(things, "close", None)
            if close is not None:
                close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Around what writes to the folder: AtlasError, with what to do, where the system does not let it."""
        try:
            yield
        except OSError as error:
            raise AtlasError(
                f"cannot write to {self.out}: {error}. Make room there, or see to its permissions, and start "
                "the same build again: it goes on where it was"
            ) from error

    def take(self, ready: Computed) -> None:
        """Take in a batch, wholly or not at all."""
        with self.state.taking():
            self.state.take(ready.batch, ready.found, ready.concepts)
            self._keep_images(ready.batch.items, ready.embeddings)

    def take_part(self, part: Part) -> None:
        """Take in what was mined elsewhere of the records behind those that are done."""
        with self.state.taking():
            self.state.append(part.state)
            embeddings = np.concatenate(part.embeddings) if part.embeddings else None
            self._keep_images(part.items, embeddings)

    def _keep_images(self, items: Sequence[Item], embeddings: NDArray[np.float16] | None) -> None:
        with self._writing():
            self.writer.append_images(items, embeddings)
            if self.embeddings is not None and embeddings is not None:
                self.embeddings.append(embeddings)

    def save(self) -> None:
        """Put the state on the disk: first what it counts, then itself."""
        with self._writing():
            self.writer.flush_images()
            if self.embeddings is not None:
                self.embeddings.flush()
            self.state.save(self.writer.build_folder / CHECKPOINT)
        self._saved = time.monotonic()

    def finish(self) -> Atlas:
        """Write the atlas. SourceError, and nothing left in the folder, where no image could be read."""
        if not self.state.images:
            self._give_up()
        with self._writing():
            return self._finish()

    def _finish(self) -> Atlas:
        embeddings = None if self.embeddings is None else self.embeddings.array()
        center = None if embeddings is None else mean_direction(embeddings)
        for site in self.sites:
            units = self.forward.only.get(site.name)
            per_image = self.state.per_image.get(site.name, 1)
            arrays = written(self.state.sites[site.name], self.kept, units, site.units, per_image)
            exemplars, statistics = arrays.pop("exemplars"), arrays.pop("statistics")
            of_units = None
            if embeddings is not None and center is not None:
                of_units = unit_embeddings(exemplars["images"].astype(np.int64), embeddings, center)
            self.writer.write_site(
                site,
                reduction=self.reduction,
                exemplars=exemplars,
                statistics=statistics,
                embedding=of_units,
                others=arrays,
            )
        del embeddings  # lets go of the file before its folder is removed
        return self.writer.finish(self.state.skipped, self.state.notes, self.state.shards)

    def _give_up(self) -> None:
        shutil.rmtree(self.writer.build_folder, ignore_errors=True)
        with suppress(OSError):
            self.out.rmdir()  # only if empty
        where = self.identity["source"]["location"]
        if not self.state.skipped:
            raise SourceError(f"{where} holds no images; nothing was mined")
        reasons = "; ".join(f"{key}: {reason}" for key, reason in self.state.skipped[:3])
        raise SourceError(
            f"none of the {len(self.state.skipped)} images of {where} can be read ({reasons}, ...)"
        )

    def _open_embeddings(self) -> EmbeddingsFile | None:
        dim = self.forward.embedding_dim
        if dim is None:
            return None
        return EmbeddingsFile(self.writer.build_folder / "embeddings.f16", dim, self.state.images)

    def _restore(self) -> MiningState:
        """The state of the checkpoint, if there is one of this build."""
        path = self.out / BUILDING / CHECKPOINT
        names = [site.name for site in self.sites]
        if unfinished(self.out) is None or not path.exists():
            per_image = count_per_image(self.sites, self.reduction)
            return fresh_state(self.forward.sites, self.kept, per_image=per_image)
        state = MiningState.load(path)
        if list(state.sites) != names:
            raise AtlasError(f"{path} is of other sites; overwrite=True (--overwrite) starts afresh")
        return state
