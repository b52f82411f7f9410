"""Collectives on real topologies: library, bounds, synthesis, verification, export."""
