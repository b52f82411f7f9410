"""What a sweep would take: a few tiles are evaluated and encoded, and the rest is reckoned from them."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dse.explore.stream.parts import schema, tile_table
from dse.explore.stream.plan import Plan

SAMPLES = 4


@dataclass(frozen=True)
class Forecast:
    """Rows, parts, time and disk of a sweep before it starts.

    Attributes:
        rows: designs.
        parts: files.
        core_seconds: of one core of this machine.
        bytes: on disk.
        free: bytes free where the table would go.
    """

    rows: int
    parts: int
    core_seconds: float
    bytes: float
    free: int

    def seconds(self, cores: int) -> float:
        """Elapsed time on some cores like this machine's, each kept busy."""
        return self.core_seconds / max(min(cores, self.parts), 1)


def forecast(plan: Plan, folder: Path) -> Forecast:
    """Evaluate and encode tiles from all over the space, writing nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    layout = schema(plan)
    encoded = [field.name for field in layout if pa.types.is_dictionary(field.type)]
    numbers = np.unique(np.linspace(0, plan.tiles - 1, SAMPLES).round().astype(np.int64)).tolist()
    tile_table(plan, plan.tile(numbers[0]), layout)  # the first evaluation also imports and reads files
    rows, size, start = 0, 0, time.perf_counter()
    for number in numbers:
        table, sink = tile_table(plan, plan.tile(number), layout), pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", compression_level=1, use_dictionary=encoded)
        rows, size = rows + table.num_rows, size + sink.getvalue().size
    each = (time.perf_counter() - start) / rows
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return Forecast(plan.rows, plan.parts, each * plan.rows, size / rows * plan.rows, shutil.disk_usage(place).free)
