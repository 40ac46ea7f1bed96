"""Roofscope's engine: everything but the pages. `python -m core` runs it without them."""
