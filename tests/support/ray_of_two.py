"""A Ray cluster of two nodes on loopback, each with a data folder of its own, and what a sweep on it comes to.

A process of its own, because Ray sets variables: `python -m tests.support.ray_of_two FOLDER` prints one JSON value.
Only the fake backend runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # everything on loopback, on Linux too
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}


def main(folder: Path) -> dict[str, Any]:
    os.environ |= {**LOOPBACK, "RAY_TMPDIR": str(folder), "ROOFSCOPE_HOME": str(folder / "home")}
    import ray
    from ray.cluster_utils import Cluster

    from core.cli.machines import chosen
    from core.paths import data_dir
    from core.runs.ray_cluster import machines
    from core.runs.store import Store
    from core.studies.divided import carry_out_divided
    from core.studies.plan import Axis
    from core.studies.sweep import carry_out_on, planned, progress
    from core.types import Generate, Request
    from hardware.ceilings import Ceilings, Gemm, ReadPoint, save
    from hardware.detect import machine, machine_id
    from hardware.errors import ExplorerError

    told: dict[str, Any] = {}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        store = Store(data_dir())
        try:
            machines(f"ray:{cluster.address}", store)
        except ExplorerError as error:
            told["nobody"] = str(error)
        nodes = []
        for name in ("one", "two"):
            known = Ceilings(
                machine_id=machine_id(),
                device="cpu",
                threads=machine().physical_cores or 1,
                date="2026-01-01T00:00:00+00:00",
                quick=True,
                seconds=1.0,
                gemms=(Gemm("fp32", 64, 64, 64, 1e9, "none"),),
                reads=(ReadPoint(1_000_000, 1e9, 1e9),),
            )
            save(known, folder / name / "data" / "ceilings")
            here = {"ROOFSCOPE_HOME": str(folder / name), "PYTHONPATH": os.pathsep.join(sys.path)}
            nodes.append(
                cluster.add_node(
                    num_cpus=1,
                    resources={"machine": 1},
                    labels={"host": name, "room": f"room-{name}"},
                    object_store_memory=80 * 2**20,
                    env_vars=here,
                )
            )
        base = Request(
            model="smollm2-135m",
            backend="fake",
            task=Generate(prompt_tokens=4, max_new_tokens=3),
            warmup=0,
            retries=0,
            profilers=(),
        )
        plan = planned(base, (Axis(name="new_tokens", values=(2, 3)),), reference_every=0)
        both = machines(f"ray:{cluster.address}", store)
        told["names"] = [m.name for m in both]
        ledgers, told["reasons"] = carry_out_on(both, plan, 10, lambda words: None)
        told["runs"] = {
            name: [[i, store.open(i).status(), store.open(i).result().threads] for i in ledger.state.runs.values()]
            for name, ledger in ledgers.items()
        }
        told["there"] = {name: sorted(Store(folder / name / "data").ids()) for name in ("one", "two")}
        for m in both:
            m.close()
        told["by room"] = [m.name for m in chosen(machines(f"ray:{cluster.address}", store), ("room=room-two",))]
        try:
            chosen(machines(f"ray:{cluster.address}", store), ("room=attic",))
        except ExplorerError as error:
            told["no room"] = str(error)
        shared, told["shared reasons"] = carry_out_divided(machines(f"ray:{cluster.address}", store), plan, 10, print)
        told["shared"] = [progress(shared.state).done, sorted(set(shared.state.machines.values()))]
        one, two = machines(f"ray:{cluster.address}", store)
        two.hello()
        cluster.remove_node(nodes[1], allow_graceful=False)
        until = time.monotonic() + 60
        while "lost" not in told and time.monotonic() < until:  # its process may outlive the node for a moment
            try:
                two.wait(two.start(base))
            except ExplorerError as error:
                told["lost"] = [type(error).__name__, str(error)]
        one.hello()
        told["goes on"] = one.wait(one.start(base)).status()
        one.close()
        longer = planned(base, (Axis(name="new_tokens", values=(4, 5, 6)),), reference_every=0)
        alone, told["lost in a division"] = carry_out_divided([one, two], longer, 10, print)
        told["alone"] = [progress(alone.state).done, sorted(set(alone.state.machines.values()))]
    finally:
        ray.shutdown()
        cluster.shutdown()
    return told


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
