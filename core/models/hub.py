"""Downloads a model from the Hugging Face hub: first a plan with exact sizes, then, when asked, the files.

Takes safetensors, GGUF, json and tokenizer files; never pickles, never code. Runs in a process of
its own, since the library reads its settings when it is imported and the worker is kept offline:

    python -m core.models.hub plan ORG/NAME [--gguf FILE]
    python -m core.models.hub download ORG/NAME [--gguf FILE]

Both print JSON lines: the plan; progress as {"note", "done", "total", "unit"} and at last {"path"};
or {"message", "hint"} with exit status 2. Nothing here runs by itself.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from core.models.formats import BESIDE, PICKLES
from core.models.gguf_file import is_model, parts
from core.types import Progress, Record, to_json
from hardware.errors import ExplorerError

_PREFERRED = ("Q4_K_M", "Q8_0", "F16")  # where a repository holds a model in many quantizations
_STALE_S = 3600.0


class HubFile(Record):
    name: str
    size_bytes: int
    cached: bool


class DownloadPlan(Record):
    """What a download would fetch. choices: the GGUF models to choose from, where there are several."""

    repo_id: str
    files: tuple[HubFile, ...]
    total_bytes: int
    to_download_bytes: int
    free_bytes: int
    folder: str
    gguf: str | None = None
    choices: tuple[HubFile, ...] = ()
    licence: str | None = None
    gated: bool = False

    @property
    def fits(self) -> bool:
        return self.to_download_bytes < self.free_bytes


def plan(repo_id: str, gguf: str | None = None) -> DownloadPlan:
    """Ask the hub what there is, without fetching it. gguf: which file of a repository of GGUFs.

    Raises ExplorerError: offline, unknown, gated without access, or nothing usable in it.
    """
    hub = _library()
    with _explained(repo_id):
        api = hub.HfApi()
        info = api.model_info(repo_id, files_metadata=True, timeout=10)
        if info.gated:
            api.auth_check(repo_id)
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    groups = _gguf_groups(sizes)
    tensors = _safetensors(sizes) if gguf is None else []
    if tensors:
        names, gguf = [*tensors, *_beside(sizes)], None
    elif groups:
        gguf = gguf or _preferred(groups)
        if gguf not in groups:
            raise ExplorerError(f"{repo_id} has no file {gguf}.", f"It has {', '.join(sorted(groups)[:8])}.")
        names = groups[gguf]
    else:
        raise _nothing_usable(repo_id, sizes)
    cached = {n: isinstance(hub.try_to_load_from_cache(repo_id, n, revision=info.sha), str) for n in sizes}
    files = tuple(HubFile(name=n, size_bytes=sizes[n], cached=cached[n]) for n in names)
    card = info.card_data.to_dict() if info.card_data else {}
    licence = card.get("license")
    folder = Path(hub.constants.HF_HUB_CACHE)
    return DownloadPlan(
        repo_id=repo_id,
        files=files,
        total_bytes=sum(f.size_bytes for f in files),
        to_download_bytes=sum(f.size_bytes for f in files if not f.cached),
        free_bytes=shutil.disk_usage(_existing(folder)).free,
        folder=str(folder),
        gguf=gguf,
        choices=()
        if tensors
        else tuple(
            HubFile(name=first, size_bytes=sum(sizes[n] for n in names), cached=all(cached[n] for n in names))
            for first, names in sorted(groups.items())
        ),
        licence=licence if isinstance(licence, str) else None,
        gated=bool(info.gated),
    )


def download(wanted: DownloadPlan, progress: Progress) -> str:
    """Fetch the files of a plan into the Hugging Face cache; the path of the model's folder or GGUF file.

    Files that are complete stay when it is stopped; one in the middle starts again from zero.
    """
    hub = _library()
    if not wanted.fits:
        raise _disk_full(wanted)
    _remove_stale(Path(wanted.folder), wanted.repo_id)
    bar = _bar(wanted, progress)
    with _explained(wanted.repo_id, wanted):
        folder = hub.snapshot_download(
            wanted.repo_id,
            allow_patterns=[re.sub(r"([\[*?])", r"[\1]", f.name) for f in wanted.files],
            tqdm_class=bar,
            max_workers=4,
        )
    bar.live = False
    lost = [f.name for f in wanted.files if not (Path(folder) / f.name).is_file()]
    if lost:
        raise ExplorerError(f"{lost[0]} of {wanted.repo_id} did not arrive.", "Start the download again.")
    progress("Downloaded", wanted.to_download_bytes, wanted.to_download_bytes, "bytes")
    return str(Path(folder) / wanted.gguf) if wanted.gguf else str(folder)


# ---------------------------------------------------------------- which files


def _safetensors(sizes: dict[str, int]) -> list[str]:
    """The weights at the top of the repository; other copies of them are left out."""
    top = [n for n in sizes if n.endswith(".safetensors") and "/" not in n]
    standard = [n for n in top if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", n)]
    return sorted(standard or [n for n in top if not n.startswith(("consolidated", "adapter"))])


def _beside(sizes: dict[str, int]) -> list[str]:
    return sorted(n for n in sizes if n.endswith(BESIDE) and "/" not in n)


def _gguf_groups(sizes: dict[str, int]) -> dict[str, list[str]]:
    """First file of each GGUF model -> all its parts."""
    groups: dict[str, list[str]] = {}
    for name in sorted(sizes):
        stem = PurePosixPath(name).stem.lower()
        if is_model(PurePosixPath(name).name) and not (stem.startswith("imatrix") or stem.endswith("imatrix")):
            names = [str(PurePosixPath(p)) for p in parts(Path(name))]
            if all(n in sizes for n in names):
                groups[names[0]] = names
    return groups


def _preferred(groups: dict[str, list[str]]) -> str:
    for kind in _PREFERRED:
        if found := [first for first in groups if kind.lower() in first.lower()]:
            return found[0]
    return next(iter(groups))


def _nothing_usable(repo_id: str, sizes: dict[str, int]) -> ExplorerError:
    if any(n.lower().endswith(PICKLES) for n in sizes):
        return ExplorerError(
            f"{repo_id} holds its weights only as pickle files, which could run any code while they are loaded.",
            "Choose a model with safetensors or GGUF files.",
        )
    return ExplorerError(f"{repo_id} holds no safetensors and no GGUF files.", "Choose another model.")


# ---------------------------------------------------------------- the library


def _library() -> Any:
    """huggingface_hub with its reports and its update check switched off."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_UPDATE_CHECK", "1")
    import huggingface_hub

    return huggingface_hub


