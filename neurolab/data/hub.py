"""Datasets of the Hugging Face hub, streamed by the ``datasets`` library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neurolab.data.hashing import ContentHash, files_hash
from neurolab.data.sources import Record, Shard, Source
from neurolab.data.tables import Columns, RowReader, find_columns
from neurolab.errors import SourceError

SPEC = re.compile(r"^(?P<name>[^@#]+?)(@(?P<revision>[^#:]+))?(#(?P<config>[^:]+))?(:(?P<split>[\w.-]+))?$")
WAYS_OUT = (
    "Check the network (or set HF_ENDPOINT to a mirror), or fetch it elsewhere and give the folder of its "
    "Parquet files, or of datasets.save_to_disk, instead"
)


class StreamedSource(Source):
    """A split of a dataset read as a stream: one shard for each of its files, their lengths unknown.

    A row's key is the ``path`` in its image struct, else its number; with several files, SPLIT-NUMBER/KEY. A
    range is reached by reading what is before it.
    """

    kind = "huggingface"
    remote = True

    def __init__(self, dataset: Any, location: str, split: str, identity: str) -> None:
        from datasets import Image

        self.location, self._identity = location, identity
        schema = _schema(dataset, location)
        self._columns: Columns = find_columns(schema, location)
        if "Image" in type((dataset.features or {}).get(self._columns.image)).__name__:
            # Decoding is the workers' job; here the bytes are wanted.
            dataset = dataset.cast_column(self._columns.image, Image(decode=False))
        self._dataset = dataset.select_columns(self._columns.names)
        self._shards = [f"{split}-{number:05d}" for number in range(dataset.num_shards)]

    def shards(self) -> list[Shard]:
        return [Shard(name, None) for name in self._shards]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        reader = RowReader(self._columns, f"{shard.name}/" if len(self._shards) > 1 else "", None)
        number = self._shards.index(shard.name)
        rows = iter(self._dataset.shard(num_shards=len(self._shards), index=number))
        position = 0
        while stop is None or position < stop:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:
                raise SourceError(
                    f"{self.location} stopped at row {position} of {shard.name}: {type(error).__name__}: "
                    f"{error}. Start again: a build goes on where it was"
                ) from error
            if position >= start:
                yield reader.read(row)
            else:
                reader.skip(row)
            position += 1

    def content_hash(self) -> str:
        """SHA-256 over what names the data for good, not over the data itself, which would be fetched twice.

        On the hub: repository, commit, configuration and split. Of a local folder: its files' names and
        bytes.
        """
        return self._identity


def open_hub(spec: str) -> StreamedSource:
    """Open ``NAME[@REVISION][#CONFIG][:SPLIT]`` of the Hugging Face hub (NAME may be a local dataset folder).

    Without SPLIT it is the only split, or ``train``. The revision is resolved to its commit first, so that a
    build sees one state of the repository however long it takes. Raises SourceError with the ways out when
    the hub cannot be reached, the dataset is not there, or the split must be named.
    """
    match = SPEC.match(spec)
    if match is None:
        raise SourceError(f"hf:{spec} does not read as hf:NAME[@REVISION][#CONFIG][:SPLIT]")
    name, config = match["name"], match["config"]
    local = Path(name).is_dir()
    commit = None if local else _commit(name, match["revision"])
    splits = _load(name, config, revision=commit)
    split = _choose_split(splits, match["split"], f"hf:{name}")
    if local:
        files = sorted(path for path in Path(name).rglob("*") if path.is_file())
        content = files_hash(
            "huggingface folder", {path.relative_to(name).as_posix(): path for path in files}
        )
    else:
        content = f"{name}@{commit}"
    return StreamedSource(splits[split], f"hf:{spec}", split, _identity(content, config or "", split))


def _identity(*parts: str) -> str:
    total = ContentHash("huggingface")
    for part in parts:
        total.add_text(part)
    return total.hexdigest()


def _commit(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().dataset_info(name, revision=revision, timeout=20).sha)
    except RevisionNotFoundError as error:
        raise SourceError(f"the dataset {name} has no revision {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"there is no dataset {name!r} on the Hugging Face hub, or it is private or gated: check the "
            "name, and log in (hf auth login) if it needs that"
        ) from error
    except Exception as error:
        raise SourceError(
            f"the Hugging Face hub cannot be reached for {name!r} ({type(error).__name__}). {WAYS_OUT}"
        ) from error


def _load(name: str, config: str | None, **options: Any) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(name, config, streaming=True, **options)
    except Exception as error:
        # datasets' own message names the configurations and what is wrong; its types are many.
        raise SourceError(
            f"hf:{name} cannot be opened: {type(error).__name__}: {error}. {WAYS_OUT}"
        ) from error


def _choose_split(splits: Any, asked: str | None, location: str) -> str:
    names = [str(name) for name in splits]
    if asked is None and len(names) == 1:
        return names[0]
    chosen = asked or "train"
    if chosen not in names:
        raise SourceError(f"{location} has the splits {', '.join(names)}: name one, {location}:{names[0]}")
    return chosen


def _schema(dataset: Any, location: str) -> Any:
    features = dataset.features
    if features is None:
        # Some formats say their columns only in their first rows.
        dataset = dataset._resolve_features()
        features = dataset.features
    if features is None:
        raise SourceError(f"{location} has no rows, or does not say its columns")
    return features.arrow_schema
