"""Turn the training sources into arrays once: small images, the teacher's embeddings, and their texts.

Each part of the data (Flickr8k, Tiny-ImageNet, rendered words, the demo set) becomes one folder

    images.npy       uint8 [images, size, size, 3]
    embeddings.npy   float16 [images, 512], the teacher's, not normalised
    texts.parquet    kind, text, image: what the text tower is to place near which image

written under a temporary name and renamed when whole, so that a part is there or is not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap
from rich.progress import track

from neurolab.data.decode import decode_image, resize_crop
from neurolab.data.drawings import WordDrawing
from neurolab.data.sources import Record, open_source
from neurolab.data.text import render_word
from neurolab.errors import SourceError
from neurolab.models.zoo import Model

TEXT_SCHEMA = pa.schema([("kind", pa.string()), ("text", pa.string()), ("image", pa.int64())])


@dataclass(frozen=True)
class Part:
    """One part of the training data; `embeddings` are files of known teacher embeddings, keyed by record.

    Without them the teacher embeds every image.
    """

    name: str
    records: Callable[[], Iterable[Record]]
    texts: Callable[[Record], list[tuple[str, str]]]
    embeddings: tuple[Path, ...] = ()


def read_all(spec: str | Path) -> Iterator[Record]:
    source = open_source(spec)
    for shard in source.shards():
        yield from source.read(shard)


def caption_texts(record: Record) -> list[tuple[str, str]]:
    return [("caption", caption) for caption in record.captions]


def class_texts(record: Record) -> list[tuple[str, str]]:
    """Every WordNet synonym of a Tiny-ImageNet class, the first of which is its label."""
    return [("name", name.strip()) for name in record.labels["names"].split(",")]


def demo_texts(record: Record) -> list[tuple[str, str]]:
    """Drawings and photos are placed by their captions, words by what is written.

    A typographic pair has no true text: the teacher reads the word in it, more or less, and its embedding
    teaches the image tower alone.
    """
    kind = record.labels["kind"]
    if kind == "typographic":
        return []
    return [(kind, record.payload.word if isinstance(record.payload, WordDrawing) else record.captions[0])]


def word_records(words: Iterable[str]) -> Iterator[Record]:
    """The protocol of the known word embeddings: DejaVu Sans, 48 px, black on white, centred, 224 x 224."""
    for word in words:
        yield Record(
            word, partial(render_word, word, size=(224, 224), font="DejaVuSans", font_size=48), (word,)
        )


def demo_records(kinds: dict[str, int]) -> Iterator[Record]:
    """Every n-th record of the demo set's kinds, `kinds` giving the n."""
    seen = dict.fromkeys(kinds, 0)
    for record in read_all("demo"):
        kind = record.labels["kind"]
        if kind in kinds:
            if seen[kind] % kinds[kind] == 0:
                yield record
            seen[kind] += 1


def training_parts(data: Path) -> list[Part]:
    """What the pocket learns from; no validation or test split and no known text embedding is among it."""
    known = data / "clip-b16"
    tiny = tuple(sorted(known.glob("image-embeddings-tiny-imagenet-train-*.npz")))
    words_file = known / "image-embeddings-words.npz"
    words = np.load(words_file, allow_pickle=False)["keys"].tolist()
    return [
        Part(
            "flickr8k",
            lambda: (
                r for i in range(4) for r in read_all(data / "flickr8k" / f"flickr8k-train-{i:03d}.tar")
            ),
            caption_texts,
            (known / "image-embeddings-flickr8k-train.npz",),
        ),
        Part(
            "tiny-imagenet",
            lambda: read_all(data / "tiny-imagenet" / "train-00000.parquet"),
            class_texts,
            tiny,
        ),
        Part("words", lambda: word_records(words), lambda r: [("word", r.captions[0])], (words_file,)),
        Part(
            "demo", lambda: demo_records({"drawing": 2, "photo": 1, "word": 12, "typographic": 8}), demo_texts
        ),
    ]


def last_name(key: str) -> str:
    """The last component of a key, by which records and known embeddings are matched."""
    return key.rsplit("/", 1)[-1]


def known_embeddings(paths: Iterable[Path]) -> dict[str, np.ndarray]:
    """Teacher embeddings by the last component of their key."""
    found: dict[str, np.ndarray] = {}
    for path in paths:
        with np.load(path, allow_pickle=False) as archive:
            names = [last_name(key) for key in archive["keys"].tolist()]
            found |= dict(zip(names, archive["embeddings"], strict=True))
    return found


def prepare_part(
    part: Part, folder: Path, size: int, teacher: Callable[[], Model], limit: int | None = None
) -> Path:
    """Write one part, or its first `limit` images; a part that is there already is left as it is.

    Raises SourceError when a known teacher embedding has no image: the data and the embeddings do not fit.
    """
    target = folder / part.name
    if target.is_dir():
        return target
    known = known_embeddings(part.embeddings)
    wanted = (record for record in part.records() if not known or last_name(record.key) in known)
    records = list(islice(wanted, limit))
    if known and limit is None and len(records) != len(known):
        missing = len(known) - len(records)
        raise SourceError(f"part {part.name!r}: {missing} of {len(known)} teacher embeddings have no image")
    building = folder / f".{part.name}.building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    images = open_memmap(building / "images.npy", "w+", np.uint8, (len(records), size, size, 3))
    embeddings = np.zeros((len(records), 512), np.float16)
    rows: list[dict[str, object]] = []
    for start in track(range(0, len(records), 32), description=f"preparing {part.name}"):
        group = records[start : start + 32]
        decoded = [decode_image(record.payload) for record in group]
        for i, (record, image) in enumerate(zip(group, decoded, strict=True), start):
            images[i] = resize_crop(image, (size, size))
            rows += [{"kind": kind, "text": text, "image": i} for kind, text in part.texts(record)]
            if known:
                embeddings[i] = known[last_name(record.key)]
        if not known:
            embeddings[start : start + len(group)] = embed(teacher(), decoded)
    images.flush()
    np.save(building / "embeddings.npy", embeddings)
    pq.write_table(pa.Table.from_pylist(rows, schema=TEXT_SCHEMA), building / "texts.parquet")
    building.rename(target)
    return target


def embed(model: Model, images: list) -> np.ndarray:
    """The model's image embeddings [images, D], not normalised, as float16."""
    import torch

    with torch.inference_mode():
        batch = torch.stack([model.preprocess(image) for image in images])
        embedded = model.encode_image(batch)
    assert embedded is not None  # no capture is active here
    return embedded.to(torch.float16).numpy()


def prepare(
    data: Path, folder: Path, size: int, teacher: Callable[[], Model], limit: int | None = None
) -> list[Path]:
    """Prepare every part of the training data in `folder`; `limit` cuts each part, for a trial run."""
    return [prepare_part(part, folder, size, teacher, limit) for part in training_parts(data)]