@contextmanager
def _explained(repo_id: str, wanted: DownloadPlan | None = None) -> Iterator[None]:
    """Turn the library's exceptions into sentences."""
    import httpx
    from huggingface_hub import errors

    page = "its page on the hub"
    try:
        yield
    except errors.HFValidationError as error:
        raise ExplorerError(f"'{repo_id}' is not a hub id.", "Write it as owner/name.") from error
    except errors.GatedRepoError as error:
        raise ExplorerError(
            f"{repo_id} is gated: its owner must let you in first.",
            f"Accept its terms on {page}, then set HF_TOKEN to a token of your account.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ExplorerError(
            f"The hub has no model '{repo_id}', or it is private.",
            "Check the spelling; for a private model set HF_TOKEN to a token of your account.",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise ExplorerError("The hub is switched off by HF_HUB_OFFLINE.", "Unset it to download models.") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise ExplorerError(f"The hub answered with error {status} for {repo_id}.", "Try again later.") from error
    except (httpx.HTTPError, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise ExplorerError(
            "The Hugging Face hub cannot be reached.",
            "Check the connection; models that are already on this machine work without it.",
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC and wanted is not None:
            raise _disk_full(wanted) from error
        raise


def _disk_full(wanted: DownloadPlan) -> ExplorerError:
    free = shutil.disk_usage(_existing(Path(wanted.folder))).free
    return ExplorerError(
        f"The disk is too full for {wanted.repo_id}: {wanted.to_download_bytes / 1e9:.2f} GB are needed and "
        f"{free / 1e9:.2f} GB are free.",
        f"Free space in {wanted.folder}, or set HF_HOME to a folder on a larger disk.",
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(p for p in (folder, *folder.parents) if p.exists())


def _remove_stale(cache: Path, repo_id: str) -> None:
    """What a killed download left; a file that was written lately may belong to one that still runs."""
    for file in (cache / f"models--{repo_id.replace('/', '--')}" / "blobs").glob("*.incomplete"):
        if time.time() - file.stat().st_mtime > _STALE_S:
            file.unlink(missing_ok=True)


def _bar(wanted: DownloadPlan, progress: Progress) -> Any:
    """A progress bar class that reports instead of drawing.

    The library makes three bars; "Reconstructing" counts the bytes on disk. It must be a plain tqdm:
    the library's own class is silent without a terminal.
    """
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        live = True  # a bar shows itself once more when it is collected, long after the end

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = str(kwargs.get("desc", "")).startswith("Reconstructing")
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "mininterval": 0.2})

        def display(self, *args: Any, **kwargs: Any) -> None:
            if self._counts and self.live:
                done = min(self.n, wanted.to_download_bytes)
                progress(f"Downloading {wanted.repo_id}", done, wanted.to_download_bytes, "bytes")

    return Bar


# ---------------------------------------------------------------- a process of its own


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m core.models.hub", description="Models of the Hugging Face hub.")
    parser.add_argument("verb", choices=("plan", "download"))
    parser.add_argument("repo_id")
    parser.add_argument("--gguf", help="which file of a repository of GGUFs")
    asked = parser.parse_args(arguments)

    def say(record: object) -> None:
        print(to_json(record).decode(), flush=True)

    def progress(note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        say({"note": note, "done": done, "total": total, "unit": unit})

    try:
        planned = plan(asked.repo_id, asked.gguf)
        if asked.verb == "plan":
            say(msgspec.to_builtins(planned) | {"fits": planned.fits})
        else:
            say({"path": download(planned, progress)})
    except ExplorerError as error:
        say({"message": error.message, "hint": error.hint})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
