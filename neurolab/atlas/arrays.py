"""What an atlas knows of a site and of one of its units, and where in an image a unit fired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neurolab.atlas.image_table import ImageRow
from neurolab.atlas.observed import distinct_images, observations_per_image
from neurolab.atlas.pictures import PictureRow
from neurolab.atlas.writing import read_npz, write_npz
from neurolab.errors import AtlasError

Box = tuple[float, float, float, float]

# Name, stored dtype, shape; "units" is the site's, the other sizes are what the arrays say.
_EXEMPLARS = (
    ("values", np.float32, ("units", "k")),
    ("images", np.int64, ("units", "k")),
    ("position", np.int32, ("units", "k")),
)
_STATISTICS = (
    ("count", np.int64, ("units",)),
    ("mean", np.float64, ("units",)),
    ("sd", np.float64, ("units",)),
    ("min", np.float32, ("units",)),
    ("max", np.float32, ("units",)),
    ("histogram", np.int64, ("units", "bins")),
    ("edges", np.float64, ("units", "bins+1")),
)
_EMBEDDINGS = (("embedding", np.float16, ("units", "dim")),)
_LOWEST = (
    ("values", np.float32, ("units", "bottom")),
    ("images", np.int64, ("units", "bottom")),
    ("position", np.int32, ("units", "bottom")),
)
_BUCKETS = (
    ("edges", np.float64, ("units", "buckets+1")),
    ("counts", np.int64, ("units", "buckets")),
    ("concepts", np.int64, ("units", "buckets", "concepts")),
    ("images", np.int64, ("units", "buckets", "drawn")),
    ("values", np.float32, ("units", "buckets", "drawn")),
)
# What only atlases of the reduction `token` have.
_PLACES = {"buckets.npz": (("position", np.int32, ("units", "buckets", "drawn")),)}
_COACTIVATION = (("projection", np.float32, ("units", "projections")),)
_FILES = {
    "exemplars.npz": _EXEMPLARS,
    "statistics.npz": _STATISTICS,
    "embeddings.npz": _EMBEDDINGS,
    "lowest.npz": _LOWEST,
    "buckets.npz": _BUCKETS,
    "coactivation.npz": _COACTIVATION,
}
_OPTIONAL = (
    "lowest",
    "buckets",
    "coactivation",
)  # each a file of its own name, and an attribute of SiteArrays


@dataclass(frozen=True)
class SiteArrays:
    """Everything recorded of a site's units, as read-only arrays mapped into memory; row u is unit u.

    Exemplars are ordered from the strongest; where a unit has fewer than k, `images` is -1, `values` is NaN
    or -inf as the miner left it, and such places are no exemplars.
    """

    name: str
    short: str
    units: int
    layout: str  # "map", "tokens" or "vector"
    shape: tuple[int, ...]  # (height, width) of the map, (tokens,) or ()
    prefix_tokens: int
    reduction: str
    grid: tuple[int, int] | None  # the (height, width) that positions count in
    values: np.ndarray  # [units, k] float32: the exemplar's activation
    images: np.ndarray  # [units, k] int64: the exemplar's image number, -1 for none
    position: np.ndarray  # [units, k] int32: the place of the maximum in `grid`, row by row; -1 for none
    count: np.ndarray  # [units] int64: images seen, or their tokens (`per_image`)
    mean: np.ndarray  # [units] float64, over what was counted
    sd: np.ndarray  # [units] float64
    min: np.ndarray  # [units] float32
    max: np.ndarray  # [units] float32
    histogram: np.ndarray  # [units, bins] int64
    edges: np.ndarray  # [units, bins + 1] float64
    embedding: np.ndarray | None  # [units, D] float16: unit-norm mean embedding of the exemplars
    # values, images, position [units, n]: the images that excite a unit least, from the least on
    lowest: dict[str, np.ndarray] | None = None
    # edges [units, buckets + 1] (NaN behind the last), counts [units, buckets], concepts [units, buckets,
    # concepts]; images and values [units, buckets, n]: images of each level of activation, drawn at random,
    # -1 and NaN where there are fewer; and for the reduction `token` position, which token of the image it is
    buckets: dict[str, np.ndarray] | None = None
    # projection [units, n]: dot products of two units' are their correlation over all images, nearly
    coactivation: dict[str, np.ndarray] | None = None

    @property
    def k(self) -> int:
        """The number of exemplars that a unit can have."""
        return int(self.values.shape[1])

    @property
    def per_image(self) -> int:
        """How many observations an image is: its patch tokens for the reduction `token`, else 1.

        What is counted, in statistics and levels, are observations; an image may be an exemplar so often.
        """
        return observations_per_image(self.reduction, self.shape, self.prefix_tokens)

    def distinct_images(self, units: Sequence[int] | np.ndarray | slice = slice(None)) -> np.ndarray:
        """The images of some units' exemplars, each once, [units, k]: strongest first, -1 behind the last.

        They are `images`, but for the reduction `token`, with which an image may be several exemplars.
        """
        images = self.images[units]
        return images if self.per_image == 1 else distinct_images(images)

    def unit_name(self, index: int) -> str:
        """`SITE/index`."""
        return f"{self.name}/{index}"

    def levels(self, unit: int) -> list[Level]:
        """A unit's levels of activation with the images drawn of each, from the highest down; empty where the
        atlas has none."""
        if self.buckets is None:
            return []
        edges, counts, concepts, images, values = (
            self.buckets[name][unit] for name in ("edges", "counts", "concepts", "images", "values")
        )
        found, position = [], self.buckets.get("position")
        for bucket in np.flatnonzero(np.isfinite(edges[1:]))[::-1].tolist():
            drawn = images[bucket] >= 0
            places = [] if position is None else position[unit, bucket][drawn].tolist()
            found.append(
                Level(
                    low=float(edges[bucket]),
                    high=float(edges[bucket + 1]),
                    count=int(counts[bucket]),
                    concepts=concepts[bucket].tolist(),
                    images=images[bucket][drawn].tolist(),
                    values=values[bucket][drawn].tolist(),
                    positions=places,
                )
            )
        return found


@dataclass(frozen=True)
class Level:
    """A range of a unit's activations, [low, high): how many images were in it, and some drawn at random.

    With the reduction `token` it is tokens that are counted and drawn, and an image may come several times.
    """

    low: float
    high: float
    count: int
    concepts: list[int]  # how many images are of each concept that the atlas was mined with
    images: list[int]  # numbers of the images drawn, in the order of the draw: any first few are a draw, too
    values: list[float]
    positions: list[int] = field(default_factory=list)  # which tokens they are; empty for other reductions


@dataclass(frozen=True)
class Exemplar:
    """An image that excites a unit, and the place in the unit's map where it does so most."""

    image: int  # its number in the atlas
    key: str
    value: float  # the activation there
    position: int  # row * grid width + column; -1 where the reduction has no place
    row: int | None
    column: int | None
    grid: tuple[int, int] | None  # (height, width) of the map
    captions: tuple[str, ...]
    labels: dict[str, str]
    width: int  # of the original image, pixels
    height: int

    @classmethod
    def of(cls, image: ImageRow, value: float, position: int, grid: tuple[int, int] | None) -> Exemplar:
        """An image of the atlas, with the activation and its place in a map of this grid, -1 for none."""
        placed = grid is not None and position >= 0
        row, column = divmod(position, grid[1]) if grid is not None and placed else (None, None)
        return cls(
            image=image.index,
            key=image.key,
            value=value,
            position=position,
            row=row,
            column=column,
            grid=grid,
            captions=image.captions,
            labels=image.labels,
            width=image.width,
            height=image.height,
        )

    def box(self) -> Box | None:
        """The map cell as (x0, y0, x1, y1) in fractions of what the model saw; None without a place.

        The cell is the share of the view that the map's grid gives it, not the unit's receptive field.
        """
        if self.row is None or self.column is None or self.grid is None:
            return None
        rows, columns = self.grid
        return self.column / columns, self.row / rows, (self.column + 1) / columns, (self.row + 1) / rows

    def box_in_image(self, image_size: Sequence[int], resize_mode: str = "shortest") -> Box | None:
        """The map cell in fractions of the original image (and so of its thumbnail); None without a place."""
        box = self.box()
        if box is None:
            return None
        return view_to_image(box, (self.width, self.height), image_size, resize_mode)


