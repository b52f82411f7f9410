"""Synthesis of all-gather, reduce-scatter, broadcast and reduce."""

from dse.collective.gather.reverse import reversed_schedule
from dse.collective.gather.synthesis import all_gather, broadcast, reduce, reduce_scatter

__all__ = ["all_gather", "broadcast", "reduce", "reduce_scatter", "reversed_schedule"]
