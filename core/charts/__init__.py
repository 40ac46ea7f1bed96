"""Rows to charts. The only place that imports altair."""
