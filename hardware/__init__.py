"""Devices: the catalogue, this machine, and its measured ceilings."""
