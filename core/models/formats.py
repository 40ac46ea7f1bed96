"""What a file or folder on disk is: GGUF, Hugging Face folder, ONNX export, configuration; or why it is none.

A Hugging Face folder whose matrices are integers of our own ("torch-int") is a format by itself: only the
PyTorch backend reads it.

`files_of` looks at names and first bytes only, quick enough for listing. `check` reads headers and
finds damage. Standard library only: the app's process calls both. Refused here: pickle checkpoints,
which can run code when they are loaded, and models that need code of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.models import gguf_file, other_names, safetensors_file, weight_files
from core.models.defaults import nested
from hardware.errors import ExplorerError

BESIDE = (".json", ".jinja", ".txt", ".model", ".tiktoken")  # endings of configuration and tokenizer
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_OF_TRAINING = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")  # pickles that are no weights
_WANTED = "Choose a GGUF file, a folder with config.json and safetensors, or a config.json."
_MEND = "Download the model again, or mend the link."
_OTHERS = {  # what other programs keep weights in -> whose form it is
    ".distcp": "torch.distributed", ".engine": "TensorRT", ".h5": "TensorFlow", ".keras": "Keras",
    ".litertlm": "LiteRT-LM", ".llamafile": "llamafile", ".mlmodel": "Core ML", ".mlpackage": "Core ML",
    ".msgpack": "Flax", ".nemo": "NeMo", ".npz": "NumPy", ".ot": "Rust", ".pte": "ExecuTorch", ".rkllm": "RKLLM",
    ".task": "MediaPipe", ".tflite": "TensorFlow Lite",
}  # fmt: skip
_DRIVE = re.compile(r"([A-Za-z]):[\\/](.*)", re.DOTALL)  # C:\Users\me
_SHARE = re.compile(r"[\\/]{2}wsl(?:\$|\.localhost)[\\/][^\\/]+([\\/].*)", re.DOTALL | re.IGNORECASE)  # of WSL itself
_QUOTES = ('""', "''", "``", "“”", "‘’")
_UNSEEN = "\u200b\u200e\u200f\u202a\u202c\u2060\ufeff"  # what Windows and web pages put around a copied path
_GENAI = "genai_config.json"
_MOST_INSIDE = 100  # folders in one without a model that are looked into


def files_of(path: Path) -> dict[str, str]:
    """Format -> path for a file or folder that holds one model. Raises ExplorerError with the reason."""
    path = place_of(str(path))
    try:
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _file(path)
    except OSError as error:
        if not is_there(path):
            raise ExplorerError(f"There is no file or folder {_short(str(path))}.", "Check the path.") from error
        raise ExplorerError(f"{path} cannot be read ({error.strerror}).", "Check its permissions.") from error
    if is_there(path):
        raise ExplorerError(f"{_short(str(path))} is neither a file nor a folder.", _WANTED)
    if os.path.islink(path):
        raise ExplorerError(f"{_short(path.name)} is a link that leads nowhere.", _MEND)
    raise ExplorerError(f"There is no file or folder {_short(str(path))}.", "Check the path.")


class OnlyConfigError(ExplorerError):
    """A folder has a configuration and no weights."""


def bare_config(folder: Path) -> Path | None:
    """The config.json of a folder that holds nothing else of a model, nor has one inside; None for other folders."""
    try:
        files_of(folder)
    except OnlyConfigError:
        return folder / "config.json"
    except ExplorerError:
        pass
    return None


def place_of(text: str) -> Path:
    """The path that a text means, whether or not anything is there. Raises ExplorerError when it can mean none."""
    check_name(text)
    if not text.strip():
        raise ExplorerError("No model, file or folder is named.", "Choose one of the list, or write its path.")
    try:
        found = Path(text if os.path.exists(text) else _unwrapped(text)).expanduser().absolute()
        return found.resolve() if ".." in found.parts else found
    except RuntimeError:
        raise ExplorerError(
            f"{_short(text)} begins with a user that is not known here.", "Write the whole path."
        ) from None


def is_path(text: str) -> bool:
    """Whether a text is meant as a path, by how it begins or ends."""
    found = _unwrapped(text)
    return found.startswith((".", "/", "~")) or found.lower().endswith((".gguf", ".json", ".safetensors", ".onnx"))


def _unwrapped(text: str) -> str:
    """A path as file managers and terminals copy it, without its quotes, its backslashes before spaces, or what makes
    it an address (file://); with the values of variables; one of Windows as WSL has it."""
    found = os.path.expandvars(text.strip().strip(_UNSEEN).strip())
    if len(found) > 2 and found[0] + found[-1] in _QUOTES:
        found = found[1:-1]
    if found.startswith("file://"):
        found = urllib.parse.unquote(found.removeprefix("file://").removeprefix("localhost"))
    if drive := _DRIVE.match(found):
        found = f"/mnt/{drive[1].lower()}/{drive[2]}".replace("\\", "/")
    elif share := _SHARE.match(found):
        found = share[1].replace("\\", "/")
    elif found.startswith(("/", "~")):
        found = re.sub(r"\\(.)", r"\1", found)
    return found if found.strip("/") else text


def check_name(text: str) -> None:
    """Raises ExplorerError for the name of a file or folder that is no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        raise ExplorerError(f"The name {_short(shown)} is no UTF-8.", "Rename the file or folder.") from None


def snapshot_of(repo: Path) -> Path | None:
    """The current snapshot of a repository in the Hugging Face cache (models--org--name); None for other folders."""
    if not repo.name.startswith("models--"):
        return None
    main = repo / "refs" / "main"
    current = main.read_text(encoding="utf-8", errors="replace").strip() if main.is_file() else ""
    there = list(repo.glob("snapshots/*/"))
    named = next((folder for folder in there if folder.name == current), None)
    return named or max(there, key=lambda folder: folder.stat().st_mtime, default=None)


def is_there(path: Path) -> bool:
    """Whether something is at this path; a name that no file system takes is nowhere."""
    return os.path.exists(path)


def _short(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:200]}..."


def ggufs(folder: Path) -> list[Path]:
    """The GGUF models directly in a folder, of each the first part that is there; vision projectors left out."""
    models: dict[Path, Path] = {}
    for file in sorted(folder.iterdir()):
        if gguf_file.is_model(file.name) and may_be_a_file(file):
            models.setdefault(gguf_file.parts(file)[0], file)
    return sorted(models.values())


def may_be_a_file(path: Path) -> bool:
    """Also a link that leads nowhere, or where nobody may look: who opens it says so."""
    try:
        return path.is_file() or (path.is_symlink() and not path.is_dir())
    except OSError:
        return True


def _file(path: Path) -> dict[str, str]:
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise _not_read(path)
    if suffix == ".json":
        _check_code(read_config(path))
        return {"config": str(path)}
    if suffix in (".safetensors", ".onnx"):
        return _folder(path.parent)
    if weight_files.is_pointer(path):
        raise weight_files.pointer(path)
    gguf_file.check_piece(path)
    if gguf_file.has_magic(path):
        gguf_file.check_kind(path)
        gguf_file.check_parts(path)
        gguf_file.check_name(path)
        return {"gguf": str(gguf_file.parts(path)[0])}
    if suffix in _OTHERS:
        raise _not_read(path)
    other = gguf_file.other_kind(path)
    kind = f"{'not a GGUF file' if suffix == '.gguf' else 'no model file'}{f' but {other}' if other else ''}"
    packed = other.endswith("archive")
    raise ExplorerError(f"{path.name} is {kind}.", "Unpack it, and choose what is in it." if packed else _WANTED)


def _folder(path: Path, look_inside: bool = True) -> dict[str, str]:
    """look_inside: where it holds no model, say which of its folders does."""
    if (snapshot := snapshot_of(path)) is not None:
        return _folder(snapshot)
    config = path / "config.json"
    files: dict[str, str] = {}
    if config.is_file():
        exported = (path / "model.onnx").is_file()
        if _has_weights(path, exported or bool(ggufs(path))):
            files["torch-int" if _is_torch_int(config) else "hf"] = str(path)
        if exported:
            files["onnx"] = str(path)
        if files:
            read_config(config)
            return files
    if found := ggufs(path):
        if len(found) > 1:
            names = ", ".join(f.name for f in found[:4])
            raise ExplorerError(f"The folder {path.name} holds {len(found)} models ({names}).", "Choose one file.")
        return _file(found[0])
    raise _no_model(path, look_inside)


def _no_model(path: Path, look_inside: bool) -> ExplorerError:
    """Why a folder holds none, in the order in which one reason explains another."""
    config = path / "config.json"
    if (path / weight_files.ADAPTER).is_file():
        return weight_files.adapter(path)
    there = sorted(path.iterdir())
    if odd := next((f for f in there if _is_in_capitals(f.name)), None):
        return ExplorerError(
            f"{odd.name} in {path.name} is not found by any library: they look for {odd.name.lower()}.",
            f"Rename it to {odd.name.lower()}.",
        )
    pickles = [f for f in there if f.suffix.lower() in PICKLES and not f.name.startswith(_OF_TRAINING)]
    if pickles:
        return _not_read(pickles[0])
    others = (f for f in there if f.suffix.lower() in _OTHERS)
    if foreign := next((f for f in others if f.suffix == ".mlpackage" or not f.is_dir()), None):
        return _not_read(foreign)
    if (path / _GENAI).is_file():
        return _of_another(f"The folder {path.name}", "ONNX Runtime GenAI")
    if weight_files.unfinished(path):
        return ExplorerError(
            f"The folder {path.name} holds no whole model: a download into it is not finished.",
            "Let the download end, or start it again.",
        )
    if config.is_file() and (exports := sorted((*path.glob("*.onnx"), *path.glob("onnx/*.onnx")))):
        return ExplorerError(
            f"The folder {path.name} has its weights as {exports[0].relative_to(path)}, and only a model.onnx beside "
            "config.json is read.",
            "Put config.json, the tokenizer's files and the export, called model.onnx, into one folder.",
        )
    folders = [f for f in there if f.is_dir() and not f.name.startswith(".")][:_MOST_INSIDE] if look_inside else []
    inside = sorted((len(f.name), f) for f in folders if _is_model(f))  # of checkpoints the last one last
    if config.is_file() and inside:
        return ExplorerError(
            f"The folder {path.name} has a config.json but no weights, and {inside[-1][1].name} in it has both.",
            f"Choose {inside[-1][1]}.",
        )
    if config.is_file():
        return OnlyConfigError(
            f"The folder {path.name} has a config.json but no weights.",
            "Choose the config.json itself to study the architecture with random weights.",
        )
    if config.is_symlink():
        return ExplorerError(f"config.json in {path.name} is a link that leads nowhere.", _MEND)
    if weights := [f.name for f in there if f.suffix in (".safetensors", ".onnx")]:
        return ExplorerError(
            f"The folder {path.name} holds weights ({weights[0]}) but no config.json, which tells their architecture.",
            "Put the model's config.json beside them.",
        )
    if (path / "model_index.json").is_file():
        return ExplorerError(f"The folder {path.name} holds a pipeline for images, and no language model.", _WANTED)
    if inside:
        return ExplorerError(
            f"The folder {path.name} holds no model itself, but {inside[-1][1].name} in it does.",
            f"Choose {inside[-1][1]}.",
        )
    return ExplorerError(f"The folder {path.name or path} holds no model.", _WANTED)


def _is_model(folder: Path) -> bool:
    try:
        return bool(_folder(folder, look_inside=False))
    except (ExplorerError, OSError):
        return False


def _is_in_capitals(name: str) -> bool:
    """Whether it is the name of a configuration or of weights, but for its capitals."""
    small = name.lower()
    weights = small.endswith(".safetensors") and not name.endswith(".safetensors")
    return (weights and not name.startswith(".")) or (small == "config.json" and name != small)


def _has_weights(folder: Path, other: bool) -> bool:
    """Whether the folder has whole weights. other: the model is there in another form, so their faults matter not."""
    try:
        return bool(weight_files.of(folder).files)
    except ExplorerError:
        if other:
            return False
        raise


def _is_torch_int(config: Path) -> bool:
    quantization = read_config(config).get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == "roofscope"


def is_foreign(path: Path) -> bool:
    """Whether a file or folder is named as weights that are not read: pickles, and those of other programs."""
    return path.suffix.lower() in (*PICKLES, *_OTHERS) or path.name == _GENAI


def _not_read(file: Path) -> ExplorerError:
    """Why weights in a form by this name are not read. Not all that end with .bin are pickles."""
    if whose := _OTHERS.get(file.suffix.lower()) or _of_program(file):
        return _of_another(file.name, whose)
    kind = gguf_file.other_kind(file) if file.is_file() else ""
    if kind.startswith("a GGML"):
        return ExplorerError(f"{file.name} is {kind}.", "Choose a newer conversion of the model, as GGUF.")
    return ExplorerError(
        f"{file.name} is a pickle checkpoint, which could run any code while it is loaded.",
        "Use the model's safetensors files instead.",
    )


def _of_program(file: Path) -> str:
    """Whose weights a .bin holds, by its first bytes and what lies beside it; "" where it can be a pickle."""
    if file.with_suffix(".xml").is_file():
        return "OpenVINO"
    if file.with_name("ndarray-cache.json").is_file() or file.with_name("tensor-cache.json").is_file():
        return "MLC LLM"
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        return "CTranslate2" if b"Spec\0" in opened.read(64) else ""


def _of_another(name: str, whose: str) -> ExplorerError:
    return ExplorerError(
        f"{name} holds weights in {whose}'s form, which is not read here.",
        "Choose the model's safetensors or GGUF; transformers writes safetensors with save_pretrained.",
    )


def outside_json(content: bytes) -> Any:
    """JSON that came from outside. Raises ValueError for what is none, for nesting without end and for text that cannot
    be written as UTF-8."""
    try:
        found = json.loads(content.decode("utf-8-sig"))
        json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def read_config(path: Path) -> dict[str, Any]:
    """A model's config.json. Raises ExplorerError when it is no JSON, or names no architecture."""
    try:
        config = outside_json(path.read_bytes())
    except ValueError as error:
        if weight_files.is_pointer(path):
            raise weight_files.pointer(path) from None
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise ExplorerError(
            f"{path.name} in {path.parent.name} is not valid JSON{where}.",
            "Correct that line, or download it again." if where else "Download it again.",
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ExplorerError(
            f"{path.name} in {path.parent.name} names no model_type.",
            "Choose the config.json of a transformers model.",
        )
    return config


def _check_code(config: dict[str, Any]) -> None:
    """Raises ExplorerError for a bare configuration of a network that only its own code tells."""
    kinds = (other_names.usual(config["model_type"]), str((nested(config) or {}).get("model_type", "")))
    if _needs_code(config) and not any(map(_known_to_transformers, kinds)):
        raise ExplorerError(
            f"The model type '{config['model_type']}' needs Python code from its own repository, which is never run.",
            "Choose a model that transformers knows, or the folder with its weights, whose work can be computed.",
        )


def _needs_code(config: dict[str, Any]) -> bool:
    return bool(config.get("auto_map")) and not _known_to_transformers(config["model_type"])


def _known_to_transformers(model_type: str) -> bool:
    """Whether the installed library has this architecture, without importing it: it has a folder for each."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return False
    name = model_type.replace("-", "_")
    return name.isidentifier() and (Path(spec.origin).parent / "models" / name.removesuffix("_text")).is_dir()


def size_bytes(files: dict[str, str]) -> int | None:
    """Bytes of the weights on disk, of the first format that has any."""
    if found := next((files[kind] for kind in ("hf", "torch-int") if kind in files), None):
        weights = weight_files.of(Path(found))
        parts: Iterable[Path] = (*weights.files, *weights.heads)
    elif "gguf" in files:
        parts = gguf_file.parts(Path(files["gguf"]))
    elif "onnx" in files:
        parts = Path(files["onnx"]).glob("model.onnx*")
    else:
        return None
    return sum(f.stat().st_size for f in parts if f.is_file())


def note(files: dict[str, str]) -> str:
    """What is to be known of the files: weights beside those that are read, code that is not run; else ""."""
    found = next((files[kind] for kind in ("hf", "torch-int") if kind in files), None)
    if found is None:
        return ""
    own = "It needs code of its own, which is never run: its work and memory can be computed, and it cannot be run."
    beside = weight_files.of(Path(found)).note
    return " ".join(filter(None, (beside, own if _needs_code(read_config(Path(found) / "config.json")) else "")))


# ---------------------------------------------------------------- damage


def check(files: dict[str, str]) -> None:
    """Read the headers of a model's files; raises ExplorerError when one is cut off, damaged or missing."""
    for kind, name in files.items():
        path = Path(name)
        if not path.exists():
            raise ExplorerError(f"{path} is no longer there.", "Refresh the list of models.")
        if kind == "gguf":
            gguf_file.read(path)
        elif kind == "config":
            _check_code(read_config(path / "config.json" if path.is_dir() else path))
        elif kind in ("hf", "torch-int"):
            read_config(path / "config.json")
            _check_safetensors(path)


def _check_safetensors(folder: Path) -> None:
    weights = weight_files.of(folder)
    for file in (*weights.files, *weights.heads):
        safetensors_file.header(file)
