"""Runs on the machines of a Ray cluster: each node carries them out with its own Roofscope, and they come home.

A node takes part when it offers the resource `machine`, of which a study holds one, so that a node measures one thing
at a time; its label `host` is its name. To a study a node is a runner, as another machine's service is
(core.runs.other_machine), and both end what a lost machine had begun with LostMachineError: nothing is tried again
behind the plan's back.

Ray is an optional package. It sets OMP_NUM_THREADS in its processes; that is taken back before anything is measured.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from core.runs.foresight import Foreseen
from core.runs.other_machine import POLL_S, LostMachineError, OtherMachine
from core.runs.store import FORMAT, Run, Store
from core.types import GOING, Request, from_json, to_json
from hardware.detect import Machine
from hardware.errors import ExplorerError

RESOURCE, LABEL = "machine", "host"
PREFIX = "ray"
CLIENT = f"{PREFIX}://"
ANSWER_S = 60.0  # a node that says nothing for so long is lost
NOTICE_S = 30.0
RESERVE_S = 60.0  # until a node that is free has let a study in
HOW = (
    "Start Ray on each machine with: ray start --address=HEAD:6379 --num-cpus=1 "
    f"--resources='{{\"{RESOURCE}\": 1}}' --labels={LABEL}=NAME"
)
LOGS = "Try again; if it stays so, ray_client_server.err among Ray's logs on the head says why."


class Node(NamedTuple):
    """A node that is up. name: its label `host`, else how Ray calls it. offers: whether it has the resource."""

    id: str
    name: str
    offers: bool
    labels: Mapping[str, str] = {}


class Answer(NamedTuple):
    """What a node says to a request. error, hint: why not; busy: something else is measured there just now."""

    value: str = ""
    error: str = ""
    hint: str = ""
    busy: bool = False


def is_ray(typed: str) -> bool:
    """Whether what names machines names a Ray cluster: `ray`, `ray:HEAD:6379` or `ray://HEAD:10001`."""
    return typed == PREFIX or typed.startswith(f"{PREFIX}:")


def machines(typed: str, store: Store, say: Callable[[str], None] = lambda _: None) -> list[RayRunner]:
    """A runner for each node of the cluster that offers the resource.

    Raises ExplorerError without Ray, without a cluster there, and when no node can take part.
    """
    ray = _ray()
    if not ray.is_initialized():
        where = _address(typed)
        try:
            if where != "auto":
                _answered(where)
            ray.init(address=where, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            refused = error.strerror if isinstance(error, OSError) else None
            why = (refused or " ".join(str(error).split()) or type(error).__name__).split(". ")[0].rstrip(":. ")
            hint = LOGS if "failure from server" in why else HOW
            raise ExplorerError(f"The Ray cluster '{typed}' cannot be used: {why}.", hint) from None
    known = nodes(ray)
    ready = [node for node in known if node.offers]
    if not ready:
        raise ExplorerError(f"None of the {len(known)} nodes of the Ray cluster offers '{RESOURCE}'.", HOW)
    return [RayRunner(ray, store, node, say) for node in ready]


def _address(typed: str) -> str:
    """Where Ray is asked for it: `auto`, `HEAD:6379`, or `ray://HEAD:10001` with a client.

    Raises ExplorerError without that client.
    """
    if typed == PREFIX:
        return "auto"
    if not typed.startswith(CLIENT):
        return typed.partition(":")[2]
    if importlib.util.find_spec("grpc") is None:
        raise ExplorerError(
            f"An address with {CLIENT} is for Ray's client, which is not installed.",
            "Install it here and on the head, before Ray is started there: pip install 'ray[client]'",
        )
    return typed


def _answered(where: str) -> None:
    """Raises OSError or ValueError where nobody listens, for which Ray would wait for twelve minutes."""
    at = urlsplit(where if where.startswith(CLIENT) else f"//{where}")
    socket.create_connection((at.hostname or "", at.port or (10001 if at.scheme else 6379)), NOTICE_S).close()


def leave() -> None:
    """Let go of the cluster that this process is connected to, if it is."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def nodes(ray: Any) -> list[Node]:
    """The nodes that are up, by name."""
    found = []
    for told in ray.nodes():
        if told.get("Alive"):
            labels = {str(k): str(v) for k, v in (told.get("Labels") or {}).items()}
            name = labels.get(LABEL) or str(told.get("NodeName") or told["NodeID"])
            offers = float((told.get("Resources") or {}).get(RESOURCE, 0)) >= 1
            found.append(Node(str(told["NodeID"]), name, offers, labels))
    return sorted(found, key=lambda node: (node.name, node.id))


