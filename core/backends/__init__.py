"""What runs a model: one file per library, all behind core.types.Session."""
