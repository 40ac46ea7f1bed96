"""What makes a model from a model: one plugin per file."""
