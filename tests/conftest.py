"""What many tests share: small real models, a folder of images, and the real data where it is given."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neurolab.models.zoo import Model

# A shell starts background jobs with Ctrl-C ignored, and then no test could press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing is remembered of the user's files, nor for the user.
os.environ["NEUROLAB_CACHE"] = ""

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def make_clip(seed: int = 0, **vision: object) -> Model:
    """A CLIP in open_clip's own classes with random weights, small enough to build in a second."""
    import open_clip
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(seed)
    vision_cfg = CLIPVisionCfg(**vision)
    text_cfg = CLIPTextCfg(context_length=77, vocab_size=49408, width=32, heads=2, layers=1)
    module = CLIP(embed_dim=32, vision_cfg=vision_cfg, text_cfg=text_cfg, quick_gelu=False)
    size = int(vision_cfg.image_size)
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    return Model(module, "tiny", image_size=(size, size), mean=MEAN, std=STD, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def tiny_clip() -> Model:
    """A ModifiedResNet CLIP, 64 px, layer4 of 256 units on a 2 x 2 map."""
    return make_clip(layers=[1, 1, 1, 1], width=8, image_size=64)


@pytest.fixture(scope="session")
def tiny_vit() -> Model:
    """A ViT CLIP: 32 px, patches of 8 (a 4 x 4 grid and CLS), width 64, 2 heads, 3 blocks."""
    return make_clip(layers=3, width=64, head_width=32, patch_size=8, image_size=32)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 small pictures in two labelled folders, JPEG and PNG, of several sizes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(24):
        height, width = int(rng.integers(40, 120)), int(rng.integers(40, 120))
        coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        label = folder / ("even" if i % 2 == 0 else "odd")
        label.mkdir(exist_ok=True)
        image.save(label / f"{i:02d}.{'png' if i % 3 == 0 else 'jpg'}")
    return folder


def path_from(variable: str, what: str) -> Path:
    """The path that a variable of the environment names; skips where it is not set, fails where it is off."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: this test needs {what}")
    path = Path(value)
    if not path.exists():
        pytest.fail(f"{variable} names {path}, where nothing is")
    return path


@pytest.fixture(scope="session")
def neurolab_data() -> Path:
    """The folder of real data; tests that need it skip without it."""
    return path_from("NEUROLAB_DATA", "the real data")


@pytest.fixture(scope="session")
def clip_b16_weights() -> Path:
    """The real CLIP ViT-B/16 image tower; tests that need it skip without it."""
    return path_from("NEUROLAB_CLIP_B16", "the real CLIP ViT-B/16 image tower")
