"""Imported by the process from which workers are forked (tests.support.preloaded): loads what PyTorch's workers do."""

from core import engine
from core.worker import transform, worker

__all__ = ["transform", "worker"]

engine.hide_besides()
engine.import_ahead("pytorch")()
