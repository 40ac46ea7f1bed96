"""The files a backend needs and a model does not have: converted once, kept in the cache, found again.

Knows the routes: gguf -> hf -> onnx, config -> hf -> onnx, hf -> gguf and, for the families that can be written so,
config -> gguf. The conversions themselves are in gguf_to_hf, random_weights, onnx_export and hf_to_gguf; keeping their
results whole is artifact_cache's.

`provide` works in this process. The worker asks for the same through a process of its own,

    python -m core.models.artifacts MODEL FORMAT[,FORMAT]

which prints progress and then {"format", "path"} or {"message", "hint"} as lines of JSON, so that a
conversion's libraries and memory do not stay in the process that is measured.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from core import engine
from core.models import formats, gguf_file, safetensors_file, weight_files
from core.models.artifact_cache import fingerprint, fingerprints, folder, key_of, made
from core.models.config import QUANTIZATION
from core.models.precision import RESTORED, declared
from core.models.spec import plain_dtype, read_config
from core.types import ModelEntry, ModelSpec, Progress
from hardware.errors import ExplorerError
from hardware.memory import available_bytes

SOURCES = {
    "hf": {"gguf", "config"},
    "onnx": {"hf", "gguf", "config"},
    "gguf": {"hf", "config"},
}  # what each is converted from
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def provide(entry: ModelEntry, wanted: tuple[str, ...], progress: Progress, alone: bool = False) -> tuple[str, str]:
    """(format, path): the first of the `wanted` formats that the model has, or else can be converted into.

    "config" comes back as a folder with config.json and tokenizer files. alone: this process is there for nothing
    else, so that PyTorch may work in it. Raises ExplorerError when there is no route, when the source is damaged
    and when the disk is too small.
    """
    formats.check(entry.files)
    kind = route(entry, wanted)
    check_precision(entry, kind)
    if kind == "config":
        return kind, str(_config_folder(entry, progress))
    if kind in entry.files:
        return kind, entry.files[kind]
    if kind == "onnx":
        return kind, str(_onnx(entry, progress, alone))
    make = {"hf": _hf, "gguf": _gguf}[kind]
    return kind, str(make(entry, progress))


def route(entry: ModelEntry, wanted: tuple[str, ...]) -> str:
    """The format that `provide` would give: one that the model has, a bare configuration last, else one to derive.

    Reads at most a configuration. Raises ExplorerError when there is no way.
    """
    weighty = [kind for kind in wanted if kind != "config"]
    if there := next((kind for kind in (*weighty, "config") if kind in entry.files and kind in wanted), None):
        return there
    for kind in weighty:
        if entry.files.keys() & SOURCES.get(kind, frozenset()) and _writable(entry, kind):
            return kind
    if "endpoint" in entry.files:
        raise ExplorerError(
            f"{entry.label} is behind a server, which alone can run it.", "Choose the backend Endpoint."
        )
    if wanted == ("endpoint",):
        raise ExplorerError(
            f"{entry.label} is a model of this machine and not behind a server.",
            "Choose another backend, or add the server that has it (page Endpoints, roofscope endpoints add).",
        )
    there_as = " and ".join(map(_words, entry.files))
    raise ExplorerError(
        f"{entry.label} is there as {there_as}, from which {' or '.join(map(_words, wanted))} cannot be made.",
        "Choose another backend, or the model in another format.",
    )


def _words(kind: str) -> str:
    """A format as a sentence calls it."""
    return {
        "hf": "a Hugging Face folder",
        "torch-int": "a folder of PyTorch's integers",
        "gguf": "a GGUF",
        "onnx": "an ONNX export",
        "config": "an architecture without weights",
    }.get(kind, kind)


def _writable(entry: ModelEntry, kind: str) -> bool:
    """Whether a bare configuration is of a family that can be written as `kind`; a folder's is looked at later."""
    from core.models.hf_to_gguf import ARCHITECTURES

    if kind != "gguf" or "hf" in entry.files:
        return True
    return read_config(entry.files["config"]).get("model_type") in ARCHITECTURES


def check_family(architecture: str, source: str, kind: str) -> None:
    """Raises ExplorerError where format `kind` would come from a GGUF of a family that is not converted.

    architecture: of the spec that was read from `source`.
    """
    from core.models import gguf_to_hf

    if source == "gguf" and kind in ("hf", "onnx") and architecture not in gguf_to_hf.ARCHITECTURES.values():
        raise gguf_to_hf.unknown(architecture)


