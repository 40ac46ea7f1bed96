"""Vertex AI: projects, regions and endpoints listed, where each endpoint answers, and how it is asked.

Roofscope lists and calls; it deploys nothing. An endpoint with a name of its own (dedicated) answers there and nowhere
else, a shared one at its region's address. Each accepts chat completions; the container's own form goes through
rawPredict, and predict wraps it in instances. Knows Google's field names, and no token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from core.endpoints import google
from core.endpoints.address import Address
from core.types import Record, Sampling, Scalar
from hardware.errors import ExplorerError

Api = Literal["chat", "invoke", "raw", "predict"]
KEY = "google"  # as the source of a key: the credentials of this machine
SHARED_BYTES, DEDICATED_BYTES = 1_500_000, 10_000_000  # of a request
SHARED_S = 60.0  # after which a shared address ends an answer
DEVICES = {  # Google's name of an accelerator -> the device's in the catalogue
    "NVIDIA_L4": "L4",
    "NVIDIA_TESLA_T4": "T4",
    "NVIDIA_TESLA_A100": "A100 SXM4 40GB",
    "NVIDIA_A100_80GB": "A100 SXM4 80GB",
    "NVIDIA_H100_80GB": "H100 SXM5 80GB",
    "TPU_V5_LITEPOD": "TPU v5e (chip)",
}
_PLACE = re.compile(r"/v1(?:beta1)?/projects/([^/]+)/locations/([^/]+)/endpoints/([^/]+)$")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")


class Deployed(Record):
    """A model on an endpoint. traffic: its share of the requests. replicas: the most there may be."""

    id: str
    model: str = ""
    label: str = ""
    machine: str = ""
    accelerator: str = ""
    n_accelerators: int | None = None
    replicas: int | None = None
    traffic: float | None = None


class Cloud(Record):
    """An endpoint. dns: its own name, "" for one behind the shared address. id: Google's number of it."""

    project: str
    region: str
    id: str
    label: str = ""
    dns: str = ""
    deployed: tuple[Deployed, ...] = ()

    @property
    def dedicated(self) -> bool:
        return bool(self.dns)

    @property
    def url(self) -> str:
        """Where it answers."""
        root = google.dedicated_api(self.dns) if self.dns else google.vertex_api(self.region)
        return f"{root}{self.path}"

    @property
    def path(self) -> str:
        return f"/v1/projects/{self.project}/locations/{self.region}/endpoints/{self.id}"

    @property
    def main(self) -> Deployed | None:
        """The model with the largest share of the requests."""
        return max(self.deployed, key=lambda d: d.traffic or 0.0, default=None)

    @property
    def device(self) -> str | None:
        """The catalogue's name of its accelerator; None where it has none, or an unknown one."""
        return DEVICES.get(self.main.accelerator) if self.main is not None else None

    def facts(self) -> dict[str, Scalar]:
        """What a run's set-up says of it."""
        found: dict[str, Scalar] = {"region": self.region}
        if self.main is not None:
            found |= {"machine": self.main.machine, "accelerator": self.main.accelerator}
            found |= {} if self.main.n_accelerators is None else {"accelerators": self.main.n_accelerators}
        return {name: value for name, value in found.items() if value != ""}


def place(url: str) -> tuple[str, str, str] | None:
    """(project, region, endpoint) of an endpoint's address; None for the address of something else."""
    found = _PLACE.search(url.rstrip("/"))
    return None if found is None else (found[1], found[2], found[3])


def projects() -> tuple[tuple[str, str], ...]:
    """(id, name) of the projects that these credentials may see. Raises ExplorerError."""
    needs = "resourcemanager.projects.get"
    rows = google.pages(google.projects_api(), "/v3/projects:search", "projects", {"query": "state:ACTIVE"}, needs)
    found = ((_text(row.get("projectId")), _text(row.get("displayName"))) for row in rows)
    return tuple(sorted(pair for pair in found if pair[0]))


def regions(project: str) -> tuple[str, ...]:
    """The regions of a project. Raises ExplorerError."""
    path = f"/v1/projects/{_named(project, 'project')}/locations"
    rows = google.pages(google.vertex_api(), path, "locations", needs="aiplatform.locations.list")
    return tuple(sorted(filter(None, (_text(row.get("locationId")) for row in rows))))


def endpoints(project: str, region: str) -> tuple[Cloud, ...]:
    """The endpoints of a project in a region. Raises ExplorerError."""
    path = f"/v1/projects/{_named(project, 'project')}/locations/{_named(region, 'region')}/endpoints"
    rows = google.pages(google.vertex_api(region), path, "endpoints", needs="aiplatform.endpoints.list")
    return tuple(found for row in rows if (found := _endpoint(row, project, region)) is not None)


