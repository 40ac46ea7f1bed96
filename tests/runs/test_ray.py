"""A sweep on the nodes of a real Ray cluster, in a process of its own; and what there is to say without one."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.cli import machines
from core.paths import data_dir
from core.runs import ray_cluster
from core.runs.store import Store
from hardware.errors import ExplorerError

ROOT = Path(__file__).parents[2]


def test_a_sweep_runs_on_every_node_and_a_lost_node_ends_in_a_sentence() -> None:
    pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a socket's path must be short
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.ray_of_two", folder],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "7"},
            capture_output=True,
            text=True,
            timeout=500,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert "None of the 1 nodes of the Ray cluster offers 'machine'" in told["nobody"]
    assert told["names"] == ["one", "two"] and told["reasons"] == {}
    assert sorted(told["runs"]) == ["one", "two"]
    for name in ("one", "two"):
        assert len(told["runs"][name]) == 2 and all(status == "done" for _, status, _ in told["runs"][name])
        assert told["there"][name] == sorted(run for run, _, _ in told["runs"][name]), "each ran on its own node"
    assert told["by room"] == ["two"]
    assert told["no room"].startswith("No machine has room=attic. There are: one (host=one,")
    assert told["shared reasons"] == {} and told["shared"][0] == 2 and set(told["shared"][1]) <= {"one", "two"}
    assert told["lost"] == [
        "LostMachineError",
        f"The node two has left the Ray cluster. {ray_cluster.HOW}",
    ]
    assert told["goes on"] == "done"
    assert list(told["lost in a division"]) == ["two"] and "left the Ray cluster" in told["lost in a division"]["two"]
    assert told["alone"] == [3, ["one"]], "what the lost node would have measured is measured by the other"


def test_what_ray_prints_of_a_lost_node_is_no_part_of_an_answer(
    monkeypatch: pytest.MonkeyPatch, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its listener writes the log of a node that has died to stdout, also while one lets go of the cluster."""
    left: list[str] = []
    ray = SimpleNamespace(is_initialized=lambda: True, shutdown=lambda: (print("(raylet) ended"), left.append("left")))
    monkeypatch.setitem(sys.modules, "ray", ray)
    node = ray_cluster.RayRunner(ray, Store(data_dir()), ray_cluster.Node("1", "lab", True, {"gpu": "a100"}))
    monkeypatch.setattr(machines, "_named", lambda *asked: [node])
    with machines.reached({"machines": "ray", "where": (), "key_from": None}) as found:
        print("(raylet) Raylet is terminated.")
    assert (
        found == [node]
        and dict(node.labels) == {"gpu": "a100", "host": "lab", "machine": "lab"}
        and left == ["left"]
        and capsys.readouterr().out == ""
    )
    print("answer")
    assert capsys.readouterr().out == "answer\n"


def test_what_names_a_cluster() -> None:
    assert [ray_cluster.is_ray(t) for t in ("ray", "ray:head:6379", "ray://head:10001")] == [True] * 3
    assert not any(ray_cluster.is_ray(t) for t in ("rayleigh", "host1", "http://ray"))


def test_without_ray_it_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with pytest.raises(ExplorerError, match="Ray is not installed"):
        ray_cluster.machines("ray", Store(data_dir()))


@pytest.mark.parametrize(
    ("typed", "listens", "said", "hint"),
    [
        ("ray:127.0.0.1:{port}", False, "'ray:127.0.0.1:{port}' cannot be used: Connection refused.", ray_cluster.HOW),
        ("ray://127.0.0.1:{port}", False, "cannot be used: Connection refused.", ray_cluster.HOW),
        ("ray:127.0.0.1:none", False, "cannot be used: Port could not be cast to integer", ray_cluster.HOW),
        ("ray://127.0.0.1:{port}", True, "Initialization failure from server: no fork.", ray_cluster.LOGS),
    ],
)
def test_what_is_no_cluster_is_said_at_once(
    typed: str, listens: bool, said: str, hint: str, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Ray itself waits for twelve minutes where nobody listens."""
    asked: list[str] = []

    def init(address: str, **_: object) -> None:
        asked.append(address)
        raise ConnectionError("Initialization failure from server:\nno fork. See the log.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        port = server.getsockname()[1]
        with pytest.raises(ExplorerError) as caught:
            ray_cluster.machines(typed.format(port=port), Store(data_dir()))
    assert said.format(port=port) in caught.value.message and caught.value.hint == hint
    assert asked == ([typed.format(port=port)] if listens else [])


def test_an_address_for_rays_client_needs_it(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExplorerError, match="Ray's client, which is not installed"):
        ray_cluster.machines("ray://head:10001", Store(data_dir()))


def test_nodes_are_known_by_label_and_the_dead_are_left_out() -> None:
    told = [
        {"NodeID": "3", "Alive": True, "NodeName": "10.0.0.3", "Resources": {"CPU": 1.0}, "Labels": {}},
        {"NodeID": "1", "Alive": True, "NodeName": "x", "Resources": {"machine": 1.0}, "Labels": {"host": "lab"}},
        {"NodeID": "2", "Alive": False, "NodeName": "y", "Resources": {"machine": 1.0}, "Labels": {"host": "gone"}},
    ]
    found = ray_cluster.nodes(SimpleNamespace(nodes=lambda: told))
    assert found == [ray_cluster.Node("3", "10.0.0.3", False), ray_cluster.Node("1", "lab", True, {"host": "lab"})]