@dataclass(frozen=True)
class Unit:
    """One unit's page: its exemplars, the distribution of its activations, its pictures."""

    site: str
    index: int
    name: str
    exemplars: list[Exemplar]
    mean: float
    sd: float
    min: float
    max: float
    count: int
    histogram: np.ndarray  # [bins]
    edges: np.ndarray  # [bins + 1]
    pictures: list[PictureRow] = field(default_factory=list)


def view_to_image(
    box: Box, image: tuple[int, int], image_size: Sequence[int], resize_mode: str = "shortest"
) -> Box:
    """A rectangle in fractions of the model's view, in fractions of the original image.

    image: (width, height) of the original; image_size: (height, width) of the model's input. The view is the
    centre crop of the image scaled so that it just covers the input (`shortest`), the image padded to fit
    into it (`longest`), or the image stretched to it (`squash`). Cut to the image; exact but for the rounding
    to whole pixels.
    """
    if resize_mode == "squash":
        return box
    if resize_mode not in ("shortest", "longest"):
        raise AtlasError(f"resize mode {resize_mode!r} is not one of shortest, longest, squash")
    scales = image[0] / image_size[1], image[1] / image_size[0]
    scale = min(scales) if resize_mode == "shortest" else max(scales)
    # How much of the image, as a fraction of it, the view spans along each axis; it shares the image's
    # centre.
    spans = scale * image_size[1] / image[0], scale * image_size[0] / image[1]
    x0, y0, x1, y1 = (0.5 + (value - 0.5) * spans[i % 2] for i, value in enumerate(box))
    return max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0)


