"""The endpoints that the user added: one folder each in the data folder, with a file for every model it serves.

A file tells where a key comes from, never the key: that is in the environment or in the system's keyring, and is read
when a request goes out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from core.endpoints import flavours, google, prompt_scores, vertex
from core.endpoints.address import Address, address
from core.endpoints.flavours import LABELS as LABELS
from core.endpoints.flavours import Flavour, Found, ServedModel
from core.endpoints.prompt_scores import Way
from core.endpoints.vertex import Cloud
from core.paths import data_dir
from core.types import Record, from_json, to_json
from hardware.errors import ExplorerError
from hardware.files import contents, write_whole

ABOUT = "endpoint.json"
SERVICE = "roofscope"  # in the keyring; the user is the address
KEYRING = "keyring"


class Endpoint(Record):
    """One server. key_from: "" (none), "keyring", "google" (this machine's credentials for Vertex AI, for which `cloud`
    is known), or the name of an environment variable. added_s: since 1970. scores: how it gives log-probabilities of a
    prompt; None: it does not."""

    url: str
    flavour: Flavour
    version: str = ""
    key_from: str = ""
    tokenizes: bool = False
    slots: int | None = None
    added_s: float = 0.0
    models: tuple[ServedModel, ...] = ()
    cloud: Cloud | None = None
    scores: Way | None = None


class Served(Record):
    """What a model's file says: the endpoint without its other models, and the model."""

    endpoint: Endpoint
    model: ServedModel


def endpoints() -> tuple[Endpoint, ...]:
    """All that are known, the oldest first; files that cannot be read are left out."""
    found = []
    for file in sorted(folder().glob(f"[!.]*/{ABOUT}")):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            found.append(from_json(contents(file), Endpoint))
    return tuple(sorted(found, key=lambda e: e.added_s))


def add(url: str, key_from: str = "") -> Endpoint:
    """Ask the server who it is and keep what it says; an address that is known is asked again.

    Raises ExplorerError, and keeps nothing, where it cannot be asked or the key is not there.
    """
    where = address(url)
    if key_from != vertex.KEY:
        keyed = _address(where.api, key_from)
        found = flavours.probe(keyed)
        first = next((m.id for m in flavours.usable(found.models)), "")
        return _keep(where, key_from, found, prompt_scores.way(keyed, found.flavour, first) if first else None)
    named = vertex.place(where.api)
    if named is None:
        raise ExplorerError(
            "Google's credentials are sent to endpoints of Vertex AI alone, and this address is none.",
            "It ends in /v1/projects/PROJECT/locations/REGION/endpoints/NUMBER.",
        )
    return add_cloud(vertex.endpoint(*named))


def add_with_key(url: str, key: str) -> Endpoint:
    """As `add`, with a key that goes into the system's keyring; where nothing is kept, that is as it was before."""
    where = address(url).api
    before = _in_keyring(where)
    keep_key(url, key)
    try:
        return add(url, KEYRING)
    except ExplorerError:
        with contextlib.suppress(Exception):
            import keyring

            if before is None:
                keyring.delete_password(SERVICE, where)
            else:
                keyring.set_password(SERVICE, where, before)
        raise


def add_cloud(cloud: Cloud) -> Endpoint:
    """Keep an endpoint of Vertex AI at the address where it answers."""
    return _keep(address(cloud.url), vertex.KEY, flavours.in_cloud(cloud))


def asked(endpoint: Endpoint) -> Found:
    """What a known server says now. Raises ExplorerError."""
    if endpoint.cloud is not None:
        return flavours.in_cloud(endpoint.cloud)
    return flavours.probe(address_of(endpoint))


def forget(url: str) -> Endpoint:
    """Remove an endpoint and its key from the keyring; runs stay. Raises ExplorerError for an unknown address."""
    wanted = address(url).api
    gone = next((e for e in endpoints() if e.url == wanted), None)
    if gone is None:
        known = ", ".join(e.url for e in endpoints())
        raise ExplorerError(f"No endpoint {url} is known.", f"Known: {known}." if known else "None has been added yet.")
    going = folder() / f".{name_of(gone.url)}.gone"  # whole until it has this name, and then a leftover
    shutil.rmtree(going, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):  # another tab forgets it, too
        (folder() / name_of(gone.url)).rename(going)
    shutil.rmtree(going, ignore_errors=True)
    if gone.key_from == KEYRING:
        with contextlib.suppress(Exception):  # a keyring that is locked or gone keeps what it has
            import keyring

            keyring.delete_password(SERVICE, gone.url)
    return gone


def keep_key(url: str, key: str) -> None:
    """Put a key into the system's keyring. Raises ExplorerError where there is none."""
    where = address(url, key)
    try:
        import keyring

        keyring.set_password(SERVICE, where.api, where.key or "")
    except Exception as error:  # its many backends raise what they like, and may repeat what they were given
        raise ExplorerError(
            f"This system has no keyring that takes a key ({type(error).__name__}).",
            "Put the key into an environment variable and name that.",
        ) from None


