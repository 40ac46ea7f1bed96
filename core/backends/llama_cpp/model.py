"""Loads a GGUF file, and turns llama.cpp's refusals into sentences. It knows nothing of contexts."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any

from core.backends.llama_cpp.log import listen
from core.backends.llama_cpp.options import Options, model_params
from core.types import Progress
from hardware.errors import ExplorerError


def load(path: Path, options: Options, progress: Progress) -> Any:
    """A llama_model, to be freed with llama_model_free. Raises ExplorerError.

    Nothing is checked twice: llama.cpp makes sure that every tensor lies inside the file before it
    reads one, so a truncated file is refused and never crashes the process.
    """
    import llama_cpp

    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ExplorerError(f"{path.name} cannot be read: {error.strerror}.", "Check the path.") from None
    if magic != b"GGUF":
        raise ExplorerError(f"{path.name} is not a GGUF file.", "Choose a .gguf file, or another backend.")

    n_bytes = path.stat().st_size
    raised: list[BaseException] = []

    def tell(fraction: float, _: Any) -> bool:
        try:
            progress(f"Loading {path.name}", round(fraction * n_bytes), n_bytes, "bytes")
        except BaseException as error:  # it must not run through C: a cancelled run is raised below
            raised.append(error)
        return not raised

    log = listen()
    log.clear()
    params = model_params(options)
    params.progress_callback = llama_cpp.llama_progress_callback(tell)
    files = [os.fsencode(file) for file in _parts(path)]
    if len(files) > 1:
        model = llama_cpp.llama_model_load_from_splits((ctypes.c_char_p * len(files))(*files), len(files), params)
    else:
        model = llama_cpp.llama_model_load_from_file(files[0], params)
    if raised:
        if model:
            llama_cpp.llama_model_free(model)
        raise raised[0]
    if not model:
        raise refusal(path.name, log.errors())
    return model


def _parts(path: Path) -> list[Path]:
    """All parts of a split model whose names are in capitals, which llama.cpp does not find itself; else the file."""
    match = re.match(r"(.+)-\d{5}(-of-)(\d{5})(\.gguf)$", path.name, re.IGNORECASE)
    if match is None or match[2] + match[4] == "-of-.gguf":
        return [path]
    stem, of, n, ending = match.groups()
    return [path.with_name(f"{stem}-{i:05d}{of}{n}{ending}") for i in range(1, int(n) + 1)]


def refusal(name: str, errors: str) -> ExplorerError:
    if found := re.search(r"unknown model architecture: '([^']*)'", errors):
        return ExplorerError(
            f"This llama.cpp does not know the architecture '{found[1]}'.", "Choose another backend or another model."
        )
    if "within the file bounds" in errors or "failed to read" in errors:
        return ExplorerError(f"{name} is truncated or damaged.", "Download or copy the file again.")
    if found := re.search(r"key (\S+) has wrong type (\w+) but expected type (\w+)", errors):
        return ExplorerError(
            f"{name} stores '{found[1]}' as {found[2]}, and llama.cpp reads it only as {found[3]}.",
            "Choose another conversion of the model, or another backend.",
        )
    if found := re.search(r"wrong number of tensors; expected (\d+), got (\d+)", errors):
        return ExplorerError(
            f"{name} holds {found[1]} tensors, of which this llama.cpp reads {found[2]}.",
            "What is not text (vision, audio) must be in a file of its own; PyTorch reads the text model alone.",
        )
    return ExplorerError(
        f"llama.cpp could not load {name}: {errors or 'it gave no reason'}.", "Check the file, or try another backend."
    )
