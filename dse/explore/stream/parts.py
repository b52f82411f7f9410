"""One part of the table: evaluated tile by tile and encoded as the bytes of a Parquet file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.explore.stream.columns import MASK, coordinates, failed_rules, header, reasons_text

if TYPE_CHECKING:
    import pyarrow as pa

    from dse.explore.stream.plan import Plan, Tile


def schema(plan: Plan, part: int = 0) -> pa.Schema:
    """Columns of the table: axes, quantities, ``feasible`` and ``reasons``; the metadata names the sweep and part."""
    import pyarrow as pa

    fields = [pa.field(header(b.name, b.unit), _axis_type(coordinates(b)), nullable=False) for b in plan.axes]
    fields += [pa.field(c.header, pa.float64(), nullable=False) for c in plan.columns]
    fields += [
        pa.field("feasible", pa.bool_(), nullable=False),
        pa.field("reasons", pa.dictionary(pa.int32(), pa.string()), nullable=False),
    ]
    return pa.schema(fields, metadata={"dse.sweep": plan.id, "dse.part": str(part)})


def part_bytes(plan: Plan, part: int, after_tile: Callable[[int], None] | None = None) -> bytes:
    """Evaluate a part: the same bytes wherever and whenever it is done with the same versions on the same kind of CPU.

    Args:
        plan: the sweep.
        part: number of the part.
        after_tile: called with the rows of each tile when it is encoded.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink, layout = pa.BufferOutputStream(), schema(plan, part)
    encoded = [field.name for field in layout if pa.types.is_dictionary(field.type)]
    # Values of neighbouring designs repeat, which zstd finds at about the speed of plain writing.
    options: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": encoded}
    with pq.ParquetWriter(sink, layout, **options) as writer:
        for number in plan.tiles_of(part):
            table = tile_table(plan, plan.tile(number), layout)
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
            if after_tile is not None:
                after_tile(table.num_rows)
    return sink.getvalue().to_pybytes()


def tile_table(plan: Plan, tile: Tile, layout: pa.Schema) -> pa.Table:
    """The rows of a tile, in the order of the axes, the last fastest."""
    import pyarrow as pa

    lengths = tuple(part.stop - part.start for part in tile)
    arrays = [_axis_array(plan, tile, lengths, position) for position in range(len(tile))]
    values = [np.empty(lengths) for _ in plan.columns]
    mask = np.empty(lengths, MASK)
    for place, evaluation in plan.evaluations(tile):
        for column, into in zip(plan.columns, values, strict=True):
            into[place] = column.of(evaluation)
        mask[place] = failed_rules(evaluation)
    arrays += [pa.array(value.ravel()) for value in values]
    arrays += [pa.array((mask == 0).ravel()), _reasons(mask.ravel())]
    return pa.Table.from_arrays(arrays, schema=layout)


def _axis_type(values: np.ndarray) -> pa.DataType:
    import pyarrow as pa

    types = {"b": pa.bool_(), "i": pa.int64(), "f": pa.float64()}
    kind = types.get(values.dtype.kind, pa.string())
    return kind if kind == pa.bool_() else pa.dictionary(pa.int32(), kind)


def _axis_array(plan: Plan, tile: Tile, lengths: tuple[int, ...], position: int) -> pa.Array:
    """An axis' values on every row of a tile, as places in the list of those that occur in it."""
    import pyarrow as pa

    values = coordinates(plan.axes[position])[tile[position]]
    along = [-1 if p == position else 1 for p in range(len(lengths))]
    if values.dtype.kind == "b":
        return pa.array(np.broadcast_to(values.reshape(along), lengths).ravel())
    places = np.broadcast_to(np.arange(len(values), dtype=np.int32).reshape(along), lengths).ravel()
    return pa.DictionaryArray.from_arrays(pa.array(places), pa.array(values), safe=False)


def _reasons(mask: np.ndarray) -> pa.Array:
    import pyarrow as pa

    found = pa.array(mask).dictionary_encode()
    texts = pa.array([reasons_text(value) for value in found.dictionary.to_pylist()], pa.string())
    return pa.DictionaryArray.from_arrays(found.indices, texts, safe=False)