def address_of(endpoint: Endpoint) -> Address:
    """The address with its key. Raises ExplorerError when the key is not where it should be."""
    return _address(endpoint.url, endpoint.key_from)


def read(file: Path) -> Served:
    """A model's file. Raises ExplorerError."""
    try:
        return from_json(contents(file), Served)
    except OSError as error:
        raise ExplorerError(f"{file} cannot be read ({error.strerror}).", "Add the endpoint again.") from None
    except msgspec.DecodeError as error:
        raise ExplorerError(
            f"{file.name} does not describe a served model: {error}.", "Add the endpoint again."
        ) from None


def abilities(files: Mapping[str, str]) -> frozenset[str]:
    """What the server of a model can do beyond what all of them can; files: of the model's catalogue entry."""
    try:
        served = read(Path(files["endpoint"]))
    except (KeyError, ExplorerError):
        return frozenset()
    return frozenset({"likelihood"}) if served.endpoint.scores is not None else frozenset()


def on_this_machine(files: Mapping[str, str]) -> bool:
    """Whether the model's server is on this machine; files: of the model's catalogue entry, of any kind."""
    try:
        return address(read(Path(files["endpoint"])).endpoint.url).loopback
    except (KeyError, ExplorerError):
        return False


def files(endpoint: Endpoint) -> Iterator[tuple[Path, ServedModel]]:
    """The file of each model that generates text."""
    for model in flavours.usable(endpoint.models):
        yield folder() / name_of(endpoint.url) / f"{_slug(short(model.id))}-{_digest(model.id)}.json", model


def folder() -> Path:
    return data_dir() / "endpoints"


def short(model_id: str) -> str:
    """A model's name as people say it: servers give paths of files, too."""
    return re.split(r"[\\/]", model_id)[-1].removesuffix(".gguf") if model_id.endswith(".gguf") else model_id


def catalogue_id(endpoint: Endpoint, model: ServedModel) -> str:
    """The model's id in the catalogue."""
    if (cloud := endpoint.cloud) is not None:
        return f"vertex/{cloud.project}/{cloud.region}/{cloud.id}/{short(model.id)}"
    return f"{host_of(endpoint.url)}/{short(model.id)}"


def name_of(url: str) -> str:
    return f"{_slug(url.partition('://')[2])}-{_digest(url)}"


def host_of(url: str) -> str:
    """Host, port and whatever path tells it from others: "127.0.0.1:8080"."""
    return url.partition("://")[2].removesuffix("/v1")


def _address(url: str, key_from: str) -> Address:
    if not key_from:
        return address(url)
    if key_from == vertex.KEY:
        return address(url, google.token())
    if key_from != KEYRING:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_from):
            raise ExplorerError(
                "The source of the key is not the name of an environment variable.",
                "Give the variable's name (OPENAI_API_KEY), not the key itself.",
            )
        key = os.environ.get(key_from)
        if not key:
            raise ExplorerError(
                f"The environment variable {key_from}, which holds the key of {url}, is not set.",
                "Set it before Roofscope starts.",
            )
        return address(url, key)
    key = _in_keyring(url)
    if not key:
        raise ExplorerError(f"The keyring has no key for {url}.", "Add the endpoint again with its key.")
    return address(url, key)


def _in_keyring(url: str) -> str | None:
    """The key of this address. Raises ExplorerError where there is no keyring."""
    try:
        import keyring

        return keyring.get_password(SERVICE, url)
    except Exception as error:
        raise ExplorerError(
            f"The system's keyring cannot be read ({type(error).__name__}).", "Unlock it, or name a variable instead."
        ) from None


def _keep(where: Address, key_from: str, found: Found, scores: Way | None = None) -> Endpoint:
    """Written beside and moved into place, so that it is there whole or not at all."""
    before = next((e for e in endpoints() if e.url == where.api), None)
    endpoint = Endpoint(
        url=where.api,
        flavour=found.flavour,
        version=found.version,
        key_from=key_from,
        tokenizes=found.tokenizes,
        slots=found.slots,
        added_s=before.added_s if before else time.time(),
        models=found.models,
        cloud=found.cloud,
        scores=scores,
    )
    place = folder() / name_of(endpoint.url)
    place.mkdir(parents=True, exist_ok=True)
    own = msgspec.structs.replace(endpoint, models=())
    wanted = {file: to_json(Served(endpoint=own, model=model)) for file, model in files(endpoint)}
    for file, data in {**wanted, place / ABOUT: to_json(endpoint)}.items():
        if not file.exists() or file.read_bytes() != data:  # an unchanged model keeps its session warm
            write_whole(file, data)
    for file in place.glob("[!.]*.json"):
        if file.name != ABOUT and file not in wanted:
            file.unlink(missing_ok=True)
    return endpoint


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:60] or "x"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
