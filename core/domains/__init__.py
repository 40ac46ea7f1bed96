"""Questions with checkable answers: generated, shipped, or the user's own. Standard library only."""
