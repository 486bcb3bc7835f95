"""Tables in plain form: rows for JSON, columns for CSV, with what neither knows written as text."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from neurolab.atlas.writing import atomic_path


def json_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as JSON knows them: maps are objects, bytes base64, NaN and infinities null, dates text."""
    columns = [(field, table.column(i).to_pylist()) for i, field in enumerate(table.schema)]
    return [
        {field.name: json_value(values[row], field.type) for field, values in columns}
        for row in range(table.num_rows)
    ]


def json_value(value: Any, kind: pa.DataType) -> Any:
    """A value of an Arrow type, as JSON knows it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if pa.types.is_map(kind):
        return {str(key): json_value(item, kind.item_type) for key, item in value}
    if isinstance(value, Mapping):
        return {name: json_value(item, kind.field(name).type) for name, item in value.items()}
    if isinstance(value, list):
        return [json_value(item, kind.value_type) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def flat_schema(schema: pa.Schema) -> pa.Schema:
    """The columns as CSV can hold them: numbers, texts and dates as they are, anything else as text."""
    fields = []
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        kind = pa.float32() if pa.types.is_float16(kind) else kind
        fields.append(pa.field(field.name, kind if _is_flat(kind) else pa.string()))
    return pa.schema(fields)


def flatten(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with the columns of `flat_schema`; lists, maps and structs are JSON, bytes base64."""
    schema = flat_schema(batch.schema)
    arrays = []
    for column, field in zip(batch.columns, schema, strict=True):
        if column.type.equals(field.type):
            arrays.append(column)
        elif _is_flat(column.type) or pa.types.is_dictionary(column.type):
            arrays.append(column.cast(field.type))
        else:
            arrays.append(pa.array([_text(value, column.type) for value in column.to_pylist()], pa.string()))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def write_csv(path: str | Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write rows to a CSV file, atomically and a batch at a time: UTF-8, a header, texts in quotes.

    Python's csv module reads every text as it was, line breaks, quotes and NUL included. Null is an empty
    field without quotes.
    """
    flat = flat_schema(schema)
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as file,
        pyarrow.csv.CSVWriter(file, flat) as writer,
    ):
        for batch in batches:
            writer.write_batch(flatten(batch))


def _is_flat(kind: pa.DataType) -> bool:
    known = pa.types
    return (
        known.is_integer(kind)
        or known.is_floating(kind)
        or known.is_boolean(kind)
        or known.is_string(kind)
        or known.is_large_string(kind)
        or known.is_date(kind)
        or known.is_time(kind)
        or known.is_timestamp(kind)
        or known.is_decimal(kind)
    )


def _text(value: Any, kind: pa.DataType) -> str | None:
    plain = json_value(value, kind)
    return plain if plain is None or isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