class RayRunner(OtherMachine):
    """A node of a cluster, reserved from hello to close."""

    def __init__(self, ray: Any, store: Store, node: Node, say: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(store, node.name, say)
        self._ray, self._node = ray, node
        self._there: Any = None

    @property
    def name(self) -> str:
        """As it stands in folder names: the node's in small letters, else the start of its id."""
        return re.sub(r"[^a-z0-9.]+", "-", self._node.name.lower()).strip("-.") or self._node.id[:8]

    @property
    def labels(self) -> Mapping[str, str]:
        """Those of the node, given with `ray start --labels` and Ray's own."""
        return {**self._node.labels, LABEL: self._node.name, "machine": self.name}

    def hello(self) -> None:
        """Reserve the node; its ceilings are measured first unless they are known there.

        Raises LostMachineError when it is gone or does not let us in, ExplorerError for another version.
        """
        where = {"ray.io/node-id": self._node.id}
        remote = self._ray.remote(
            num_cpus=0, resources={RESOURCE: 1}, label_selector=where, max_restarts=0, max_task_retries=0
        )(There)
        self._there = remote.remote()
        try:
            form = self._ray.get(self._there.form.remote(), timeout=RESERVE_S)
        except Exception as error:
            raise self._lost(error, reserving=True) from None
        if form != FORMAT:
            self.close()
            raise ExplorerError(
                f"{self._node.name} has another Roofscope, whose runs are of form {form} and not {FORMAT}.",
                "Install the same one on both.",
            )
        self._say(f"{self._node.name}: its ceilings are measured unless they are known there")
        self._asked("roofs", patience_s=10 * ANSWER_S)

    def models(self) -> frozenset[str]:
        """The ids of the node's models. Raises LostMachineError."""
        return frozenset(self._got("models"))

    def machine(self) -> Machine:
        """What its system says of it. Raises LostMachineError."""
        return from_json(self._got("machine"), Machine)

    def _foreseen(self, requests: Sequence[Request]) -> tuple[Foreseen, ...]:
        return from_json(self._got("foresee", to_json(requests)), tuple[Foreseen, ...])

    def _begin(self, request: Request, keep: int) -> tuple[str, str]:
        answer = self._asked("start", to_json(request), keep)
        return ("", answer.error) if answer.busy else (answer.value, "")

    def wait(self, run_id: str, poll_s: float = POLL_S) -> Run:
        """Block until the run has ended, asking every poll_s seconds, and bring it home. Raises LostMachineError."""
        while self._asked("status", run_id).value in GOING:
            self._pause(poll_s)
        return self.store.load(self._got("bundle", run_id), self.name)

    def cancel(self, run_id: str) -> None:
        """Stop a run; a node that is gone is no error."""
        self._stopped.clear()  # what was measured is still fetched
        with contextlib.suppress(ExplorerError):
            self._asked("cancel", run_id)

    def close(self) -> None:
        """Let the node go; one that is gone is no error."""
        if self._there is not None:
            with contextlib.suppress(Exception):
                self._ray.get(self._there.close.remote(), timeout=ANSWER_S)
            with contextlib.suppress(Exception):
                self._ray.kill(self._there)
            self._there = None

    def _asked(self, what: str, *arguments: Any, patience_s: float = ANSWER_S) -> Answer:
        """The node's answer. Raises LostMachineError, and ExplorerError for what it refuses."""
        answer: Answer = self._got(what, *arguments, patience_s=patience_s)
        if answer.error and not answer.busy:
            raise ExplorerError(answer.error, answer.hint)
        return answer

    def _got(self, what: str, *arguments: Any, patience_s: float = ANSWER_S) -> Any:
        """What comes of a method of `There`. Raises LostMachineError."""
        try:
            return self._ray.get(getattr(self._there, what).remote(*arguments), timeout=patience_s)
        except Exception as error:
            raise self._lost(error) from None

    def _lost(self, error: Exception, reserving: bool = False) -> LostMachineError:
        """A node that died, that cannot be reached, or, while reserving, that another study holds."""
        if self._gone(0.0 if isinstance(error, TimeoutError) else NOTICE_S):
            return LostMachineError(f"The node {self._node.name} has left the Ray cluster.", HOW)
        if isinstance(error, TimeoutError):
            self.close()
            if reserving:
                return LostMachineError(
                    f"The node {self._node.name} could not be reserved within {RESERVE_S:.0f} s.",
                    "Another study holds it: wait for its end, or leave the node out.",
                )
            return LostMachineError(f"The node {self._node.name} does not answer any more.", "Look at it, and go on.")
        return LostMachineError(
            f"What measured on the node {self._node.name} has ended: {type(error).__name__}.",
            "The same command goes on there.",
        )

    def _gone(self, within_s: float) -> bool:
        """Whether the node has left; the cluster may notice so much later than its process is missed."""
        until = time.monotonic() + within_s
        while any(node.id == self._node.id for node in self._up()):
            if time.monotonic() >= until:
                return False
            time.sleep(POLL_S)
        return True

    def _up(self) -> list[Node]:
        try:
            return nodes(self._ray)
        except Exception:  # the cluster itself is gone
            return []


class There:
    """Lives on the node, in a process that Ray started for one study: the runner there."""

    def __init__(self) -> None:
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray's, which would be taken for the user's
        from core.paths import data_dir
        from core.runs.runner import Runner

        self._root = data_dir()
        self._runner = Runner(Store(self._root))

    def form(self) -> str:
        """Of the bundles that the Roofscope here makes."""
        return FORMAT

    def roofs(self) -> Answer:
        """Measure this machine's ceilings, unless they are known."""
        from core.runs.ceilings import kept, measure
        from hardware.detect import usable_cores

        threads = usable_cores()
        if kept(self._root, threads) is None:
            try:
                measure(self._root, threads)
            except ExplorerError as error:
                return Answer(error=error.message, hint=error.hint)
        return Answer("measured")

    def models(self) -> list[str]:
        """The ids of the models here."""
        from core.models import catalogue

        return [entry.id for entry in catalogue.entries(refresh=True)]

    def machine(self) -> bytes:
        """What the system here says of itself."""
        from hardware.detect import machine

        return to_json(machine())

    def foresee(self, requests: bytes) -> bytes:
        """Which of the requests can run here, and what they will do."""
        return to_json(self._runner.foresee(from_json(requests, tuple[Request, ...])))

    def start(self, request: bytes, keep: int) -> Answer:
        """Begin a run."""
        from core.runs.measuring import BusyError

        try:
            return Answer(self._runner.start(from_json(request, Request), keep))
        except BusyError as error:
            return Answer(error=error.message, busy=True)
        except (ExplorerError, msgspec.DecodeError) as error:
            refused = (
                error if isinstance(error, ExplorerError) else ExplorerError(f"It is not a request: {error}.", HOW)
            )
            return Answer(error=refused.message, hint=refused.hint)

    def status(self, run_id: str) -> Answer:
        """Of a run."""
        return Answer(self._runner.store.open(run_id).status())

    def bundle(self, run_id: str) -> bytes:
        """A run that has ended, whole."""
        return self._runner.store.open(run_id).bundle()

    def cancel(self, run_id: str) -> Answer:
        """Stop a run."""
        self._runner.cancel(run_id)
        return Answer("asked to stop")

    def close(self) -> None:
        """End the worker."""
        self._runner.close()


def _ray() -> Any:
    """The package; raises ExplorerError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")  # of what answers and is none: 36 s in place of 720
    try:
        import ray
    except ImportError:
        raise ExplorerError("Ray is not installed.", "Install it here and on the machines: pip install ray") from None
    return ray
