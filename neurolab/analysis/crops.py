"""What in an image excites a unit: the part around its maximum, and a map of where it fires."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from neurolab.atlas import Atlas
from neurolab.atlas.arrays import Box, Exemplar, view_to_image
from neurolab.atlas.matching import require_model
from neurolab.data.decode import decode_image
from neurolab.errors import AtlasError, UnknownSiteError
from neurolab.models.capture import capture
from neurolab.models.layouts import MAP
from neurolab.models.receptive import receptive_field
from neurolab.models.sites import Site, find_site, parse_unit, split_tokens
from neurolab.models.zoo import Model

PARTS = ("field", "cell")
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_SHADES = 0.15, 0.85  # of a colour map, for negative and positive: its ends are too dark for a picture


def crop_box(atlas: Atlas, model: Model, site: str, exemplar: Exemplar, part: str = "field") -> Box | None:
    """The part of an exemplar's image that excites the unit, (x0, y0, x1, y1) in fractions of the image.

    site: full or short name. part: "field", all that the map's cell with the maximum depends on
    (`neurolab.models.receptive`; for tokens their patch), or "cell", the share of the view that the map's
    grid gives this cell: behind many layers the field is all of the view (`ReceptiveField.is_global`), and
    the cell says more. All that the model sees, for a reduction that has no place. None where the part is
    outside of the image, in the border that a model pads it with.
    Raises AtlasError for another model than the atlas's, and UnknownSiteError.
    """
    if part not in PARTS:
        raise ValueError(f"part is one of {', '.join(PARTS)}, not {part!r}")
    require_model(atlas, model)
    name = atlas.site_name(site)
    box: Box | None = WHOLE
    if exemplar.row is not None and exemplar.column is not None:
        field = receptive_field(model, name)
        if field.grid != exemplar.grid:
            raise AtlasError(
                f"this exemplar has a place in {exemplar.grid}, and {name} a map of {field.grid}"
            )
        box = exemplar.box() if part == "cell" else field.box_in_view(exemplar.row, exemplar.column)
    if box is None:
        return None
    found = view_to_image(box, (exemplar.width, exemplar.height), model.image_size, model.resize_mode)
    return found if found[0] < found[2] and found[1] < found[3] else None


def crop(
    atlas: Atlas,
    model: Model,
    site: str,
    exemplar: Exemplar,
    image: Image.Image | None = None,
    part: str = "field",
) -> Image.Image | None:
    """The part of an exemplar's image that excites the unit, RGB, cut out; see `crop_box`.

    image: the exemplar's image as the source has it; without it the part is cut out of the thumbnail.
    None where there is no such part. Raises AtlasError for an image of another size than the exemplar's, and
    where there is neither an image nor a thumbnail.
    """
    box = crop_box(atlas, model, site, exemplar, part)
    if box is None:
        return None
    if image is None:
        picture = decode_image(atlas.thumbnail(exemplar.image))
    else:
        picture = decode_image(image)
        if picture.size != (exemplar.width, exemplar.height):
            raise AtlasError(
                f"the image of {picture.width} x {picture.height} pixels is not {exemplar.key}, which has "
                f"{exemplar.width} x {exemplar.height}"
            )
    return picture.crop(_pixels(box, picture.size))


def _pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels that a box (fractions) has a part of; what is a rounding error more is not counted."""
    low = (math.floor(box[i] * size[i] + 1e-6) for i in range(2))
    high = (math.ceil(box[2 + i] * size[i] - 1e-6) for i in range(2))
    return *low, *high  # type: ignore[return-value]


def heat_map(model: Model, name: str, image: Image.Image) -> NDArray[np.float32]:
    """Where in an image a unit fires, [rows, columns]; of a site all units, [units, rows, columns].

    As `heat_maps`.
    """
    return heat_maps(model, [name], image)[0]


