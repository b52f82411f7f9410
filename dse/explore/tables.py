"""Which quantities every table has, and which quantities are tables themselves."""

from __future__ import annotations

# Quantities of every table, in order.
HEADLINES = (
    "step_time",
    "tokens_per_s",
    "mfu",
    "hfu",
    "memory_bytes",
    "energy",
    "power",
    "cost",
    "carbon",
    "tokens_per_dollar",
    "tokens_per_joule",
)
TABLES = {
    "time": "breakdown",
    "memory": "memory_breakdown",
    "tier": "tier_bytes",
    "energy": "energy_breakdown",
    "cost": "cost_breakdown",
}
ON_REQUEST = {"goodput": "goodput_shares", "tco": "tco_breakdown"}  # breakdowns that no table has unless asked for
ALL_TABLES = {**TABLES, **ON_REQUEST}
