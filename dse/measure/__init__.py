"""Microbenchmarks of the device at hand: ``cases → timings → journal → tables → constants``.

PyTorch is an optional extra, imported only when a measurement runs; tables are read and fitted without it.
"""

from __future__ import annotations

from dse.measure.calibrate import fit
from dse.measure.tables import load

__all__ = ["fit", "load"]
