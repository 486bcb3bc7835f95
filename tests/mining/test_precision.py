"""What a precision changes, against numbers worked out by hand and by NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from neurolab.data.decode import ImageTransform
from neurolab.data.items import Batch
from neurolab.data.loader import load_batches
from neurolab.data.sources import open_source
from neurolab.mining.plan import plan
from neurolab.mining.precision import PrecisionEffect, effect_of_precision
from neurolab.models.capture import capture
from neurolab.models.sites import find_site
from neurolab.models.zoo import Model


def test_errors_are_in_standard_deviations_and_the_strongest_are_compared() -> None:
    exact = np.arange(20, dtype=np.float32)[:, None].repeat(4, axis=1)
    exact[:, 3] = 5  # never varies: left out
    values = exact.copy()
    values[:, 1] += np.tile([3, -3], 10).astype(np.float32)  # off by 3 everywhere; 18 and 19 change places
    values[:, 2] = -values[:, 2]  # the strongest are the weakest
    found = PrecisionEffect.of("bfloat16", 2.0, exact, values)
    sd = np.arange(20).std()
    inverted = np.sqrt((4 * np.arange(20.0) ** 2).mean()) / sd
    assert found.error == pytest.approx(3 / sd)
    assert found.error_95 == pytest.approx(inverted)
    # Of the two strongest: both, 18 of (18, 16), none.
    assert found.same == pytest.approx((1 + 0.5 + 0) / 3)


def test_a_value_beyond_the_range_is_infinitely_wrong() -> None:
    exact = np.arange(20, dtype=np.float32)[:, None]
    values = exact.copy()
    values[3] = np.nan
    assert PrecisionEffect.of("float16", 1.0, exact, values).error == np.inf


def batches_of(model: Model, folder: Path) -> list[Batch]:
    transform = ImageTransform(model.image_size, model.resize_mode, model.interpolation, thumbnail=None)
    return list(load_batches(open_source(folder), transform, batch_size=8, workers=0))


def test_float32_is_float32_and_bfloat16_is_what_torch_computes(tiny_clip: Model, image_folder: Path) -> None:
    batches = batches_of(tiny_clip, image_folder)
    sites = [find_site(tiny_clip, name) for name in ("layer2.0", "layer4.0")]
    same = effect_of_precision(tiny_clip, sites, batches, "max", "float32")
    assert (same.error, same.error_95, same.same) == (0, 0, 1) and same.images == 24
    half = effect_of_precision(tiny_clip, sites, batches, "max", "bfloat16")
    values = []
    for dtype in (None, torch.bfloat16):
        found = []
        for batch in batches:
            pixels = torch.from_numpy(batch.images).permute(0, 3, 1, 2)
            images = pixels.to(torch.float32, memory_format=torch.channels_last) / 255
            with (
                torch.no_grad(),
                torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None),
                capture(tiny_clip, ["layer2.0", "layer4.0"]) as acts,
            ):
                tiny_clip.encode_image(images)
            found.append(torch.cat([acts[s].float().amax((2, 3)) for s in ("layer2.0", "layer4.0")], 1))
        values.append(torch.cat(found).double())
    error = ((values[1] - values[0]) ** 2).mean(0).sqrt() / values[0].std(0, unbiased=False)
    assert 1e-4 < half.error < 0.2
    assert half.error == pytest.approx(float(error.quantile(0.5)), rel=1e-3)


def test_no_images_are_no_comparison(tiny_clip: Model) -> None:
    with pytest.raises(ValueError, match="there are none"):
        effect_of_precision(tiny_clip, [find_site(tiny_clip, "layer2.0")], [], "max", "bfloat16")


def test_a_plan_in_another_precision_says_what_it_changes(tiny_clip: Model, image_folder: Path) -> None:
    sites = ["layer2.0"]
    assert plan(tiny_clip, image_folder, sites, batch_size=10, workers=0).effect is None
    found = plan(tiny_clip, image_folder, sites, batch_size=10, workers=0, precision="bfloat16").effect
    assert found is not None and found.precision == "bfloat16" and found.images == 24
    assert 0.5 < found.same <= 1 and 0 < found.error <= found.error_95
