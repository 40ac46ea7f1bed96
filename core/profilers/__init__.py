"""What is attached to a run in a pass of its own."""
