"""How sure are we: measured runs, predictions for them, and constants fitted to them."""
