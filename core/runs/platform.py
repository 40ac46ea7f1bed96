"""The cloud's samples for the time of a run: fetched when they are there, kept in the run's folder, beside its events.

Nothing of a run's result comes from them: they are of replicas and minutes, a result is of requests.
"""

from __future__ import annotations

import time

import msgspec

from core.endpoints import monitoring, vertex
from core.endpoints.monitoring import Platform
from core.runs.store import PLATFORM, Run
from core.types import GOING, Pass, from_json, to_json
from hardware.errors import ExplorerError
from hardware.files import contents, write_whole


def of_cloud(run: Run) -> tuple[str, str, str] | None:
    """(project, region, endpoint) of the endpoint of Vertex AI that a run asked; None for any other run."""
    setup = run.recording().setup
    return None if setup is None else vertex.place(str(setup.facts.get("address", "")))


def window(run: Run) -> tuple[float, float]:
    """From the first pass to the last event, in seconds since 1970."""
    events = run.events()
    began_s = next((e.t_s for e in events if isinstance(e, Pass)), 0.0)
    return run.created_s + began_s, run.created_s + max((e.t_s for e in events), default=0.0)


def wait_s(run: Run) -> float:
    """Seconds until its samples are all there; 0 from then on."""
    return max(0.0, monitoring.ready_s(window(run)[1]) - time.time())


def fetch(run: Run) -> Platform:
    """Ask Cloud Monitoring and keep what it says. Raises ExplorerError: no run of the cloud, too early, refused."""
    named = of_cloud(run)
    if named is None:
        raise ExplorerError(f"The run {run.id} asked no endpoint of Vertex AI.", "Choose a run of one.")
    if run.status() in GOING:
        raise ExplorerError("The run is still going.", "Wait for its end, and six minutes more.")
    found = monitoring.platform(named[0], named[2], *window(run))
    try:
        write_whole(run.path / PLATFORM, to_json(found))
    except OSError as error:
        raise ExplorerError(
            f"The samples could not be kept: {error.strerror or error}.", f"Free some space in {run.path}."
        ) from error
    return found


def kept(run: Run) -> Platform | None:
    """What was fetched of a run; None where nothing was, or it cannot be read."""
    try:
        return from_json(contents(run.path / PLATFORM), Platform)
    except (OSError, msgspec.DecodeError):
        return None
