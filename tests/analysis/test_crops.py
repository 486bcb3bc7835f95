"""Crops and heat maps of a small atlas, against what the model's own preprocessing shows, and SciPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import map_coordinates

import neurolab
from neurolab.analysis.crops import crop, crop_box, heat_map, heat_maps, overlay
from neurolab.atlas import Atlas
from neurolab.atlas.arrays import Exemplar
from neurolab.errors import AtlasError, UnknownSiteError
from neurolab.models.receptive import receptive_field
from neurolab.models.zoo import Model
from tests.conftest import make_clip

SITES = ["layer1.0", "layer2.0", "layer4.0"]


def build(model: Model, folder: Path, out: Path, sites: list[str], **settings: object) -> Atlas:
    given = {"k": 6, "batch_size": 8, "workers": 0, "progress": False} | settings
    return neurolab.mine(model, folder, sites, out, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def atlas(tiny_clip: Model, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return build(tiny_clip, image_folder, tmp_path_factory.mktemp("crops") / "atlas", SITES)


def source_image(folder: Path, exemplar: Exemplar) -> Image.Image:
    with Image.open(folder / exemplar.key) as opened:
        return opened.convert("RGB")


def ramps(width: int, height: int) -> Image.Image:
    """An image whose red says how far to the right a pixel is, its green how far down, and its blue 255."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[..., 0] = np.rint(np.linspace(0, 255, width))
    pixels[..., 1] = np.rint(np.linspace(0, 255, height))[:, None]
    return Image.fromarray(pixels)


def an_exemplar(image: Image.Image, row: int | None, column: int | None, grid: tuple[int, int]) -> Exemplar:
    position = -1 if row is None or column is None else row * grid[1] + column
    return Exemplar(0, "ramps", 1.0, position, row, column, grid, (), {}, image.width, image.height)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(("width", "height"), [(96, 64), (150, 230), (64, 64)])
@pytest.mark.parametrize("part", ["field", "cell"])
def test_a_crop_shows_what_the_model_sees_there(
    tiny_clip: Model, atlas: Atlas, mode: str, width: int, height: int, part: str
) -> None:
    model = replace(tiny_clip, resize_mode=mode)
    image = ramps(width, height)
    view = model.preprocess(image).permute(1, 2, 0).numpy() * 255
    field = receptive_field(model, "layer1.0")
    for row, column in ((0, 0), (8, 8), (5, 12), (15, 9)):
        found = crop(atlas, model, "layer1.0", an_exemplar(image, row, column, field.grid), image, part)
        x0, y0, x1, y1 = (
            field.pixels[row, column] if part == "field" else 4 * np.r_[column, row, column + 1, row + 1]
        )
        seen = view[y0:y1, x0:x1].reshape(-1, 3)
        seen = seen[seen[:, 2] > 200]  # without the border, which is black
        if not len(seen):
            assert found is None
            continue
        assert found is not None
        shown = np.asarray(found).reshape(-1, 3)
        pixel = 255 / min(width, height) + 255 / 64  # one of the image, one of the view
        np.testing.assert_allclose(shown.min(0)[:2], seen.min(0)[:2], atol=1.5 * pixel)
        np.testing.assert_allclose(shown.max(0)[:2], seen.max(0)[:2], atol=1.5 * pixel)


def test_the_field_is_all_that_the_activation_hangs_on(tiny_clip: Model, atlas: Atlas) -> None:
    """With all the rest of the image painted over the unit fires the same; with all but the cell not."""
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image, row, column = Image.fromarray(pixels), 6, 9
    exemplar = an_exemplar(image, row, column, (16, 16))

    def painted(box: tuple[int, int, int, int]) -> float:
        other = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        other[box[1] : box[3], box[0] : box[2]] = pixels[box[1] : box[3], box[0] : box[2]]
        maps = heat_map(tiny_clip, "layer1.0", Image.fromarray(other))
        return float(np.abs(maps[:, row, column] - before[:, row, column]).max())

    before = heat_map(tiny_clip, "layer1.0", image)
    for part, same in (("field", True), ("cell", False)):
        found = crop_box(atlas, tiny_clip, "layer1.0", exemplar, part)
        assert found is not None
        x0, y0, x1, y1 = (round(64 * value) for value in found)
        assert (painted((x0, y0, x1, y1)) < 1e-5) == same
    assert receptive_field(tiny_clip, "layer1.0").size == (21, 21)


def test_exemplars_are_cut_out_of_thumbnails_and_images(
    atlas: Atlas, tiny_clip: Model, image_folder: Path
) -> None:
    for exemplar in atlas.unit("layer2.0/5").exemplars:
        small = crop(atlas, tiny_clip, "layer2.0", exemplar)
        large = crop(atlas, tiny_clip, "layer2.0", exemplar, source_image(image_folder, exemplar))
        assert small is not None and large is not None
        # The pictures are smaller than thumbnails are, so that both are of one size, but for WebP's losses.
        assert small.size == large.size and small.mode == large.mode == "RGB"
        assert np.abs(np.asarray(small, float) - np.asarray(large, float)).mean() < 12
        assert min(large.size) < min(exemplar.width, exemplar.height)


