"""Pure functions over numbers: no I/O, no model library."""
