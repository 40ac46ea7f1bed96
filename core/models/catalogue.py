"""Every model that can be chosen on this machine: the embedded one, what other programs left, own ones, presets.

Listing takes milliseconds and imports no model library. What cannot be used is skipped and told in
`problems`. Knows nothing of downloads (hub), of conversions (artifacts) or of where to look (places).
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shlex
import time
import urllib.parse
from contextlib import suppress
from pathlib import Path

import msgspec

from core.labels import one_line
from core.models import formats, gguf_file, places
from core.models.places import EMBEDDED, folders
from core.paths import data_dir
from core.types import ModelEntry
from hardware.errors import ExplorerError

__all__ = ["EMBEDDED", "add_folder", "check", "entries", "find", "folders", "found_in", "problems", "remove_folder"]

_FRESH_S = 30.0
_ON_HUB = re.compile(
    r"(?P<host>(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/|hf://)?(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:[:@][\w.-]+)?(?:/(?:(?:tree|blob|resolve)/[^/?#]+)?(?:/(?P<file>[^?#]+))?)?(?:[?#].*)?",
    re.ASCII,
)

Found = tuple[tuple[ModelEntry, ...], tuple[str, ...], dict[str, ModelEntry]]

_listing: tuple[Path, float, Found] | None = None


def entries(refresh: bool = False) -> tuple[ModelEntry, ...]:
    """All models, the embedded one first. The list is kept for half a minute unless `refresh` is asked."""
    return _list(refresh)[0]


def problems() -> tuple[str, ...]:
    """What was found but cannot be used, one sentence each."""
    return _list(False)[1]


def find(id_or_path: str) -> ModelEntry:
    """The model of this id, or in this file or folder. Raises ExplorerError, with the nearest ids."""
    text, on_hub = id_or_path.strip(), _hub_names(id_or_path)
    for refresh in (False, True):  # another process may have made it a moment ago
        listed = entries(refresh)
        names = (id_or_path, text, *on_hub[:1], f"ollama/{text}", f"ollama/{text}:latest", f"modelscope/{text}")
        named = next((entry for name in names for entry in listed if entry.id == name), _list(False)[2].get(id_or_path))
        named = named or _in_other_case(names, listed)
        if named is not None and (refresh or _still_there(named)):
            return named
        path = formats.place_of(id_or_path)
        if formats.is_there(path):
            break
    if formats.is_there(path):
        files = formats.files_of(path)
        real = _real(files)
        known = next((e for e in listed if _real(e.files) & real), None)
        return known or places.entry_of(str(path.absolute()), places.label_of(path), "local", files)
    shown = id_or_path if len(id_or_path) <= 200 else f"{id_or_path[:200]}..."
    if len(id_or_path) > 200:
        raise ExplorerError(f"There is no model called '{shown}' on this machine.", "See the list of models.")
    ids = {e.id.casefold(): e.id for e in reversed(listed)}
    near = [ids[i] for i in difflib.get_close_matches(text.casefold(), ids, n=3, cutoff=0.4)]
    hint = f"Did you mean {' or '.join(near)}?" if near else "See the list of models for what is here."
    if on_hub:
        of_it = [e.id for e in listed if e.id.startswith(f"{on_hub[0]}/")]
        wanted = " --gguf ".join(map(shlex.quote, on_hub))
        hint = f"To fetch it from the Hugging Face hub: python -m core.models.hub download {wanted}"
        hint = f"Did you mean {' or '.join(of_it[:3])}?" if of_it else hint
    elif formats.is_path(id_or_path):
        where = f" ({path})" if str(path) != str(Path(id_or_path).expanduser().absolute()) else ""
        raise ExplorerError(f"There is no file or folder {id_or_path}{where}.", "Check the path.")
    raise ExplorerError(f"There is no model called '{id_or_path}' on this machine.", hint)


def _in_other_case(names: tuple[str, ...], listed: tuple[ModelEntry, ...]) -> ModelEntry | None:
    """The one model that the hub or Ollama, to whom capitals are nothing, calls so."""
    wanted = {name.casefold() for name in names}
    found = [e for e in listed if e.id.casefold() in wanted and (e.family == "hub" or e.id.startswith("ollama/"))]
    return found[0] if len(found) == 1 else None


def _hub_names(text: str) -> tuple[str, ...]:
    """What a text names on the Hugging Face hub, as its pages, its cache, llama.cpp and Ollama write it: owner/name,
    and the file if it names one; nothing where it can be no such name."""
    if text.strip().startswith("models--"):
        text = text.strip().removeprefix("models--").replace("--", "/")
    match = _ON_HUB.fullmatch(text.strip())
    if match is None or (not match["host"] and formats.is_path(text)):
        return ()
    file = urllib.parse.unquote(match["file"] or "")
    return (match["repo"], file) if gguf_file.is_named(file) else (match["repo"],)


def _still_there(entry: ModelEntry) -> bool:
    """Whether the list is still right about it: another process may have deleted it, or made another one there."""
    paths = [Path(path) for path in entry.files.values()]
    if not all(path.exists() for path in paths):
        return False
    try:
        return entry.family != "derived" or formats.files_of(paths[0]) == entry.files
    except ExplorerError:
        return False


def check(entry: ModelEntry) -> None:
    """Raises ExplorerError when the model's files are damaged, cut off or gone."""
    formats.check(entry.files)


