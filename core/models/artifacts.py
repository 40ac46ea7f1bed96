"""Files that a backend needs and a model does not have: derived once, kept in the cache, found again.

An artifact is a folder named by the hash of what it was made from, by which version of which
conversion. It is built beside its final place and appears there complete, by one rename, or not at
all. Knows the routes (gguf -> hf -> onnx, config -> hf -> onnx); the conversions themselves are in
gguf_to_hf, random_weights and onnx_export. Runs in the worker.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from core.errors import ExplorerError
from core.models import formats, gguf_file
from core.paths import cache_dir
from core.types import ModelEntry, Progress

Build = Callable[[Path, Progress], None]  # writes into an empty folder

_BLOCK = 1 << 20
_N_BLOCKS = 128  # a file of at most 128 MB is hashed whole
_MARKER = "artifact.json"


def folder() -> Path:
    """Where the artifacts are. Each may be deleted while no run uses it."""
    return cache_dir() / "artifacts"


def provide(entry: ModelEntry, wanted: tuple[str, ...], progress: Progress) -> tuple[str, str]:
    """(format, path): the first of the `wanted` formats that the model has, or else can be derived into.

    "config" comes back as a folder with config.json and tokenizer files. Raises ExplorerError when
    there is no route, when the source is damaged and when the disk is too small.
    """
    formats.check(entry.files)
    for kind in wanted:
        if kind == "config" and kind in entry.files:
            return kind, str(_config_folder(entry, progress))
        if kind in entry.files:
            return kind, entry.files[kind]
    for kind in wanted:
        if kind == "hf" and entry.files.keys() & {"gguf", "config"}:
            return kind, str(_hf(entry, progress))
        if kind == "onnx" and entry.files.keys() & {"hf", "gguf", "config"}:
            return kind, str(_onnx(entry, progress))
    raise ExplorerError(
        f"{entry.label} is there as {', '.join(entry.files)}, from which {' or '.join(wanted)} cannot be made.",
        "Choose another backend, or the model in another format.",
    )


# ---------------------------------------------------------------- the routes


def _hf(entry: ModelEntry, progress: Progress) -> Path:
    """The model as a Hugging Face folder, made from its GGUF or, with random weights, from its config.json."""
    if "hf" in entry.files:
        return Path(entry.files["hf"])
    if "gguf" in entry.files:
        from core.models import gguf_to_hf

        source = Path(entry.files["gguf"])
        key = _key("hf from gguf", gguf_to_hf.VERSION, *(_fingerprint(p) for p in gguf_file.parts(source)))
        return _made(
            key,
            entry,
            "a Hugging Face folder",
            progress,
            lambda: gguf_to_hf.output_bytes(source),
            lambda out, report: gguf_to_hf.convert(source, out, report),
        )
    from core.models import random_weights

    config = _config_folder(entry, progress)
    key = _key("hf from config", random_weights.VERSION, *_fingerprints(config))
    return _made(
        key,
        entry,
        "random weights",
        progress,
        lambda: random_weights.output_bytes(config),
        lambda out, report: random_weights.write(config, out, report),
    )


def _onnx(entry: ModelEntry, progress: Progress) -> Path:
    from core.models import onnx_export

    source = _hf(entry, progress)
    marker = source / _MARKER
    # an artifact is named by what it was made from: no need to read its weights again
    origin = (source.name,) if marker.is_file() else _fingerprints(source)
    key = _key("onnx from hf", getattr(onnx_export, "VERSION", 1), *origin)

    def build(out: Path, report: Progress) -> None:
        onnx_export.export(str(source), str(out), report)

    return _made(key, entry, "an ONNX export", progress, lambda: _fp32_bytes(source), build)


def _config_folder(entry: ModelEntry, progress: Progress) -> Path:
    """config.json with a tokenizer beside it: the model's own where it has one, else ids that are bytes."""
    from core.models import gguf_tokenizer

    given = Path(entry.files["config"])
    config = given / "config.json" if given.is_dir() else given
    own = [config.with_name(name) for name in _TOKENIZER if config.with_name(name).is_file()]
    has_tokenizer = any(f.name == "tokenizer.json" for f in own)

    def build(out: Path, report: Progress) -> None:
        numbers = formats.read_config(config)
        # without it transformers takes any tokenizer for a faulty old one and warns
        numbers.setdefault("transformers_version", version("transformers"))
        (out / "config.json").write_text(json.dumps(numbers, indent=2), encoding="utf-8")
        for file in own:
            shutil.copyfile(file, out / file.name)
        if not has_tokenizer:
            network = numbers.get("text_config") or numbers
            gguf_tokenizer.write_bytes(int(network.get("vocab_size") or 256), out)

    key = _key("config folder", 2, *(_fingerprint(f) for f in (config, *own)))
    return _made(key, entry, "a tokenizer", progress, lambda: 64 << 20, build)


