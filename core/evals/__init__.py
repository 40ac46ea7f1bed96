"""Measurements of quality: one plugin per file."""
