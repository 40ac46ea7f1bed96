"""Studies: many runs under one plan, resumable, with one report at the end."""
