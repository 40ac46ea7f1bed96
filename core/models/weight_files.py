"""Which of a folder's safetensors are the model: each weight once, and what else lies there told apart.

A folder is what its index names, or `model.safetensors`, or one variant (`model.fp16.safetensors`), or shards that
are complete without an index. Knows names, links and first bytes; reads no header.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware.errors import ExplorerError

ADAPTER = "adapter_config.json"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OTHER_INDEX = ".safetensors.index.json"  # of weights under a name of their own
_VARIANT = re.compile(r"^model\.(?:safetensors\.index\.(?P<index>\w+)\.json|(?P<single>\w+)\.safetensors)$")
_VARIANTS = ("bf16", "fp16", "fp32")  # the first of these, or of the alphabet
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<part>\d+)-of-(?P<n>\d+)\.safetensors$")
_COPY = "consolidated"  # never the model where other weights are
_ADAPTER = re.compile(r"^(adapter_model|([0-9]+_)?adapters)\b.*\.safetensors$")  # of peft, of MLX
_HEADS = "_heads.safetensors"  # of early exits, of Medusa
UNFINISHED = (".incomplete", ".part", ".crdownload", ".aria2", ".download", ".tmp", ".downloadInProgress")
_POINTER = re.compile(rb"(?P<lfs>version https://git-lfs)|(\.\./)+blobs/|!<symlink>")


@dataclass(frozen=True)
class Weights:
    """files: those that are the model. heads: what a strategy reads beside them.

    explicit: what transformers must be asked for, "" where it takes the same.

    note: one sentence where there is a choice or more weights lie beside; else "".

    places: tensor -> name of the file that an index gives it, if one does.
    """

    files: tuple[Path, ...] = ()
    heads: tuple[Path, ...] = ()
    explicit: str = ""
    note: str = ""
    places: Mapping[str, str] = field(default_factory=dict)

    def has(self, file: Path, name: str) -> bool:
        """Whether a tensor in a file is the model's: some files hold what the index gives to others."""
        return os.path.basename(self.places.get(name, file.name)) == file.name


def of(folder: Path) -> Weights:
    """The weights of a folder, if it holds any. Raises ExplorerError for an adapter, and when a part is not there."""
    names = {f.name for f in folder.iterdir()}
    stored = sorted(n for n in names if n.endswith(".safetensors") and not n.startswith("."))
    variant, other = _variant(names), [n for n in names if n.endswith(_OTHER_INDEX)]
    forsaken = _INDEX in names and _SINGLE in names and not names.intersection(_in_index(folder, _INDEX))
    if _INDEX in names and not forsaken:
        named, chosen = _INDEX, _in_index(folder, _INDEX)
    elif _SINGLE in names:
        named, chosen = _SINGLE, (_SINGLE,)
    elif variant:
        named, chosen = variant, _in_index(folder, variant) if variant.endswith(".json") else (variant,)
    elif len(other) == 1:
        named, chosen = other[0], _in_index(folder, other[0])
    else:
        named, chosen = "", _unnamed(stored)
    _check(folder, chosen)
    if chosen and all(map(_ADAPTER.match, chosen)):
        raise adapter(folder)
    heads = [n for n in stored if n.endswith(_HEADS)]
    left = [n for n in stored if n not in (*chosen, *heads)]
    notes = [f"Of several variants of the weights, {named} is read."] if variant and named == variant else []
    if forsaken:
        notes.append(f"None of the files that {_INDEX} names is there, so {_SINGLE} is read.")
    if left:
        shown = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        notes.append(f"Not read, beside the weights: {shown}.")
    if not named and len(chosen) == 1:  # under a name of its own
        named = chosen[0]
    by_itself = named in ("", _SINGLE) or (named == _INDEX and _SINGLE not in names)
    return Weights(
        files=tuple(folder / n for n in chosen),
        heads=tuple(folder / n for n in heads),
        explicit="" if by_itself else named,
        note=" ".join(notes),
        places=_index(folder, named) if named.endswith(".json") else {},
    )


def leaves_plain(declared: Mapping[str, Any]) -> bool:
    """Whether compressed-tensors declares the cache or the activations alone: the weights themselves are plain."""
    groups, sparsity = declared.get("config_groups"), declared.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format") not in (None, "dense"):
        return False
    schemes = [g for g in groups.values() if isinstance(g, Mapping)] if isinstance(groups, Mapping) else []
    return not any(isinstance(scheme.get("weights"), Mapping) for scheme in schemes)


def told(config: Any, folder: Path) -> Any:
    """A transformers configuration that names the files to read, since by itself the library prefers a single one, and
    that declares a quantization only where it is the weights'.

    Raises ExplorerError where it can read none.
    """
    found = getattr(config, "quantization_config", None)
    if isinstance(found, dict) and found.get("quant_method") == "compressed-tensors" and leaves_plain(found):
        del config.quantization_config
    weights = of(folder)
    if weights.files and all(file.name.startswith(_COPY) for file in weights.files):
        raise ExplorerError(
            f"{weights.files[0].name} in {folder.name} holds the weights under names of its maker's own, which "
            "transformers does not read.",
            "Download the model.safetensors of the same model.",
        )
    if len(weights.files) > 1 and not weights.explicit and not (folder / _INDEX).is_file():
        raise ExplorerError(
            f"The weights in {folder.name} are {len(weights.files)} files without {_INDEX}, by which transformers "
            "finds them.",
            f"Download the {_INDEX} of the same model.",
        )
    if explicit := weights.explicit:
        config.transformers_weights = explicit
    return config


