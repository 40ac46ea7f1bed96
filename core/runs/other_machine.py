"""Runs on another machine: its service carries them out, and each comes home as a bundle when it has ended.

To a study it is a runner (core.runs.runner), so that the same study goes on here or there. A run has the same id in
both places. The other machine resolves the request: its models, its backends, its memory; what it refuses, it says.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from core.endpoints.address import Address, address
from core.endpoints.framing import value_of
from core.runs.foresight import Foreseen
from core.runs.store import Run, Store
from core.types import GOING, Request, to_json
from hardware.detect import Machine
from hardware.errors import ExplorerError

PORT = 8765  # of `roofscope serve`
POLL_S = 0.5
TIMEOUT_S = 30.0
AT_ONCE = 100  # requests that a machine is asked about at once
PATIENCE_S = 300.0  # how long a machine that has a run of ours may be out of reach


class LostMachineError(ExplorerError):
    """The machine is out of reach, or is no Roofscope: nothing can be measured there, whatever it is."""


class OtherMachine(ABC):
    """Another machine as a runner: what `Runner` does here, happens there, and its runs come home.

    store: at home. title: the machine in sentences. say: told when it is busy with something else, or out of reach.
    """

    def __init__(self, store: Store, title: str, say: Callable[[str], None]) -> None:
        self.store, self.title = store, title
        self._say = say
        self._stopped = threading.Event()

    @property
    @abstractmethod
    def name(self) -> str:
        """The machine, as a part of a name."""

    @property
    @abstractmethod
    def labels(self) -> Mapping[str, str]:
        """By what it is chosen, its name as `host` among them."""

    @abstractmethod
    def machine(self) -> Machine:
        """What its system says of it. Raises ExplorerError."""

    @abstractmethod
    def hello(self) -> None:
        """Raises LostMachineError when the machine is out of reach, ExplorerError when it does not let us in."""

    @abstractmethod
    def models(self) -> frozenset[str]:
        """The ids of its models. Raises ExplorerError."""

    def foresee(self, requests: Sequence[Request]) -> tuple[Foreseen, ...]:
        """Which of the requests can run there, and what they will do; nothing runs. Raises ExplorerError."""
        return tuple(
            one
            for first in range(0, len(requests), AT_ONCE)
            for one in self._foreseen(requests[first : first + AT_ONCE])
        )

    @abstractmethod
    def _foreseen(self, requests: Sequence[Request]) -> tuple[Foreseen, ...]:
        """Of so many at once."""

    @abstractmethod
    def wait(self, run_id: str, poll_s: float = POLL_S) -> Run:
        """Block until the run has ended, and bring it home. Raises LostMachineError when the machine stays away."""

    @abstractmethod
    def cancel(self, run_id: str) -> None:
        """Stop a run; the machine may be out of reach."""

    @abstractmethod
    def close(self) -> None:
        """Let the machine go."""

    @abstractmethod
    def _begin(self, request: Request, keep: int) -> tuple[str, str]:
        """The id of the run, or why the machine is busy. Raises ExplorerError when it cannot run."""

    def start(self, request: Request, keep: int = 1) -> str:
        """Begin a run there; waits while another measurement goes. Raises ExplorerError when it cannot run."""
        told = False
        while True:
            run_id, busy = self._begin(request, keep)
            if run_id:
                return run_id
            if not told:
                self._say(f"{self.title} is busy: {busy}")
                told = True
            self._pause(2 * POLL_S)

    def free(self, waiting: Callable[[], None]) -> None:  # noqa: B027 - nothing to wait for
        """That it is free, the machine says when a run begins."""

    def stop(self) -> None:
        """From another thread: whoever waits is interrupted."""
        self._stopped.set()

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise KeyboardInterrupt


class ServiceRunner(OtherMachine):
    """A machine with a service. url: of `roofscope serve` there."""

    def __init__(self, store: Store, url: str, key: str | None = None, say: Callable[[str], None] = lambda _: None):
        self._address = _at(url, key)
        super().__init__(store, self._address.host, say)

    @property
    def name(self) -> str:
        """The machine, as a part of a name."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self._address.host}-{self._address.port}").strip("-.")

    def hello(self) -> None:
        """Raises LostMachineError when no Roofscope answers there, and ExplorerError when it does not let us in.

        Without its measured ceilings what it foresees is wide, and its runs have no roofline: that is said.
        """
        status, found = self._call("GET", "/api/devices")
        if status != 200 or not isinstance(found, dict) or "here" not in found:
            raise self._refusal(status, found)
        if found.get("ceilings") is None:
            self._say(f"{self.title}: its ceilings are not measured; `roofscope ceilings` there measures them")

    @property
    def labels(self) -> Mapping[str, str]:
        """Its address, without the port and with it."""
        return {"host": self._address.host, "machine": self.name}

    def machine(self) -> Machine:
        """What its system says of it. Raises ExplorerError."""
        try:
            return msgspec.convert(self._tried("GET", "/api/devices")["here"], Machine)
        except (msgspec.ValidationError, KeyError, TypeError):
            raise self._none() from None

    def _foreseen(self, requests: Sequence[Request]) -> tuple[Foreseen, ...]:
        try:
            return msgspec.convert(self._tried("POST", "/api/foresights", to_json(requests)), tuple[Foreseen, ...])
        except msgspec.ValidationError:
            raise self._none() from None

    def models(self) -> frozenset[str]:
        """The ids of its models. Raises ExplorerError."""
        found = self._tried("GET", "/api/models")
        listed = found.get("models") if isinstance(found, dict) else None
        if not isinstance(listed, list):
            raise self._none()
        return frozenset(str(entry.get("id")) for entry in listed if isinstance(entry, dict))

    def _begin(self, request: Request, keep: int) -> tuple[str, str]:
        status, found = self._call("POST", "/api/runs", to_json(request))
        if status == 202:
            return str(found["run_id"]), ""
        if status != 409:
            raise self._refusal(status, found)
        return "", str(found.get("detail", "another measurement goes"))

    def wait(self, run_id: str, poll_s: float = POLL_S) -> Run:
        """Block until the run has ended, and bring it home. Raises LostMachineError when the machine stays away."""
        while self._tried("GET", f"/api/runs/{run_id}")["status"] in GOING:
            self._pause(poll_s)
        return self.store.load(self._bundle(run_id), self.name)

    def cancel(self, run_id: str) -> None:
        """Stop a run; the machine may be out of reach."""
        self._stopped.clear()  # what was measured is still fetched
        with contextlib.suppress(ExplorerError):
            self._call("DELETE", f"/api/runs/{run_id}")

    def close(self) -> None:
        """Its service keeps what it has open."""

    # ------------------------------------------------------------ the wire

    def _tried(self, method: str, path: str, body: bytes | None = None) -> Any:
        """What it answers; a machine that is out of reach for a while is asked again."""
        until = time.monotonic() + PATIENCE_S
        told = False
        while True:
            try:
                status, found = self._call(method, path, body)
            except LostMachineError as error:
                if time.monotonic() > until:
                    raise
                if not told:
                    self._say(f"{error.message} Asking again for {PATIENCE_S / 60:.0f} minutes.")
                    told = True
                self._pause(2 * POLL_S)
                continue
            if status != 200:
                raise self._refusal(status, found)
            return found

    def _bundle(self, run_id: str) -> bytes:
        found = self._tried("GET", f"/api/runs/{run_id}/bundle")
        if not isinstance(found, bytes):
            raise self._none()
        return found

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Status, and the JSON or the bytes of an answer. Raises LostMachineError."""
        at = self._address
        kind = http.client.HTTPSConnection if at.secure else http.client.HTTPConnection
        connection = kind(at.host, at.port, timeout=TIMEOUT_S)
        try:
            headers = at.headers() | ({"Content-Type": "application/json"} if body is not None else {})
            connection.request(method, at.target(path), body, headers)
            answer = connection.getresponse()
            data = answer.read()
            if answer.headers.get("Content-Type", "").endswith("json"):
                return answer.status, value_of(data)
            return answer.status, data
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
            raise LostMachineError(
                f"{at.root} does not answer: {at.without_key(why)}.", "Start `roofscope serve` there, or leave it out."
            ) from None
        finally:
            connection.close()

    def _refusal(self, status: int, found: Any) -> ExplorerError:
        """What its problem details say, as an error of ours."""
        if not isinstance(found, dict) or "detail" not in found:
            return self._none()
        words = self._address.without_key(str(found["detail"])), str(found.get("hint", ""))
        return LostMachineError(*words) if status in (401, 403, 421) else ExplorerError(*words)

    def _none(self) -> LostMachineError:
        return LostMachineError(
            f"What answers at {self._address.root} is no Roofscope.", "Start `roofscope serve` there, or correct it."
        )


def kind_of(machine: Machine) -> str:
    """Machines of which this is equal are measured as one: `AMD EPYC, 2 cores, 24 GB`."""
    cores = f"{machine.usable_cores} core{'' if machine.usable_cores == 1 else 's'}"
    return ", ".join((machine.cpu, cores, f"{machine.mem_bytes / 1e9:.0f} GB", *(gpu.name for gpu in machine.gpus)))


def _at(url: str, key: str | None) -> Address:
    """A host alone stands for our own port there."""
    typed = url.strip()
    bare = "://" not in typed and ":" not in typed.rpartition("]")[2] and "/" not in typed
    return address(f"{typed}:{PORT}" if bare and typed else typed, key)