def write_site_arrays(
    folder: str | Path,
    units: int,
    exemplars: Mapping[str, np.ndarray],
    statistics: Mapping[str, np.ndarray],
    embedding: np.ndarray | None = None,
    others: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> dict[str, int]:
    """Write a site's array files, shapes and types checked; returns {"k", "bins", "embedding_dim"}.

    others: arrays of the files that an atlas may lack, by their names in SiteArrays.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    sizes = {"units": units}
    files: list[tuple[str, Mapping[str, np.ndarray]]] = [
        ("exemplars.npz", exemplars),
        ("statistics.npz", statistics),
    ]
    if embedding is not None:
        files.append(("embeddings.npz", {"embedding": embedding}))
    files += [(f"{name}.npz", arrays) for name, arrays in (others or {}).items()]
    for name in _FILES.keys() - dict(files).keys():
        (path / name).unlink(missing_ok=True)
    for name, arrays in files:
        write_npz(path / name, **_checked(name, arrays, sizes))
    return {"k": sizes["k"], "bins": sizes["bins"], "embedding_dim": sizes.get("dim", 0)}


def read_site_arrays(folder: Path, units: int, has_embedding: bool) -> dict[str, Any]:
    """The arrays of a site by name, mapped and checked; `embedding` is None where there is none."""
    sizes = {"units": units}
    arrays: dict[str, Any] = {"embedding": None}
    try:
        for name in ["exemplars.npz", "statistics.npz"] + ["embeddings.npz"] * has_embedding:
            arrays |= _checked(name, read_npz(folder / name), sizes)
        for part in _OPTIONAL:
            if (folder / f"{part}.npz").exists():
                arrays[part] = _checked(f"{part}.npz", read_npz(folder / f"{part}.npz"), sizes)
    except AtlasError as error:
        raise AtlasError(f"{folder}: {error}") from error
    return arrays


def _checked(file: str, arrays: Mapping[str, np.ndarray], sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """The arrays that the file needs, in their stored types; fills in `sizes` as shapes tell them."""
    more = [array for array in _PLACES.get(file, ()) if array[0] in arrays]
    expected = [*_FILES[file], *more]
    names = [name for name, _, _ in expected]
    if sorted(arrays) != sorted(names):
        raise AtlasError(f"{file} needs the arrays {', '.join(names)}, not {', '.join(sorted(arrays))}")
    result = {}
    for name, dtype, axes in expected:
        array = np.asarray(arrays[name])
        wanted = tuple(
            sizes.setdefault(axis.removesuffix("+1"), array.shape[i] - more if i < array.ndim else -1) + more
            for i, (axis, more) in enumerate((axis, axis.endswith("+1")) for axis in axes)
        )
        if array.shape != wanted or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise AtlasError(
                f"{file}: {name} is {array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of {wanted}"
            )
        result[name] = array.astype(dtype, copy=False)
    return result
