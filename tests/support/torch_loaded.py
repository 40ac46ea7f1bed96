"""Imported by the process from which workers are forked (tests.support.preloaded): loads what PyTorch's workers do."""

import gc

from core import engine
from core.backends import fake
from core.worker import transform, worker

__all__ = ["fake", "transform", "worker"]

engine.hide_besides()
engine.import_ahead("pytorch")()
gc.collect()
gc.freeze()  # a fork's own collections pass over all this
