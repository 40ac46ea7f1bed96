"""Stand-ins of Google's token, projects, prediction and monitoring services on loopback, and an account for them.

The real google-auth signs with the account's key and asks the token service; every other service wants that token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.scripted_server import Answer, ScriptedServer, Seen, json_answer

TOKEN, PROJECT, REGION = "ya29.not-to-be-found", "a-project", "europe-west4"
SHARED, DEDICATED, EMPTY = "111", "222", "333"
BASE = f"/v1/projects/{PROJECT}/locations/{REGION}/endpoints"
MACHINE = {"machineType": "g2-standard-8", "acceleratorType": "NVIDIA_L4", "acceleratorCount": 1}
Speaks = Callable[[Seen, str], Answer]


def row(number: str, **more: Any) -> dict[str, Any]:
    """An endpoint as the listing has it; 64-bit numbers are strings there."""
    deployed = {"id": "9", "model": f"projects/1/locations/{REGION}/models/77", "displayName": "smol"}
    deployed |= {"dedicatedResources": {"machineSpec": MACHINE, "maxReplicaCount": "2"}}
    found = {"name": f"projects/1/locations/{REGION}/endpoints/{number}", "displayName": f"name-{number}"}
    return found | {"deployedModels": [deployed], "trafficSplit": {"9": 100}} | more


ROWS = {
    SHARED: row(SHARED),
    DEDICATED: row(
        DEDICATED, dedicatedEndpointEnabled=True, dedicatedEndpointDns=f"222.{REGION}-1.prediction.vertexai.goog"
    ),
    EMPTY: row(EMPTY, deployedModels=[]),
}


class Google(ScriptedServer):
    """All of its services behind one address. speaks: the container behind the prediction service."""

    def __init__(self, speaks: Speaks, series: Callable[[str, str], list[dict[str, Any]]] = lambda name, aligner: []):
        self.grants, self.refuses = 0, 0
        self._speaks, self._series = speaks, series
        super().__init__(self._answered)

    def _answered(self, seen: Seen) -> Answer:
        parts = urlsplit(seen.path)
        path, query = parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}
        if path == "/token":
            self.grants += 1
            return json_answer({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
        if seen.headers.get("Authorization") != f"Bearer {TOKEN}" or self.refuses:
            status = self.refuses or 401
            return json_answer(
                {"error": {"code": status, "message": "Permission denied on it.", "status": "x"}}, status
            )
        if path == "/v3/projects:search":
            first = {"projects": [{"projectId": "b-project", "displayName": "B"}], "nextPageToken": "more"}
            return json_answer({"projects": [{"projectId": PROJECT}]} if query.get("pageToken") else first)
        if path == f"/v1/projects/{PROJECT}/locations":
            return json_answer({"locations": [{"locationId": REGION}, {"locationId": "us-central1"}]})
        if path == BASE:
            return json_answer({"endpoints": list(ROWS.values())})
        if path == f"/v3/projects/{PROJECT}/timeSeries":
            name = query["filter"].partition('metric.type="')[2].partition('"')[0]
            return json_answer({"timeSeries": self._series(name, query["aggregation.perSeriesAligner"])})
        number = path.removeprefix(f"{BASE}/")
        if number in ROWS and seen.method == "GET":
            return json_answer(ROWS[number])
        if path.startswith(f"{BASE}/") and seen.method == "POST":
            for known in ROWS:
                if number.startswith(known):
                    return self._speaks(seen, number.removeprefix(known))
        return json_answer({"error": {"code": 404, "message": "Not found", "status": "NOT_FOUND"}}, 404)


@contextmanager
def google(monkeypatch: pytest.MonkeyPatch, folder: Path, speaks: Speaks, **more: Any) -> Iterator[Google]:
    """The services, and an environment in which google-auth finds the account and every address is theirs."""
    with Google(speaks, **more) as server:
        account = folder / f"account-{server.port}.json"
        account.write_text(json.dumps(service_account(f"{server.url}/token")))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        for name in ("VERTEX_API", "VERTEX_DEDICATED", "MONITORING_API", "PROJECTS_API"):
            monkeypatch.setenv(f"ROOFSCOPE_{name}", server.url)
        yield server


def service_account(token_uri: str) -> dict[str, str]:
    """A service account with a key of our own."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": f"tester@{PROJECT}.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_uri,
    }