def test_what_cannot_be_cut_out_says_so(atlas: Atlas, tiny_clip: Model, image_folder: Path) -> None:
    exemplar = atlas.unit("layer2.0/5").exemplars[0]
    with pytest.raises(AtlasError, match=f"31 x 30 pixels is not {exemplar.key}"):
        crop(atlas, tiny_clip, "layer2.0", exemplar, Image.new("RGB", (31, 30)))
    with pytest.raises(AtlasError, match=r"has a place in \(8, 8\)"):
        crop(atlas, tiny_clip, "layer1.0", exemplar)
    with pytest.raises(UnknownSiteError):
        crop(atlas, tiny_clip, "layer3.0", exemplar)
    with pytest.raises(ValueError, match="field, cell"):
        crop(atlas, tiny_clip, "layer2.0", exemplar, part="place")
    other = make_clip(seed=1, layers=[1, 1, 1, 1], width=8, image_size=64)
    with pytest.raises(AtlasError, match="load the model that the atlas was made of"):
        crop(atlas, other, "layer2.0", exemplar)


def test_without_a_place_it_is_all_that_the_model_sees(
    tiny_vit: Model, image_folder: Path, tmp_path: Path
) -> None:
    found = build(tiny_vit, image_folder, tmp_path / "atlas", ["block1"], reduction="cls")
    exemplar = found.unit("block1/3").exemplars[0]
    box = crop_box(found, tiny_vit, "block1", exemplar)
    assert box is not None
    side = min(exemplar.width, exemplar.height)
    shown = (box[2] - box[0]) * exemplar.width, (box[3] - box[1]) * exemplar.height
    assert shown == pytest.approx((side, side))


def test_tokens_are_their_patches(tiny_vit: Model, image_folder: Path, tmp_path: Path) -> None:
    found = build(tiny_vit, image_folder, tmp_path / "atlas", ["block1"])
    for exemplar in found.unit("block1/3").exemplars:
        boxes = [crop_box(found, tiny_vit, "block1", exemplar, part) for part in ("field", "cell")]
        assert boxes[0] == pytest.approx(boxes[1]) == exemplar.box_in_image(tiny_vit.image_size)


def test_heat_maps_are_the_activations(atlas: Atlas, tiny_clip: Model, image_folder: Path) -> None:
    passes: list[int] = []
    watch = tiny_clip.module.get_submodule("visual.conv1").register_forward_hook(lambda *_: passes.append(1))
    exemplar = atlas.unit("layer2.0/5").exemplars[0]
    image = source_image(image_folder, exemplar)
    names = ["layer2.0/5", "layer4.0", "layer2.0/11", "visual.layer4.0.act3:in/7"]
    maps = heat_maps(tiny_clip, names, image)
    watch.remove()
    assert len(passes) == 1
    with torch.inference_mode(), neurolab.capture(tiny_clip, SITES) as acts:
        tiny_clip.encode_image(tiny_clip.preprocess(image)[None])
    layer2, layer4 = acts["layer2.0"][0].numpy(), acts["layer4.0"][0].numpy()
    for found, expected in zip(maps, (layer2[5], layer4, layer2[11], layer4[7]), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert maps[0].max() == pytest.approx(exemplar.value, rel=1e-4)
    assert np.unravel_index(maps[0].argmax(), maps[0].shape) == (exemplar.row, exemplar.column)
    assert (maps[1] < 0).any()  # before the ReLU


def test_heat_maps_of_tokens_leave_out_the_class_token(tiny_vit: Model) -> None:
    image = ramps(50, 40)
    with torch.inference_mode(), neurolab.capture(tiny_vit, ["block1"]) as acts:
        tiny_vit.encode_image(tiny_vit.preprocess(image)[None])
    patches = acts["block1"][0, 1:].numpy().reshape(4, 4, 64)
    np.testing.assert_array_equal(heat_map(tiny_vit, "block1/9", image), patches[..., 9])


@pytest.mark.parametrize(
    ("name", "why"), [("block1/64", "units 0 to 63"), ("visual:out/3", "no grid"), ("block7/3", "block")]
)
def test_what_has_no_heat_map_says_so(tiny_vit: Model, name: str, why: str) -> None:
    with pytest.raises(UnknownSiteError, match=why):
        heat_map(tiny_vit, name, ramps(50, 40))


def spread_by_scipy(heat: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """The map over an image (width, height): where in the view a pixel lies, and there between the cells."""
    width, height = size
    side = {"shortest": min(size), "longest": max(size), "squash": None}[mode]
    spans = (width, height) if side is None else (side, side)
    x = ((np.arange(width) + 0.5 - width / 2) / spans[0] + 0.5)[None].repeat(height, 0)
    y = ((np.arange(height) + 0.5 - height / 2) / spans[1] + 0.5)[:, None].repeat(width, 1)
    places = [y * heat.shape[0] - 0.5, x * heat.shape[1] - 0.5]
    inside = (x > 0) & (x < 1) & (y > 0) & (y < 1)
    return np.where(inside, map_coordinates(heat.astype(float), places, order=1, mode="nearest"), 0)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(90, 60), (40, 78)])