_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def _fp32_bytes(source: Path) -> int:
    """Bytes of the folder's weights in fp32, and a little for the graph around them."""
    headers = [formats.safetensors_header(f) for f in source.glob("*.safetensors")]
    n = 0
    for header in headers:
        for tensor in header.values():
            size = 1
            for length in tensor["shape"]:
                size *= length
            n += size
    return n * 4 + (64 << 20)


# ---------------------------------------------------------------- names


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def _fingerprints(source: Path) -> tuple[str, ...]:
    """What a model folder is: its json files and its weights."""
    files = sorted(f for f in source.iterdir() if f.suffix in (".json", ".safetensors", ".jinja") and f.name != _MARKER)
    return tuple(f"{f.name} {_fingerprint(f)}" for f in files)


def _fingerprint(path: Path) -> str:
    stat = path.stat()
    return _hashed(os.path.realpath(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _hashed(path: str, size: int, mtime_ns: int) -> str:
    """Hash of a file's content; of a large file, of its size, its date and blocks spread evenly over it."""
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= _BLOCK * _N_BLOCKS:
            while chunk := file.read(_BLOCK):
                digest.update(chunk)
        else:
            digest.update(str(mtime_ns).encode())
            for i in range(_N_BLOCKS):
                file.seek((size - _BLOCK) * i // (_N_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


# ---------------------------------------------------------------- all or nothing


def _made(key: str, entry: ModelEntry, what: str, progress: Progress, n_bytes: Callable[[], int], build: Build) -> Path:
    """The artifact `key`, built when it is not there yet. One process builds, others wait for it."""
    final = folder() / key
    if (final / _MARKER).is_file():
        return final
    folder().mkdir(parents=True, exist_ok=True)
    with _lock(key, progress):
        if (final / _MARKER).is_file():
            return final
        _sweep(key)
        need, free = n_bytes(), shutil.disk_usage(folder()).free
        if need > free:
            raise _disk_full(what, entry, need, free)
        part = folder() / f"part-{key}-{uuid.uuid4().hex[:8]}"
        part.mkdir()
        try:
            build(part, progress)
            about = {"model": entry.id, "label": entry.label, "what": what, "files": entry.files}
            (part / _MARKER).write_text(json.dumps(about, indent=2), encoding="utf-8")
            _flush(part)
            shutil.rmtree(final, ignore_errors=True)  # without its marker it is only the rest of a deletion
            os.replace(part, final)
            _flush_folder(folder())
        except Exception as error:
            if _no_space(error):
                raise _disk_full(what, entry, need, shutil.disk_usage(folder()).free) from error
            raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return final


def _no_space(error: BaseException | None) -> bool:
    """Whether the disk is full, which the libraries written in Rust and C++ tell only in their message."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _disk_full(what: str, entry: ModelEntry, need: int, free: int) -> ExplorerError:
    return ExplorerError(
        f"The disk is too full to make {what} of {entry.label}: {need / 1e9:.2f} GB are needed and "
        f"{free / 1e9:.2f} GB are free.",
        f"Free space in {folder()}, or set ROOFSCOPE_HOME to a folder on a larger disk.",
    )


@contextmanager
def _lock(key: str, progress: Progress) -> Iterator[None]:
    lock = FileLock(folder() / f"{key}.lock")
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            progress("Waiting for another process that prepares the same model")
    try:
        yield
    finally:
        lock.release()


def _sweep(key: str) -> None:
    """Remove what a killed process left half-built: parts of `key`, whose lock we hold, and of unlocked keys."""
    for part in folder().glob("part-*"):
        owner = part.name.split("-")[1]
        if owner == key:
            shutil.rmtree(part, ignore_errors=True)
            continue
        try:
            with FileLock(folder() / f"{owner}.lock", timeout=0):
                shutil.rmtree(part, ignore_errors=True)
        except Timeout:
            pass


def _flush(part: Path) -> None:
    """Force the files to disk, so that after a power cut the rename never shows an empty artifact."""
    for file in part.rglob("*"):
        if file.is_file():
            with file.open("rb") as f:
                os.fsync(f.fileno())
    _flush_folder(part)


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
