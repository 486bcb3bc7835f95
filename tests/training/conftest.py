"""Small prepared parts and recipes that the tests of the training share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate.state import AcceleratorState

from neurolab.training.dataset import Prepared
from neurolab.training.prepare import TEXT_SCHEMA
from neurolab.training.recipe import PartPlan, Recipe, Stage

TINY = Recipe(
    name="tiny",
    vision={"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 64},
    text={"context_length": 32, "vocab_size": 2048, "width": 32, "heads": 2, "layers": 1},
    stages=(Stage(32, 1), Stage(64, 2)),
    parts={"photos": PartPlan()},
    batch_size=8,
    text_epochs=1,
    text_batch_size=8,
    prepared_size=64,
    mixed_precision="no",
)


def write_part(
    folder: Path,
    counts: list[int],
    *,
    mirrored: bool,
    texts: list[tuple[str, str, int]] | None = None,
    size: int = 64,
    seed: int = 0,
) -> Path:
    """A part of random pictures in shards of `counts`; `texts` (kind, text, image) go to the first shard."""
    rng = np.random.default_rng(seed)
    for number, count in enumerate(counts):
        shard = folder / f"{number:05d}"
        shard.mkdir(parents=True)
        np.save(shard / "images.npy", rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
        embeddings = rng.normal(size=(count, 512)) + rng.normal(size=512)
        np.save(shard / "embeddings.npy", embeddings.astype(np.float16))
        rows = [{"kind": k, "text": t, "image": i} for k, t, i in (texts or [])] if number == 0 else []
        pq.write_table(pa.Table.from_pylist(rows, schema=TEXT_SCHEMA), shard / "texts.parquet")
    plan = {"shards": len(counts), "mirrored": mirrored}
    (folder / "part.json").write_text(json.dumps(plan))
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps one precision per process; the tests use several."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """20 photos in two shards and 13 words in one."""
    photos = write_part(tmp_path / "photos", [12, 8], mirrored=True)
    return Prepared([photos, write_part(tmp_path / "words", [13], mirrored=False, seed=1)])


@pytest.fixture
def data(tmp_path: Path) -> Prepared:
    """Eight photos of dogs and cats, three photos with captions, four written words."""
    classes = [("name", "dog", i) for i in range(5)]
    classes += [("name", name, i) for name in ("cat", "kitty") for i in range(5, 8)]
    captions = [("caption", f"caption {j} of {i}", i) for i in range(3) for j in range(5)]
    words = [("word", word, i) for i, word in enumerate(("fork", "dog", "blue", "seven"))]
    return Prepared(
        [
            write_part(tmp_path / "classes", [8], mirrored=True, texts=classes),
            write_part(tmp_path / "captions", [3], mirrored=True, texts=captions, seed=1),
            write_part(tmp_path / "words", [4], mirrored=False, texts=words, seed=2),
        ]
    )
