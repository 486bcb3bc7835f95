"""Turn the training sources into shards once: small pictures, the teacher's embeddings, and their texts.

A part becomes the folder PART/, with part.json (what it was made of) and shards 00000/, 00001/, ...:

    images.npy       uint8 [images, size, size, 3]
    embeddings.npy   float16 [images, 512], the teacher's, not normalised
    texts.parquet    kind, text, image: what the text tower is to place near which image of the shard
    skipped.json     the records whose image could not be read, with the reasons

A shard is written under a temporary name and renamed when whole, so that it is there or is not: preparation
that was stopped goes on after the last whole shard. Several processes share the shards of a part out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from neurolab.atlas.writing import write_json
from neurolab.data.chance import between, fraction, shuffled
from neurolab.data.decode import decode_image, resize_crop
from neurolab.data.sources import Record
from neurolab.errors import BadImageError, SourceError, TrainingError
from neurolab.models.zoo import Model
from neurolab.training.parts import Part, known_embeddings, last_name
from neurolab.training.recipe import PartPlan

log = logging.getLogger(__name__)

TEXT_SCHEMA = pa.schema([("kind", pa.string()), ("text", pa.string()), ("image", pa.int64())])
SHARD_RECORDS = 512
TEACHER_BATCH = 32

Embed = Callable[[list[Image.Image]], np.ndarray]
"""Pictures to the teacher's embeddings [pictures, D], float16, not normalised."""


class Teacher:
    """The teacher, loaded when it is first needed. Its weights are bfloat16, as those that the known
    embeddings were computed with (their cosine to float32's is above 0.999)."""

    def __init__(self, load: Callable[[], Model]) -> None:
        self._load = load
        self._model: Model | None = None

    @property
    def model(self) -> Model:
        if self._model is None:
            self._model = self._load()
            self._model.module.to(torch.bfloat16)
        return self._model

    def __call__(self, images: list[Image.Image]) -> np.ndarray:
        model = self.model
        rows: list[Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(images), TEACHER_BATCH):
                batch = torch.stack(
                    [model.preprocess(image) for image in images[start : start + TEACHER_BATCH]]
                )
                embedded = model.encode_image(batch.to(torch.bfloat16))
                assert embedded is not None  # no capture is active here
                rows.append(embedded.to(torch.float16).cpu())
        return torch.cat(rows).numpy()


@dataclass(frozen=True)
class Seen:
    """A record's views: PIL images as the teacher sees them, or the reason why there are none."""

    record: Record
    views: list[Image.Image]
    reason: str = ""


def view(image: Image.Image, key: str, number: int, mirrored: bool) -> Image.Image:
    """View `number` of a picture: 0 is the whole, others are crops in other colours, by the key alone.

    A crop takes 35 to 100 % of the area at 3:4 to 4:3 (torchvision's RandomResizedCrop, from a larger least
    area: what the picture shows must stay in sight), brightness, contrast and saturation vary by 30 %, and
    half of the pictures that may be mirrored are. The teacher embeds every view, so a view's target is true.
    """
    if number == 0:
        return image
    name = ("view", key, number)
    area = between(0.35, 1.0, "area", *name) * image.width * image.height
    ratio = (4 / 3) ** between(-1, 1, "ratio", *name)
    width = min(image.width, max(1, round((area * ratio) ** 0.5)))
    height = min(image.height, max(1, round((area / ratio) ** 0.5)))
    left = round(fraction("x", *name) * (image.width - width))
    top = round(fraction("y", *name) * (image.height - height))
    out = image.crop((left, top, left + width, top + height))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        out = enhance(out).enhance(between(0.7, 1.3, enhance.__name__, *name))
    if mirrored and fraction("mirror", *name) < 0.5:
        out = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return out


def see(record: Record, views: int, mirrored: bool) -> Seen:
    try:
        image = decode_image(record.payload)
    except BadImageError as error:
        return Seen(record, [], str(error))
    return Seen(record, [view(image, record.key, number, mirrored) for number in range(views)])


def chosen_records(part: Part, plan: PartPlan) -> list[Record]:
    """The records of a part that the plan uses: all in order, or some drawn by their place among all."""
    records = list(part.records())
    if plan.images is None:
        return records
    if plan.images > len(records):
        log.warning("part %s: %d images are planned, there are %d", part.name, plan.images, len(records))
    return shuffled(records, part.name)[: plan.images]


