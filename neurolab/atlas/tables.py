"""The tables `units` and `exemplars` across all sites: made of the arrays each time that they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from neurolab.atlas.arrays import SiteArrays
from neurolab.atlas.distribution import selectivity, share_below, skewness

if TYPE_CHECKING:
    from neurolab.atlas.atlas import Atlas

ROWS_AT_ONCE = 1 << 16
_NAME = pa.dictionary(pa.int32(), pa.string())  # of a site or unit: the same for many rows
UNITS = pa.schema(
    [
        ("unit", pa.string()),
        ("site", _NAME),
        ("short", _NAME),
        ("index", pa.int32()),
        ("count", pa.int64()),
        ("mean", pa.float64()),
        ("sd", pa.float64()),
        ("min", pa.float32()),
        ("max", pa.float32()),
        ("positive", pa.float64()),
        ("skew", pa.float64()),
        ("selectivity", pa.float64()),
        ("exemplars", pa.int32()),
        ("top", pa.float32()),
        ("pictures", pa.int32()),
    ]
)
EXEMPLARS = pa.schema(
    [
        ("unit", _NAME),
        ("site", _NAME),
        ("index", pa.int32()),
        ("rank", pa.int32()),
        ("image", pa.int64()),
        ("key", pa.string()),
        ("value", pa.float32()),
        ("position", pa.int32()),
        ("row", pa.int32()),
        ("column", pa.int32()),
    ]
)


@dataclass(frozen=True)
class MadeTable:
    """A table that lies in no file: its batches are made anew for every reader, and none is kept.

    DuckDB and pyarrow read it by Arrow's C stream interface.
    """

    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]

    def reader(self) -> pa.RecordBatchReader:
        """A reader of the batches from the first."""
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())

    def decoded(self) -> MadeTable:
        """The same rows with texts as they are, where they are numbers of a dictionary's entries here."""
        fields = [
            pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type, f.nullable)
            for f in self.schema
        ]
        schema = pa.schema(fields, self.schema.metadata)
        return MadeTable(schema, lambda: (batch.cast(schema) for batch in self.batches()))

    def __arrow_c_schema__(self) -> Any:
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.reader().__arrow_c_stream__(requested_schema)


def made_tables(atlas: Atlas) -> dict[str, MadeTable]:
    """The tables that SQL finds beside the Parquet files, by name."""
    return {"units": units_table(atlas), "exemplars": exemplars_table(atlas)}


def units_table(atlas: Atlas, sites: Sequence[str] | None = None) -> MadeTable:
    """One row per unit, by site and number.

    unit ("SITE/89"), site, short (name of the site), index; count, mean, sd, min, max of its activations;
    positive: the share of images with an activation above 0, and skew, both from the histogram; selectivity
    (`neurolab.atlas.distribution`); exemplars: how many, top: the strongest's value; pictures: how many.
    What has no value (of a unit that never varies, or saw no image) is null. sites: default, all.
    """

    def batches() -> Iterator[pa.RecordBatch]:
        pictures = _count_pictures(atlas.path)
        for name in atlas.sites if sites is None else sites:
            yield _units_batch(atlas.site(name), pictures)

    return MadeTable(UNITS, batches)


def exemplars_table(
    atlas: Atlas, sites: Sequence[str] | None = None, top: int | None = None, rows: int = ROWS_AT_ONCE
) -> MadeTable:
    """One row per unit and exemplar, by site, unit and rank.

    unit, site, index; rank: from 1, the strongest; image: its number, key; value: the activation; position,
    row, column: the place of the maximum in the map, null where there is none. sites: default, all; top: only
    so many of each unit; rows: about how many a batch has.
    """

    def batches() -> Iterator[pa.RecordBatch]:
        for name in atlas.sites if sites is None else sites:
            site = atlas.site(name)
            step = max(1, rows // max(site.k if top is None else min(top, site.k), 1))
            for start in range(0, site.units, step):
                yield _exemplars_batch(atlas, site, range(start, min(start + step, site.units)), top)

    return MadeTable(EXEMPLARS, batches)


def _units_batch(site: SiteArrays, pictures: Mapping[str, int]) -> pa.RecordBatch:
    units = np.arange(site.units)
    names = [site.unit_name(unit) for unit in range(site.units)]
    columns: dict[str, Any] = {
        "unit": names,
        "site": _same(site.name, site.units),
        "short": _same(site.short, site.units),
        "index": units,
        "count": site.count,
        "mean": site.mean,
        "sd": site.sd,
        "min": site.min,
        "max": site.max,
        "positive": 1.0 - share_below(site, 0.0, units),
        "skew": skewness(site, units),
        "selectivity": selectivity(site),
        "exemplars": (site.images >= 0).sum(axis=1),
        "top": np.where(site.images[:, 0] >= 0, site.values[:, 0], np.nan),
        "pictures": [pictures.get(name, 0) for name in names],
    }
    return _batch(columns, UNITS)


def _exemplars_batch(atlas: Atlas, site: SiteArrays, units: range, top: int | None) -> pa.RecordBatch:
    some = slice(units.start, units.stop)
    images = site.images[some, :top]
    chosen = images >= 0
    unit, rank = (index.astype(np.int32) for index in np.nonzero(chosen))
    position = site.position[some, :top][chosen]
    row, column = _places(position, site.grid)
    names = pa.array([site.unit_name(unit) for unit in units], pa.string())
    columns: dict[str, Any] = {
        "unit": pa.DictionaryArray.from_arrays(pa.array(unit), names),
        "site": _same(site.name, len(unit)),
        "index": unit + np.int32(units.start),
        "rank": rank + np.int32(1),
        "image": images[chosen],
        "key": atlas.image_table(images[chosen], ["key"]).column("key").combine_chunks(),
        "value": site.values[some, :top][chosen],
        "position": pa.array(position, mask=position < 0),
        "row": row,
        "column": column,
    }
    return _batch(columns, EXEMPLARS)


def _places(position: NDArray[np.int32], grid: tuple[int, int] | None) -> tuple[pa.Array, pa.Array]:
    """Rows and columns of positions, null where there is no place."""
    nowhere = position < 0 if grid is not None else np.ones(len(position), bool)
    row, column = np.divmod(position, np.int32(grid[1] if grid is not None else 1))
    return pa.array(row, mask=nowhere), pa.array(column, mask=nowhere)


def _batch(columns: Mapping[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        value = columns[field.name]
        if isinstance(value, np.ndarray):
            value = pa.array(value.astype(field.type.to_pandas_dtype(), copy=False), from_pandas=True)
        arrays.append(value if isinstance(value, pa.Array) else pa.array(value, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _same(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text], pa.string()))


def _count_pictures(folder: Path) -> dict[str, int]:
    path = folder / "pictures.parquet"
    if not path.exists():
        return {}
    counts = pq.read_table(path, columns=["unit"]).column("unit").value_counts()
    return {row["values"]: row["counts"] for row in counts.to_pylist()}