def test_an_overlay_lies_where_the_model_looked(tiny_clip: Model, mode: str, size: tuple[int, int]) -> None:
    model = replace(tiny_clip, resize_mode=mode)
    heat = np.random.default_rng(2).normal(size=(5, 7)).astype(np.float32)
    white = Image.new("RGB", size, "white")
    found = np.asarray(overlay(white, heat, model, colours="RdBu_r", alpha=1.0, limit=4.0), float)
    from matplotlib import colormaps

    strength = spread_by_scipy(heat, size, mode) / 4
    opacity = np.abs(strength)[..., None]
    paint = np.where(
        strength[..., None] < 0, *(np.array(colormaps["RdBu_r"](x)[:3]) * 255 for x in (0.15, 0.85))
    )
    np.testing.assert_allclose(found, 255 * (1 - opacity) + paint * opacity, atol=1.5)


def test_an_overlays_colours_are_diverging_around_zero(tiny_clip: Model) -> None:
    image = Image.new("RGB", (64, 64), (90, 90, 90))
    heat = np.array([[3.0, 0.0], [0.0, -1.0]], np.float32)
    pixels = np.asarray(overlay(image, heat, tiny_clip), float)
    changed = pixels - 90
    assert changed[0, 0, 0] > 60 > changed[0, 0, 2]  # orange
    assert changed[-1, -1, 2] > changed[-1, -1, 1] + 5 and changed[-1, -1, 2] > changed[-1, -1, 0]  # violet
    assert np.abs(changed[16, 48]).max() < 6  # 0: the middle of the upper right cell
    strong = np.asarray(overlay(image, heat, tiny_clip, limit=1.0), float) - 90
    assert np.abs(strong[-1, -1]).max() > 2 * np.abs(changed[-1, -1]).max()
    np.testing.assert_array_equal(strong[0, 0], changed[0, 0])  # beyond the limit as at it


def test_an_overlay_of_nothing_is_the_image_in_grey(tiny_clip: Model) -> None:
    image = ramps(40, 50)
    none = np.zeros((3, 3), np.float32)
    np.testing.assert_array_equal(np.asarray(overlay(image, none, tiny_clip, grey=0)), np.asarray(image))
    grey = np.asarray(overlay(image, none, tiny_clip, grey=1))
    np.testing.assert_array_equal(grey, np.asarray(image.convert("L").convert("RGB")))
    for wrong in (np.zeros((2, 3, 3), np.float32), np.full((3, 3), np.nan, np.float32)):
        with pytest.raises(ValueError, match="rows, columns"):
            overlay(image, wrong, tiny_clip)


def test_photos_excite_the_pocket_where_their_crops_are(neurolab_data: Path, tmp_path: Path) -> None:
    """Real photos, real weights: without the crop a unit loses its exemplar, and without the rest it hardly
    notices."""
    model = neurolab.load_model("pocket")
    folder = neurolab_data / "imagenet-samples"
    found = build(model, folder, tmp_path / "atlas", ["layer2.1"], limit=64, k=2)
    site = found.site("layer2.1")
    strongest = np.argsort(-(site.values[:, 0] - site.mean) / site.sd)[:8]
    losses = []
    for unit in strongest:
        exemplar = found.unit(f"layer2.1/{unit}").exemplars[0]
        image = source_image(folder, exemplar)
        whole = heat_map(model, f"layer2.1/{unit}", image)
        assert np.unravel_index(whole.argmax(), whole.shape) == (exemplar.row, exemplar.column)
        assert whole.max() == pytest.approx(exemplar.value, rel=1e-3)
        box = crop_box(found, model, "layer2.1", exemplar)
        assert box is not None
        corner = int(box[0] * image.width + 1e-6), int(box[1] * image.height + 1e-6)
        part = crop(found, model, "layer2.1", exemplar, image)
        assert part is not None
        only, without = Image.new("RGB", image.size, "grey"), image.copy()
        only.paste(part, corner)
        without.paste("grey", (*corner, corner[0] + part.width, corner[1] + part.height))
        kept, lost = (
            heat_map(model, f"layer2.1/{unit}", other)[exemplar.row, exemplar.column]
            for other in (only, without)
        )
        losses.append(((exemplar.value - kept) / site.sd[unit], (exemplar.value - lost) / site.sd[unit]))
    kept_loss, lost_loss = np.array(losses).T
    assert np.abs(kept_loss).max() < 0.25 < 2 < lost_loss.min()
