"""Which designs: axes, enumeration and legality rules."""
