"""Advice with receipts: what a run's bottleneck suggests, what it should bring, and whether it did."""
