"""The community benchmark: rows that carry their machine's own ceilings, their checks, a board, and their upload."""
