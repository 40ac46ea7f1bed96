"""Ways to decode: one short generator per file over Session.forward and commit."""
