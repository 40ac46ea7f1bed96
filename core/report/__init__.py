"""Runs as one HTML file that opens anywhere, without a network and without Roofscope."""