def adapter(folder: Path) -> ExplorerError:
    """What to say of a folder that holds an adapter."""
    try:
        about = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        of_mlx = "fine_tune_type" in about
        base = about.get("model" if of_mlx else "base_model_name_or_path")
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        base, of_mlx = None, False
    of_what = f" of {base}" if isinstance(base, str) and base else ""
    how = "mlx_lm fuse" if of_mlx else "merge_and_unload of peft, then save_pretrained"
    return ExplorerError(
        f"The folder {folder.name} holds an adapter{of_what}: it changes a base model and is none itself.",
        f"Merge it into its base model ({how}) and open that folder.",
    )


def is_pointer(path: Path) -> bool:
    """Whether in the place of the file is what leads to it: a note of Git LFS, a link as text. Raises OSError."""
    return _pointer(path) is not None


def pointer(path: Path) -> ExplorerError:
    """What to say of it."""
    found = _pointer(path)
    if found is None or found["lfs"]:
        return ExplorerError(
            f"{path.name} in {path.parent.name} is a pointer of Git LFS, not the file itself.",
            "Fetch the files with `git lfs pull`, or download them again.",
        )
    return ExplorerError(
        f"{path.name} in {path.parent.name} is a link that was copied as text, not the file itself.",
        "Copy the folder again with its links followed (cp -rL, rsync -L), or download it again.",
    )


def _pointer(path: Path) -> re.Match[bytes] | None:
    if not path.is_file() or path.stat().st_size > 1024:
        return None
    with path.open("rb") as f:
        return _POINTER.match(f.read(64))


def unfinished(folder: Path) -> bool:
    """Whether a download into this folder was begun and has not ended."""
    places = [folder, folder / ".cache" / "huggingface" / "download"]
    if folder.parent.name == "snapshots":  # of the Hugging Face cache
        places.append(folder.parent.parent / "blobs")
    return any(f.name.endswith(UNFINISHED) for place in places if place.is_dir() for f in place.iterdir())


def _variant(names: set[str]) -> str:
    """The file or index of the variant to read, "" where there is none."""
    found: dict[str, str] = {}
    for name in sorted(names):  # an index before the single file of the same variant
        if match := _VARIANT.match(name):
            found[match["index"] or match["single"]] = name
    first = [v for v in _VARIANTS if v in found] + sorted(found)
    return found[first[0]] if found else ""


def _in_index(folder: Path, name: str) -> tuple[str, ...]:
    """The files that an index names, each once."""
    return tuple(sorted(set(_index(folder, name).values())))


def _index(folder: Path, name: str) -> dict[str, str]:
    """Tensor -> file, as an index has them."""
    if is_pointer(folder / name):
        raise pointer(folder / name)
    try:
        found: dict[str, str] = json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"]
        if not found or not all(isinstance(f, str) and _is_name(f) for f in set(found.values())):
            raise ValueError("an index names files beside it, or in a folder of its own")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExplorerError(f"{name} in {folder.name} is damaged.", "Download it again.") from error
    return {tensor: os.path.normpath(file) for tensor, file in found.items()}


def _is_name(text: str) -> bool:
    """Whether a file beside the index, or in a folder beside it, can be called so."""
    names = text.split("/")
    return all(0 < len(os.fsencode(name)) <= 255 and name != ".." for name in names) and text.isprintable()


def _unnamed(stored: list[str]) -> tuple[str, ...]:
    """Weights without an index: the shards of one model, or all that is no copy of others."""
    sets = {(m["stem"], m["n"]) for name in stored if (m := _SHARD.match(name))}
    if sets:
        stem, n = min(sets, key=lambda s: (s[0] != "model", s))
        shards = [m["part"] for name in stored if (m := _SHARD.match(name)) and (m["stem"], m["n"]) == (stem, n)]
        width = min(map(len, shards))  # -00001-of-00002, -00001-of-000163 and -1-of-61 are all published
        if int(n) <= 10 * len(stored):
            return tuple(f"{stem}-{i:0{width}d}-of-{n}.safetensors" for i in range(1, int(n) + 1))
    beside = [n for n in stored if n.startswith(_COPY) or n.endswith(_HEADS) or _ADAPTER.match(n)]
    return tuple(n for n in stored if n not in beside) or tuple(stored)


def _check(folder: Path, chosen: tuple[str, ...]) -> None:
    gone = [name for name in chosen if not os.path.isfile(folder / name)]
    if name := next((name for name in gone if os.path.islink(folder / name)), None):
        raise ExplorerError(
            f"{name} in {folder.name} is a link to a file that is gone.",
            "Download it again: the cache that held it was moved or cleaned.",
        )
    if gone:
        begun = unfinished(folder)
        raise ExplorerError(
            f"The folder {folder.name} lacks {len(gone)} of {len(chosen)} weight files ({gone[0]} ...)"
            + (", and a download into it is not finished." if begun else "."),
            "Let the download end, or start it again." if begun else "Download the missing files.",
        )
    try:
        for name in chosen:
            if is_pointer(folder / name):
                raise pointer(folder / name)
            if not (folder / name).stat().st_size:
                raise ExplorerError(
                    f"{name} in {folder.name} is empty: its download did not begin, or was cut off.",
                    "Download it again.",
                )
    except OSError as error:
        raise ExplorerError(f"{folder} cannot be read ({error.strerror}).", "Check its permissions.") from error