def heat_maps(model: Model, names: Sequence[str], image: Image.Image) -> list[NDArray[np.float32]]:
    """The activation maps of units ("layer4.1/89") and whole sites ("layer4.1") for an image, in one pass.

    The values are the site's own, float32: before the ReLU where the site is, and at the map's resolution,
    over what the model sees of the image (`overlay` puts them back on it). Of tokens they are the patches'.
    Raises UnknownSiteError for units that do not exist and for sites without places.
    """
    asked = [parse_unit(name) if "/" in name else (name, None) for name in names]
    sites = {name: find_site(model, name) for name, _ in asked}
    for name, unit in asked:
        if unit is not None and unit >= sites[name].units:
            raise UnknownSiteError(f"{name} has units 0 to {sites[name].units - 1}, not {unit}")
    pixels = model.preprocess(decode_image(image))[None].to(model.device)
    with torch.inference_mode(), capture(model, {site.name for site in sites.values()}) as acts:
        model.encode_image(pixels)
    maps = {name: _map(acts[site.name], site) for name, site in sites.items()}
    return [maps[name] if unit is None else maps[name][unit] for name, unit in asked]


def _map(activation: torch.Tensor, site: Site) -> NDArray[np.float32]:
    """The map [units, rows, columns] of one image."""
    maps = activation if site.layout == MAP else split_tokens(activation, site)[1]
    return maps[0].to("cpu", torch.float32).numpy()


def overlay(
    image: Image.Image,
    heat: NDArray[np.float32],
    model: Model,
    *,
    alpha: float = 0.85,
    grey: float = 0.7,
    limit: float | None = None,
    colours: str = "PuOr_r",
) -> Image.Image:
    """An image, RGB, with a heat map [rows, columns] of it on top.

    The map is interpolated linearly between the middles of its cells, and lies over what the model saw of the
    image; on the rest is nothing. Positive values are orange and negative ones violet, the more opaque the
    larger: nothing at 0, `alpha` at +-`limit` and beyond. grey: how much of the image's own colours is taken
    away, so that those of the map stand out. limit: default, the largest absolute value; give the same to
    compare images. colours: a diverging colour map of matplotlib, of which two shades are taken; those of the
    default are safe for the colour-blind.
    """
    if heat.ndim != 2 or not np.isfinite(heat).all():
        raise ValueError(f"a heat map is [rows, columns] of finite numbers, not of shape {heat.shape}")
    from matplotlib import colormaps

    picture = decode_image(image)
    faded = np.asarray(Image.blend(picture, picture.convert("L").convert("RGB"), grey))
    limit = float(np.abs(heat).max()) if limit is None else limit
    strength = np.clip(_spread(heat, picture.size, model) / (limit or 1.0), -1, 1)
    negative, positive = colormaps[colours](_SHADES)[:, :3] * 255
    paint = np.where(strength[..., None] < 0, negative, positive)
    opacity = alpha * np.abs(strength)[..., None]
    return Image.fromarray(np.rint(faded * (1 - opacity) + paint * opacity).astype(np.uint8))


def _spread(heat: NDArray[np.float32], size: tuple[int, int], model: Model) -> NDArray[np.float32]:
    """A map as large as an image (width, height), [height, width]; 0 where the model does not look."""
    rows, columns = heat.shape
    # Maps between image and view are linear; so small a part of the view that nothing of it is cut off.
    near = 1e-6
    x0, y0, x1, y1 = view_to_image(
        (0.5 - near, 0.5 - near, 0.5 + near, 0.5 + near), size, model.image_size, model.resize_mode
    )
    across, down = (x1 - x0) / (2 * near) * size[0] / columns, (y1 - y0) / (2 * near) * size[1] / rows
    left, top = columns / 2 - size[0] / 2 / across, rows / 2 - size[1] / 2 / down
    inverse = (1 / across, 0.0, left, 0.0, 1 / down, top)
    cells = Image.fromarray(np.ascontiguousarray(heat, np.float32))
    spread = cells.transform(size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
    return np.asarray(spread)