def write_shard(
    target: Path, part: Part, records: list[Record], plan: PartPlan, size: int, known: dict[str, np.ndarray],
    embed: Embed, threads: int,
) -> int:  # fmt: skip
    """Decode, embed and write one shard; returns how many pictures it holds."""
    with ThreadPoolExecutor(threads) as pool:
        look = partial(see, views=plan.views, mirrored=part.mirrored)
        seen = list(pool.map(look, records))
    views = [(item, number) for item in seen for number in range(len(item.views))]
    embeddings = np.zeros((len(views), 512), np.float16)
    unknown = []
    for i, (item, number) in enumerate(views):
        if number == 0 and last_name(item.record.key) in known:
            embeddings[i] = known[last_name(item.record.key)]
        else:
            unknown.append(i)
    if unknown:
        embeddings[unknown] = embed([views[i][0].views[views[i][1]] for i in unknown])
    images = np.zeros((len(views), size, size, 3), np.uint8)
    for i, (item, number) in enumerate(views):
        images[i] = resize_crop(item.views[number], (size, size))
    rows: list[dict[str, Any]] = [
        {"kind": kind, "text": text, "image": i}
        for i, (item, number) in enumerate(views)
        if number == 0
        for kind, text in part.texts(item.record)
    ]
    building = target.with_name(f".{target.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    np.save(building / "images.npy", images)
    np.save(building / "embeddings.npy", embeddings)
    pq.write_table(pa.Table.from_pylist(rows, schema=TEXT_SCHEMA), building / "texts.parquet")
    skipped = {item.record.key: item.reason for item in seen if item.reason}
    for key, reason in skipped.items():
        log.warning("%s: %s is left out: %s", part.name, key, reason)
    write_json(building / "skipped.json", skipped)
    building.rename(target)
    return len(views)


def prepare_part(
    part: Part,
    plan: PartPlan,
    folder: Path,
    size: int,
    embed: Embed,
    *,
    process: int = 0,
    processes: int = 1,
    threads: int = 4,
) -> Path | None:
    """Write the shards of one part that are not there yet; None where the part has no pictures here.

    Of several processes each writes its share. Raises SourceError when a part that
    is not optional has no pictures or a known teacher embedding has no image (the data and the embeddings do
    not fit), TrainingError when the folder was prepared by another plan or from other pictures.
    """
    target = folder / part.name
    made_of: dict[str, Any] = {
        "images": plan.images,
        "views": plan.views,
        "size": size,
        "mirrored": part.mirrored,
    }
    check_plan(target, made_of)
    if is_whole(target):
        return target
    records = chosen_records(part, plan)
    if not records and part.optional:
        log.warning("part %s: nothing is installed here, it is left out", part.name)
        return None
    if not records:
        raise SourceError(
            f"part {part.name!r}: the data have no pictures of it; the README says what they hold"
        )
    made_of["records"] = records_digest(records)
    check_plan(target, made_of)
    known = known_embeddings(part.known)
    if plan.images is None and (missing := len(known) - sum(last_name(r.key) in known for r in records)) > 0:
        raise SourceError(f"part {part.name!r}: {missing} of {len(known)} teacher embeddings have no image")
    starts = range(0, len(records), SHARD_RECORDS)
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / "part.json", {**made_of, "shards": len(starts)})
    # Not shared out by what is missing: processes that look at different moments would see different shards.
    own = list(enumerate(shard_folders(target)))[process::processes]
    for number in (number for number, shard in own if not shard.is_dir()):
        began = time.perf_counter()
        group = records[starts[number] : starts[number] + SHARD_RECORDS]
        count = write_shard(target / f"{number:05d}", part, group, plan, size, known, embed, threads)
        rate = count / (time.perf_counter() - began)
        log.info("%s: shard %d of %d, %.0f pictures/s", part.name, number + 1, len(starts), rate)
    return target


def records_digest(records: list[Record]) -> str:
    """SHA-256 over the records' keys and, of drawings that are values, over every choice made for them."""
    digest = hashlib.sha256()
    for record in records:
        is_value = callable(record.payload) and dataclasses.is_dataclass(record.payload)
        drawn = repr(record.payload) if is_value else ""
        digest.update(f"{record.key}\0{drawn}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def check_plan(target: Path, made_of: dict[str, Any]) -> None:
    """Raises TrainingError when the part's folder holds shards of another plan."""
    before = read_plan(target)
    changed = [key for key, value in made_of.items() if before and before.get(key) != value]
    if changed:
        raise TrainingError(
            f"{target} was prepared otherwise (what differs: {', '.join(changed)}): delete it, or choose "
            "another folder"
        )


def read_plan(target: Path) -> dict[str, Any]:
    """What a part's folder was made of; empty where there is none."""
    path = target / "part.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def shard_folders(target: Path) -> Iterator[Path]:
    """The shards of a part that belong to its plan, in order, finished or not."""
    for number in range(read_plan(target).get("shards", 0)):
        yield target / f"{number:05d}"


def is_whole(target: Path) -> bool:
    shards = list(shard_folders(target))
    return bool(shards) and all(shard.is_dir() for shard in shards)
