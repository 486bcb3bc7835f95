"""Building an atlas: what the miner writes with. The manifest comes last, so an atlas is whole or not one."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from neurolab.atlas.arrays import write_site_arrays
from neurolab.atlas.clearing import finish_clearing
from neurolab.atlas.images import ImageItem, ImagesWriter
from neurolab.atlas.manifest import BUILDING, FORMAT_VERSION, MANIFEST, describe_files, sealed
from neurolab.atlas.observed import PLACED
from neurolab.atlas.shards import SHARDS, ShardRow, write_shards
from neurolab.atlas.writing import locked, remove_leftovers, site_folder, write_json
from neurolab.errors import AtlasError

if TYPE_CHECKING:
    from neurolab.atlas.atlas import Atlas


class SiteLike(Protocol):
    """What is written down of a site; `neurolab.models.sites.Site` is one."""

    @property
    def name(self) -> str: ...
    @property
    def short(self) -> str: ...
    @property
    def units(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def layout(self) -> str: ...
    @property
    def prefix_tokens(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int] | None: ...


class AtlasWriter:
    """Writes an atlas to the folder `out`; or goes on with one that was interrupted.

    model, source, settings: what the manifest says of them, JSON values; together they are the build's
    identity, and a folder that holds an unfinished build with another is refused. `source` is {kind,
    location, hash, size}. image_rows: how many images the checkpoint vouches for when resuming; what came
    after is dropped. build_folder: a place for the miner's own checkpoint, removed when the build is
    finished.

    Call `append_images` and `flush_images` as the pass goes on, `write_site` for each site, then `finish`.
    Use as a context manager, or `close`, to let go of the folder: only one writer may have it. Raises
    AtlasError where the folder holds a finished atlas, something else, an unfinished build of something else,
    or another live writer.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        model: Mapping[str, Any],
        source: Mapping[str, Any],
        settings: Mapping[str, Any],
        image_rows: int = 0,
    ) -> None:
        self.out = Path(out)
        self.build_folder = self.out / BUILDING
        self._identity = json.loads(
            json.dumps({"model": dict(model), "source": dict(source), "settings": dict(settings)})
        )
        self._sites: dict[str, dict[str, Any]] = {}
        self._held = contextlib.ExitStack()
        self._claim()
        try:
            self._check_identity()
            self._images = ImagesWriter(self.build_folder / "images", image_rows)
        except BaseException:
            self.close()
            raise

    def append_images(self, items: Sequence[ImageItem], embeddings: np.ndarray | None = None) -> range:
        """Add images, with embeddings [items, D] or without; returns the numbers that they got."""
        return self._images.append(items, embeddings)

    def flush_images(self) -> int:
        """Put the images so far on the disk, before a checkpoint that notes their number; returns it."""
        return self._images.flush()

    def write_site(
        self,
        site: SiteLike,
        *,
        reduction: str,
        exemplars: Mapping[str, np.ndarray],
        statistics: Mapping[str, np.ndarray],
        embedding: np.ndarray | None = None,
        others: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        """Write a site's arrays.

        exemplars: values, images, position, each [units, k]. statistics: count, mean, sd, min, max [units],
        histogram [units, bins], edges [units, bins + 1]. embedding: [units, D] or None. others:
        arrays of what an atlas may lack, by their names in SiteArrays (lowest, buckets).
        """
        folder = f"sites/{site_folder(site.name)}"
        sizes = write_site_arrays(self.out / folder, site.units, exemplars, statistics, embedding, others)
        grid = site.grid if reduction in PLACED else None
        self._sites[site.name] = {
            "order": self._sites.get(site.name, {}).get("order", len(self._sites)),
            "short": site.short,
            "units": site.units,
            "shape": list(site.shape),
            "layout": site.layout,
            "prefix_tokens": site.prefix_tokens,
            "reduction": reduction,
            "grid": grid and list(grid),
            "folder": folder,
            **sizes,
        }

    def finish(
        self,
        skipped: Sequence[tuple[str, str]] = (),
        notes: Sequence[tuple[str, str]] = (),
        shards: Sequence[ShardRow] | None = None,
    ) -> Atlas:
        """Write images.parquet, report.json and, last, the manifest with their hashes; returns the atlas.

        skipped: (key, reason) of every image that could not be read; notes: of what was wrong beside an image
        that could (captions, labels). shards: what each shard of the source gave, in its order; None where
        nobody counted, and there is no shards.parquet.
        """
        from neurolab.atlas.atlas import Atlas

        kept = self._images.finish(self.out / "images.parquet")
        report = {
            name: [{"key": key, "reason": reason} for key, reason in found]
            for name, found in (("skipped", skipped), ("notes", notes))
        }
        write_json(self.out / "report.json", {"kept": kept, **report})
        if shards is None:
            (self.out / SHARDS).unlink(missing_ok=True)
        else:
            write_shards(self.out / SHARDS, shards)
        manifest = self._identity | {
            "format_version": FORMAT_VERSION,
            "source": self._identity["source"] | {"kept": kept, "skipped": len(skipped)},
            "sites": self._sites,
            "files": describe_files(self.out, self._written()),
            "complete": True,
        }
        write_json(self.out / MANIFEST, sealed(manifest))
        # The atlas is whole: what a writer that came too late keeps of the folder does no harm.
        shutil.rmtree(self.build_folder, ignore_errors=True)
        self.close()
        return Atlas.open(self.out)

    def _written(self) -> list[str]:
        """The files of the atlas, by their POSIX paths in it."""
        arrays = [
            f"{about['folder']}/{path.name}"
            for about in self._sites.values()
            for path in (self.out / about["folder"]).glob("[!.]*.npz")
        ]
        tables = [SHARDS] if (self.out / SHARDS).exists() else []
        return ["images.parquet", "report.json", *tables, *sorted(arrays)]

    def close(self) -> None:
        """Let go of the folder; an unfinished build stays to be resumed."""
        self._held.close()

    def __enter__(self) -> AtlasWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _claim(self) -> None:
        self._refuse_finished()
        if self.out.exists() and not self.out.is_dir():
            raise AtlasError(f"{self.out} is not a folder; an atlas needs one")
        if self.out.is_dir() and not self.build_folder.exists() and any(self.out.iterdir()):
            raise AtlasError(f"{self.out} holds other files and no unfinished build; choose an empty folder")
        try:
            self.build_folder.mkdir(parents=True, exist_ok=True)
            self._held.enter_context(locked(self.build_folder / "lock", wait=False))
            self._refuse_finished()  # another writer may have finished it while this one came
            finish_clearing(self.out, str(self._identity["model"].get("weights_hash", "")))
        except AtlasError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise AtlasError(f"cannot write an atlas to {self.out}: {error}") from error
        remove_leftovers(self.out)

    def _refuse_finished(self) -> None:
        if (self.out / MANIFEST).exists():
            self.close()
            self._remove_parts()
            raise AtlasError(f"{self.out} holds a finished atlas; open it, or choose another folder")

    def _remove_parts(self) -> None:
        """What a kill between the manifest and the end of `finish` left behind, unless a writer is there."""
        with contextlib.suppress(AtlasError, OSError), locked(self.build_folder / "lock", wait=False):
            shutil.rmtree(self.build_folder)

    def _check_identity(self) -> None:
        path = self.build_folder / "identity.json"
        if not path.exists():
            write_json(path, self._identity)
            return
        before = json.loads(path.read_text("utf-8"))
        if before != self._identity:
            differences = _differences(before, self._identity)
            raise AtlasError(
                f"{self.out} holds an unfinished build of something else ({differences}); "
                "give the same model, source and settings to go on with it, or choose another folder"
            )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    found = [
        f"{part}.{name}: {before[part].get(name)!r}, now {now[part].get(name)!r}"
        for part in now
        for name in sorted({*before[part], *now[part]})
        if before[part].get(name) != now[part].get(name)
    ]
    return "; ".join(found[:4])