def check_alone(label: str, found: ModelSpec) -> None:
    """Raises ExplorerError for a GGUF that holds more than a language model, which llama.cpp does not open."""
    others = [part.name for part in found.aside if part.name in ("vision", "audio")]
    if others:
        raise ExplorerError(
            f"{label} holds {' and '.join(others)} beside its language model, and llama.cpp reads only files of "
            "one or the other.",
            "What is not text must be in a file of its own; PyTorch reads the text model alone.",
        )


def check_precision(entry: ModelEntry, kind: str) -> None:
    """Raises ExplorerError when format `kind` would come from weights that are quantized as nothing here can run."""
    if "hf" not in entry.files or kind == "config" or (kind in entry.files and kind != "hf"):
        return
    found = declared(read_config(entry.files["hf"]))
    told = declared(formats.read_config(Path(entry.files["hf"]) / "config.json"))  # transformers reads no other file
    lacking = told.lacking if told and kind == "hf" else None
    if found is None or lacking == ():
        return
    what = f"The weights of {entry.label} are quantized ({found.words})"
    others = "Choose the model unquantized or as a GGUF; what it costs can be studied without running it."
    if found.method in RESTORED:
        others = (
            "Write its weights as plain numbers once, and run that model: Transform, Dequantize "
            f"(roofscope transform dequantize --model {entry.id})."
        )
    if lacking:
        packages = " and ".join(lacking)
        raise ExplorerError(f"{what}, which PyTorch runs only with {packages}, not installed here.", others)
    who = "no backend here can run" if kind == "hf" else f"cannot be converted into {_words(kind)}"
    raise ExplorerError(f"{what}, which {who}.", others)


def restorable(entry: ModelEntry) -> bool:
    """Whether its weights are quantized in a way in which they can be written as plain numbers."""
    if "hf" not in entry.files:
        return False
    found = declared(read_config(entry.files["hf"]))
    return found is not None and found.method in RESTORED


def converted_dtype(kind: str, stored: str) -> str:
    """The number format of what is converted into `kind` from weights in `stored`: a GGUF keeps it, others are fp32."""
    return stored if kind == "gguf" else "fp32"


def drawn_dtype(config: Mapping[str, Any]) -> str:
    """The number format in which a GGUF's random weights are drawn for a bare configuration: the one that it names for
    its weights, whatever it declares about their quantization."""
    dtype = plain_dtype(config)
    return dtype if dtype in ("fp32", "fp16", "bf16") else "bf16"


# ---------------------------------------------------------------- the routes


def _hf(entry: ModelEntry, progress: Progress) -> Path:
    """The model as a Hugging Face folder, made from its GGUF or, with random weights, from its config.json."""
    if "hf" in entry.files:
        return Path(entry.files["hf"])
    key = _hf_key(entry, progress)
    if "gguf" in entry.files:
        from core.models import gguf_to_hf

        source = Path(entry.files["gguf"])
        return made(
            key,
            entry,
            "a Hugging Face folder",
            progress,
            lambda: gguf_to_hf.output_bytes(source),
            lambda out, report: gguf_to_hf.convert(source, out, report),
        )
    from core.models import random_weights

    config = _config_folder(entry, progress)

    def n_bytes() -> int:
        _check_memory(entry, "random weights", 1)
        return random_weights.output_bytes(config)

    return made(
        key,
        entry,
        "random weights",
        progress,
        n_bytes,
        lambda out, report: random_weights.write(config, out, report),
    )


def _hf_key(entry: ModelEntry, progress: Progress) -> str:
    """The name of the Hugging Face folder that `_hf` makes."""
    if "gguf" in entry.files:
        from core.models import gguf_to_hf

        source = Path(entry.files["gguf"])
        return key_of("hf from gguf", gguf_to_hf.VERSION, *(fingerprint(p) for p in gguf_file.parts(source)))
    from core.models import random_weights

    return key_of("hf from config", random_weights.VERSION, *fingerprints(_config_folder(entry, progress)))


def _onnx(entry: ModelEntry, progress: Progress, alone: bool) -> Path:
    """An ONNX export. The Hugging Face folder between is made only if the export is: it may have given way."""
    from core.models import onnx_export

    origin = _origin(Path(entry.files["hf"])) if "hf" in entry.files else (_hf_key(entry, progress),)
    key = key_of("onnx from hf", onnx_export.VERSION, *origin)

    def build(out: Path, report: Progress) -> None:
        onnx_export.export(str(_hf(entry, report)), str(out), report, alone)

    def n_bytes() -> int:
        _check_memory(entry, "an ONNX export", 2)
        return _fp32_bytes(_hf(entry, progress))

    return made(key, entry, "an ONNX export", progress, n_bytes, build)


