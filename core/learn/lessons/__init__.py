"""The lessons: one file each, which exposes `lesson`."""
