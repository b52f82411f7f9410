"""Traces of other tools turned into Chakra traces: PyTorch's observer and profiler, text workloads of ASTRA-sim 1.0."""

from dse.trace.convert.pytorch import pytorch
from dse.trace.convert.text import text

__all__ = ["pytorch", "text"]
