"""Chakra execution traces: read, write, convert, generate, inspect, synthesize."""