def endpoint(project: str, region: str, number: str) -> Cloud:
    """One endpoint, asked anew. Raises ExplorerError, also for one on which no model is deployed."""
    path = f"/v1/projects/{_named(project, 'project')}/locations/{_named(region, 'region')}"
    path += f"/endpoints/{_named(number, 'endpoint')}"
    found = _endpoint(google.ask(google.vertex_api(region), path, needs="aiplatform.endpoints.get"), project, region)
    if found is None:
        raise ExplorerError(f"What answers for endpoint {number} is not an endpoint of Vertex AI.", "List them anew.")
    if not found.deployed:
        raise ExplorerError(
            f"No model is deployed on endpoint {found.label or number}.", "Deploy one in Google's console, and add it."
        )
    return found


def _endpoint(row: Mapping[str, Any], project: str, region: str) -> Cloud | None:
    number = _text(row.get("name")).rpartition("/endpoints/")[2]
    if not number:
        return None
    split = row.get("trafficSplit")
    split = split if isinstance(split, dict) else {}
    deployed = row.get("deployedModels")
    dns = _text(row.get("dedicatedEndpointDns")) if row.get("dedicatedEndpointEnabled") is True else ""
    return Cloud(
        project=project,
        region=region,
        id=number,
        label=_text(row.get("displayName")),
        dns=dns,
        deployed=tuple(_deployed(d, split) for d in deployed or () if isinstance(d, dict)),
    )


def _deployed(row: Mapping[str, Any], split: Mapping[str, Any]) -> Deployed:
    held = row.get("dedicatedResources")
    held = held if isinstance(held, dict) else {}
    machine = held.get("machineSpec")
    machine = machine if isinstance(machine, dict) else {}
    share = google.number(split.get(_text(row.get("id"))))
    count, most = google.number(machine.get("acceleratorCount")), google.number(held.get("maxReplicaCount"))
    return Deployed(
        id=_text(row.get("id")),
        model=_text(row.get("model")).rpartition("/")[2],
        label=_text(row.get("displayName")),
        machine=_text(machine.get("machineType")),
        accelerator=_text(machine.get("acceleratorType")),
        n_accelerators=None if count is None else int(count),
        replicas=None if most is None else int(most),
        traffic=None if share is None else share / 100,
    )


def request(
    cloud: Cloud,
    api: Api,
    messages: Sequence[tuple[str, str]],
    limit: int,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
    ignore_eos: bool = False,
) -> tuple[str, dict[str, Any]]:
    """(path, body) of a request for an answer to a dialogue. Raises ExplorerError for a path that it does not have."""
    sampling = sampling or Sampling()
    said = [{"role": role, "content": text} for role, text in messages]
    body: dict[str, Any] = {"messages": said, "max_tokens": limit, "temperature": sampling.temperature, "seed": seed}
    body |= {"top_p": sampling.top_p} if sampling.top_p is not None else {}
    body |= {"top_k": sampling.top_k} if sampling.top_k is not None else {}
    body |= {"ignore_eos": True} if ignore_eos else {}
    if api == "predict":
        return ":predict", {"instances": [{"@requestFormat": "chatCompletions", **body}]}
    body = {"model": "", **body}
    streamed = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    if api == "raw":
        return (":streamRawPredict", body | streamed) if cloud.dedicated else (":rawPredict", body)
    if api == "invoke":
        if not cloud.dedicated:
            raise ExplorerError(
                "A shared address of Vertex AI passes no path of the container on.",
                "Set the option api to chat, raw or predict.",
            )
        return "invoke/v1/chat/completions", body | streamed
    return "chat/completions", body | streamed


def check(cloud: Cloud, body: Mapping[str, Any]) -> None:
    """Raises ExplorerError for a request that is larger than Vertex AI accepts."""
    n, most = len(json.dumps(body).encode()), DEDICATED_BYTES if cloud.dedicated else SHARED_BYTES
    if n > most:
        where = "a dedicated" if cloud.dedicated else "a shared"
        raise ExplorerError(
            f"The request has {n / 1e6:.1f} MB, and {where} address of Vertex AI takes {most / 1e6:g} MB.",
            "Use a shorter prompt." if cloud.dedicated else "Use a shorter prompt, or a dedicated endpoint.",
        )


def keyed(address: Address) -> Address:
    """The address with a token of now."""
    return Address(root=address.root, api=address.api, key=google.token())


def _named(name: str, what: str) -> str:
    """A part of a path, as Google allows it."""
    if not _NAME.fullmatch(name.strip()):
        raise ExplorerError(f"“{name[:100]}” is not the name of a {what}.", "Copy it from Google's console.")
    return name.strip()


def _text(found: object) -> str:
    return found[:300] if isinstance(found, str) else ""