def _gguf(entry: ModelEntry, progress: Progress) -> Path:
    from core.models import hf_to_gguf

    if "hf" not in entry.files:
        return _drawn_gguf(entry, progress)
    source = _hf(entry, progress)
    key = key_of("gguf from hf", hf_to_gguf.VERSION, *_origin(source))

    def build(out: Path, report: Progress) -> None:
        hf_to_gguf.convert(source, out / "model.gguf", entry.label, report)

    return made(key, entry, "a GGUF file", progress, lambda: hf_to_gguf.output_bytes(source), build) / "model.gguf"


def _drawn_gguf(entry: ModelEntry, progress: Progress) -> Path:
    """Random weights written as a GGUF at once: a folder between would take its room and time once more."""
    from core.models import hf_to_gguf

    config, dtype = _config_folder(entry, progress), drawn_dtype(read_config(entry.files["config"]))
    key = key_of("gguf from config", hf_to_gguf.VERSION, dtype, *fingerprints(config))

    def build(out: Path, report: Progress) -> None:
        hf_to_gguf.draw(config, dtype, out / "model.gguf", entry.label, report)

    what = "a GGUF file of random weights"
    return made(key, entry, what, progress, lambda: hf_to_gguf.drawn_bytes(config, dtype), build) / "model.gguf"


def _origin(source: Path) -> tuple[str, ...]:
    """What a Hugging Face folder is: an artifact is named by what it was made from, no need to read its weights."""
    return (source.name,) if source.parent == folder() else fingerprints(source)


def _config_folder(entry: ModelEntry, progress: Progress) -> Path:
    """config.json with a tokenizer beside it: the model's own where it has one, else ids that are bytes."""
    from core.models.defaults import nested
    from core.tokenizers import from_gguf

    given = Path(entry.files["config"])
    config = given / "config.json" if given.is_dir() else given
    own = [config.with_name(name) for name in _TOKENIZER if config.with_name(name).is_file()]
    has_tokenizer = any(f.name == "tokenizer.json" for f in own)

    def build(out: Path, report: Progress) -> None:
        numbers = formats.read_config(config)
        for key in QUANTIZATION:
            numbers.pop(key, None)  # random weights are drawn in a float format, whatever the published ones are
        # without it transformers takes any tokenizer for a faulty old one and warns
        numbers.setdefault("transformers_version", version("transformers"))
        (out / "config.json").write_text(json.dumps(numbers, indent=2), encoding="utf-8")
        for file in own:
            shutil.copyfile(file, out / file.name)
        if not has_tokenizer:
            network = nested(numbers) or numbers
            from_gguf.write_bytes(int(network.get("vocab_size") or 256), out)

    key = key_of("config folder", 4, *(fingerprint(f) for f in (config, *own)))
    return made(key, entry, "a tokenizer", progress, lambda: 64 << 20, build)


def _check_memory(entry: ModelEntry, what: str, copies: int) -> None:
    """Raises ExplorerError where `copies` of the weights in fp32, which making it holds at least, do not fit."""
    from core.models import spec

    fmt, place = next(iter(entry.files.items()))
    needed, free = copies * 4 * spec.read(place, fmt).n_params, available_bytes()
    if needed > free:
        raise ExplorerError(
            f"Making {what} of {entry.label} needs at least {needed / 1e9:.1f} GB of memory, "
            f"and {free / 1e9:.1f} GB are free.",
            "Choose a smaller model, close other programs, or take a backend that reads it as it is.",
        )


def _fp32_bytes(source: Path) -> int:
    """Bytes of the folder's weights in fp32, and a little for the graph around them."""
    headers = [safetensors_file.header(f) for f in weight_files.of(source).files]
    n: int = sum(math.prod(t["shape"]) for header in headers for t in header.values())
    return n * 4 + (64 << 20)


def main(model: str, wanted: str) -> int:
    """Exit status 0, or 2 after a message. What is converted here takes PyTorch; a folder becomes a GGUF without."""
    from core.models import catalogue

    def say(**line: object) -> None:
        print(json.dumps(line), flush=True)

    def progress(note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        say(note=note, done=done, total=total, unit=unit)

    try:
        progress("Reading which models there are")
        entry, kinds = catalogue.find(model), tuple(wanted.split(","))
        if "hf" in entry.files and route(entry, kinds) == "gguf":
            engine.hide_all()
        else:
            engine.claim("pytorch")
            engine.hide_besides()
        kind, path = provide(entry, kinds, progress, alone=True)
    except ExplorerError as error:
        say(message=error.message, hint=error.hint)
        return 2
    say(format=kind, path=path)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
