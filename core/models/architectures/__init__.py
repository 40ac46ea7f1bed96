"""One file per family of architectures: a configuration in, a network out.

A family's file has `DEFAULTS`: the model_types it builds, each with the values that transformers
assumes for absent fields, and `build(config) -> Network`. A family without a file is built from the modules that
transformers makes of its configuration (`from_modules`), or from a file's tensors (`from_tensors`); both list leaves,
which `generic` puts in order.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

from core.models.config import Config
from core.models.network import Network
from hardware.errors import ExplorerError


@cache
def _families() -> dict[str, ModuleType]:
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return {model_type: m for m in modules for model_type in getattr(m, "DEFAULTS", {})}


def model_types() -> tuple[str, ...]:
    """Every model_type that can be built, sorted."""
    return tuple(sorted(_families()))


def build(values: Mapping[str, Any]) -> tuple[Config, Network]:
    """The configuration with its defaults, and the network it describes."""
    model_type = values.get("model_type")
    if not model_type:
        raise ExplorerError(
            "The configuration has no 'model_type', so its architecture is unknown.",
            f"Add one of: {', '.join(model_types())}.",
        )
    family = _families().get(str(model_type))
    if family is None:
        near = difflib.get_close_matches(str(model_type).strip().lower(), model_types(), n=2, cutoff=0.8)
        known = "Choose a model that transformers knows, or a folder with weights, whose tensors tell its layers."
        raise ExplorerError(
            f"The architecture '{model_type}' is not known here, nor to transformers where that is installed.",
            f"Did you mean {' or '.join(near)}? Correct 'model_type' in config.json." if near else known,
        )
    config = Config(values, family.DEFAULTS[model_type])
    network: Network = family.build(config)
    return config, network