def add_folder(path: str) -> None:
    """Search this folder too, or list this one file. Raises ExplorerError when it cannot be used."""
    target = formats.place_of(path)
    if not os.path.isdir(target):
        formats.check(formats.files_of(target))
    places.change_folders(lambda known: tuple(dict.fromkeys((*known, str(target)))))
    entries(refresh=True)


def found_in(path: str) -> tuple[tuple[ModelEntry, ...], tuple[str, ...]]:
    """The listed models in this file or folder, and what was found there and cannot be used, one sentence each."""
    place = os.path.realpath(formats.place_of(path))
    inside = tuple(
        e for e in entries() if any(real == place or real.startswith(place + os.sep) for real in _real(e.files))
    )
    return inside, tuple(words for words in problems() if place in words or str(formats.place_of(path)) in words)


def remove_folder(path: str) -> None:
    """Search this folder no longer. Its files stay."""
    gone = {path}
    with suppress(ExplorerError):
        gone.add(str(formats.place_of(path)))
    places.change_folders(lambda known: tuple(p for p in known if p not in gone))
    entries(refresh=True)


# ---------------------------------------------------------------- listing


def _list(refresh: bool) -> Found:
    """The models, the troubles, and by their names those that another name has already listed."""
    global _listing
    now = time.monotonic()
    if refresh or _listing is None or _listing[0] != data_dir() or now - _listing[1] > _FRESH_S:
        _listing = (data_dir(), now, _search())
    return _listing[2]


def _search() -> Found:
    troubles: list[str] = []
    found: list[ModelEntry] = []
    seen: set[str] = set()
    ids: set[str] = set()
    others: dict[str, ModelEntry] = {}
    for place in (*places.ALL, _presets):
        try:
            for entry in place(troubles):
                real = _real(entry.files)
                if real & seen:
                    others.setdefault(entry.id, next(e for e in found if _real(e.files) & real))
                    continue
                seen |= real
                if entry.id in ids:
                    entry = _told_apart(entry, real)
                ids.add(entry.id)
                found.append(entry)
        except OSError as error:
            troubles.append(f"{error.filename} cannot be read ({error.strerror}).")
        except RuntimeError as error:  # a variable that names a home that is not there
            troubles.append(f"A place for models was skipped: {error}")
    return tuple(found), tuple(map(_line, troubles)), others


def _line(trouble: str) -> str:
    """As text on one line, whatever the names in it are."""
    return one_line(trouble.encode("utf-8", "replace").decode())


def _told_apart(entry: ModelEntry, real: set[str]) -> ModelEntry:
    """A model whose id another one has: the id says which, and the label in which folder it lies."""
    digest = hashlib.sha256("".join(sorted(real)).encode()).hexdigest()[:6]
    place = Path(next(iter(entry.files.values()))).parent.name
    return msgspec.structs.replace(
        entry,
        id=f"{entry.id}-{'random' if entry.random_weights else digest}",
        label=f"{entry.label} (in {place})" if entry.family == "local" and place else entry.label,
    )


def _presets(troubles: list[str]) -> tuple[ModelEntry, ...]:
    from core.models.presets import presets

    return presets()


def _real(files: dict[str, str]) -> set[str]:
    return {os.path.realpath(path) for path in files.values()}
