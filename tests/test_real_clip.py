"""The real CLIP ViT-B/16 image tower on real photos: built, killed, resumed, checked against known values."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import neurolab
from neurolab.atlas import Atlas
from neurolab.atlas.image_table import ImageRow
from neurolab.atlas.manifest import BUILDING
from neurolab.errors import MissingTextTowerError
from neurolab.mining.job import CHECKPOINT
from neurolab.models.zoo import Model

MODEL = "ViT-B-16-quickgelu"
SITES = ["block11.mlp", "block11"]
# ImageNet classes and the known concept that each is a case of.
CONCEPTS = {
    "zebra": "zebra", "pizza": "pizza", "laptop": "laptop", "school bus": "bus", "banana": "banana",
    "broccoli": "broccoli", "orange": "orange", "umbrella": "umbrella", "toaster": "toaster",
    "microwave": "microwave", "refrigerator": "refrigerator", "backpack": "backpack", "vase": "vase",
    "traffic light": "traffic light", "parking meter": "parking meter", "dishwasher": "dishwasher",
    "bathtub": "bathtub", "pool table": "pool table", "park bench": "bench", "wall clock": "clock",
    "computer keyboard": "keyboard", "African elephant": "elephant", "brown bear": "bear",
    "tow truck": "truck", "suspension bridge": "bridge", "mountain tent": "tent", "fountain": "fountain",
    "rocking chair": "chair", "wine bottle": "bottle", "Siamese cat": "cat", "bullet train": "train",
}  # fmt: skip


def start_build(weights: Path, sources: list[Path], out: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "neurolab",
        "build",
        "--model",
        MODEL,
        "--weights",
        str(weights),
        "--out",
        str(out),
    ]
    for source in sources:
        command += ["--source", str(source)]
    for site in SITES:
        command += ["--site", site]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes]) -> str:
    output = process.communicate()[0].decode(errors="replace")
    assert process.returncode == 0, output[-3000:]
    return output


def kill_after_first_checkpoint(process: subprocess.Popen[bytes], out: Path, more_seconds: float) -> None:
    """SIGKILL the build some seconds after it has written its first checkpoint."""
    deadline = time.monotonic() + 600
    while not (out / BUILDING / CHECKPOINT).exists():
        assert process.poll() is None, process.communicate()[0].decode(errors="replace")[-3000:]
        assert time.monotonic() < deadline, "no checkpoint in ten minutes"
        time.sleep(0.2)
    time.sleep(more_seconds)
    assert process.poll() is None, "the build was over before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def real_model(clip_b16_weights: Path) -> Model:
    return neurolab.load_model(MODEL, weights=clip_b16_weights)


@pytest.fixture(scope="module")
def photos(neurolab_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to the ImageNet samples of every other class, and of those that are a case of a known concept."""
    folder = tmp_path_factory.mktemp("photos")
    named = {name.replace(" ", "_") for name in CONCEPTS}
    for i, path in enumerate(sorted((neurolab_data / "imagenet-samples").iterdir())):
        if path.is_dir() and (i % 2 == 0 or path.name in named):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def real_atlas(
    photos: Path, neurolab_data: Path, clip_b16_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Atlas:
    """The atlas of half the ImageNet samples and the 227 Distill photos, killed on the way and resumed."""
    out = tmp_path_factory.mktemp("real") / "atlas"
    sources = [photos, neurolab_data / "distill" / "typographic"]
    kill_after_first_checkpoint(start_build(clip_b16_weights, sources, out), out, more_seconds=20)
    with pytest.raises(neurolab.errors.AtlasError):
        neurolab.open_atlas(out)
    finish(start_build(clip_b16_weights, sources, out))
    return neurolab.open_atlas(out)


def known_embeddings(folder: Path, name: str) -> tuple[list[str], np.ndarray]:
    with np.load(folder / "clip-b16" / f"image-embeddings-{name}.npz", allow_pickle=False) as archive:
        return archive["keys"].tolist(), archive["embeddings"].astype(np.float32)


def rows_by_key(atlas: Atlas) -> dict[str, int]:
    """The atlas's images; the sources' own names stand before the keys of a joint source."""
    ours = [atlas.image(i).key for i in range(atlas.summary()["images"])]
    return {ours[i].split("/", 1)[-1]: i for i in range(len(ours))} | {key: i for i, key in enumerate(ours)}


def unit_norm(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_the_atlas_counts_every_photo(real_atlas: Atlas, photos: Path) -> None:
    summary = real_atlas.summary()
    assert summary["images"] == sum(path.is_file() for path in photos.glob("*/*")) + 227 > 700
    assert summary["units"] == 3072 + 768
    assert summary["exemplars"] == (3072 + 768) * 100
    assert [real_atlas.site(site).values.shape for site in SITES] == [(3072, 100), (768, 100)]


def crop_margins(row: ImageRow, side: int = 224) -> tuple[int, int]:
    """What a centre crop cuts off a photo in all, across and down, after its short side is resized."""
    scale = side / min(row.width, row.height)
    return round(row.width * scale) - side, round(row.height * scale) - side


def crops_agree(row: ImageRow) -> bool:
    """Whether the centre is the same rounded to even (open_clip and we) and rounded down (the known)."""
    return all(round(margin / 2) == margin // 2 for margin in crop_margins(row))


@pytest.mark.parametrize("name", ["imagenet-samples", "distill-typographic"])
def test_embeddings_are_the_known_ones(
    real_atlas: Atlas, real_model: Model, neurolab_data: Path, name: str
) -> None:
    """The known embeddings were computed in bfloat16, from a centre crop that rounds down.

    open_clip's crop, and so ours, rounds half to even. Where the crops agree, nearly every embedding of the
    atlas is the known one, and the few others are in bfloat16; where they differ by a pixel, the embedding of
    the photo cropped their way is the known one.
    """
    keys, known = known_embeddings(neurolab_data, name)
    row = rows_by_key(real_atlas)
    mined = [i for i, key in enumerate(keys) if key in row]
    keys, known, rows = [keys[i] for i in mined], unit_norm(known[mined]), [row[keys[i]] for i in mined]
    cosine = (unit_norm(real_atlas.image_embeddings()[rows].astype(np.float32)) * known).sum(axis=1)
    same = np.array([crops_agree(row) for row in real_atlas.images(rows)])
    assert same.sum() > 200
    assert np.mean(cosine[same] > 0.999) > 0.9 and np.median(cosine[same]) > 0.9995
    assert cosine[same].min() > 0.99 and cosine.min() > 0.9
    folder = neurolab_data / {"imagenet-samples": name, "distill-typographic": "distill/typographic"}[name]

    def again(index: int, module: torch.nn.Module, dtype: torch.dtype) -> float:
        photo = cropped_their_way(Image.open(folder / keys[index]).convert("RGB"))
        pixels = real_model.normalize(real_model.preprocess(photo)[None]).to(dtype)
        with torch.inference_mode():
            embedded = module.encode_image(pixels).float()  # type: ignore[operator]
        return float((unit_norm(embedded[0].numpy()) * known[index]).sum())

    rounded = copy.deepcopy(real_model.module).to(torch.bfloat16)
    worst = np.argsort(np.where(same, cosine, 1))[:8]
    for index in [*worst.tolist(), *np.flatnonzero(~same)[::60].tolist()]:
        exact = again(index, real_model.module, torch.float32)
        if exact <= 0.999:
            assert again(index, rounded, torch.bfloat16) > 0.999, f"{keys[index]}: {exact} in float32"


def cropped_their_way(photo: Image.Image, side: int = 224) -> Image.Image:
    scale = side / min(photo.size)
    photo = photo.resize([round(edge * scale) for edge in photo.size], Image.Resampling.BICUBIC)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    return photo.crop((left, top, left + side, top + side))


def test_zero_shot_finds_the_known_concepts(real_atlas: Atlas, neurolab_data: Path) -> None:
    with np.load(neurolab_data / "clip-b16" / "text-embeddings.npz", allow_pickle=False) as archive:
        names, texts = archive["names"].tolist(), archive["embeddings"].astype(np.float32)
    keys, _ = known_embeddings(neurolab_data, "imagenet-samples")
    photo = {key.split("/")[0].replace("_", " "): key for key in keys}
    row = rows_by_key(real_atlas)
    rows = [row[photo[name]] for name in CONCEPTS]
    images = unit_norm(real_atlas.image_embeddings()[rows].astype(np.float32))
    top = [[names[i] for i in order[:5]] for order in np.argsort(-images @ texts.T, axis=1)]
    found = {name for (name, concept), five in zip(CONCEPTS.items(), top, strict=True) if concept in five}
    assert {"zebra", "pizza", "laptop", "school bus"} <= found
    assert len(found) >= 20, f"not found: {CONCEPTS.keys() - found}"
    others = [*top[1:], top[0]]
    by_chance = sum(concept in five for concept, five in zip(CONCEPTS.values(), others, strict=True))
    assert by_chance < len(found) / 2


def test_exemplars_are_the_true_maxima(real_atlas: Atlas, real_model: Model, neurolab_data: Path) -> None:
    """The strongest exemplar of some units, computed again from its file."""
    for name in (f"{SITES[0]}/7", f"{SITES[0]}/2000", f"{SITES[1]}/5"):
        unit = real_atlas.unit(name)
        best = unit.exemplars[0]
        assert [e.value for e in unit.exemplars] == sorted((e.value for e in unit.exemplars), reverse=True)
        path = next(
            folder / key
            for folder in (neurolab_data / "imagenet-samples", neurolab_data / "distill" / "typographic")
            for key in (best.key, best.key.split("/", 1)[-1])
            if (folder / key).is_file()
        )
        image = real_model.preprocess(Image.open(path).convert("RGB"))[None]
        site, index = name.rsplit("/", 1)
        with torch.inference_mode(), neurolab.capture(real_model, [site]) as acts:
            real_model.encode_image(image)
        patches = acts[site][0, 1:, int(index)]
        assert patches.max().item() == pytest.approx(best.value, rel=1e-3, abs=1e-3)
        assert int(patches.argmax()) == best.position


def test_text_is_refused_by_name(real_model: Model) -> None:
    with pytest.raises(MissingTextTowerError, match=re.escape(MODEL)):
        real_model.encode_text("a zebra")


def test_killed_and_resumed_is_byte_identical(
    clip_b16_weights: Path, neurolab_data: Path, tmp_path: Path
) -> None:
    limit = int(os.environ.get("NEUROLAB_RESUME_IMAGES", "96"))
    source = [neurolab_data / "imagenet-samples"]
    options = ("--limit", str(limit), "--batch-size", "16", "--checkpoint-seconds", "5")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(start_build(clip_b16_weights, source, whole, *options))
    process = start_build(clip_b16_weights, source, stopped, *options)
    kill_after_first_checkpoint(process, stopped, more_seconds=max(5.0, limit / 20))
    finish(start_build(clip_b16_weights, source, stopped, *options))
    assert digests(stopped) == digests(whole)
    assert json.loads((whole / "manifest.json").read_text())["complete"] is True
