"""python -m tests.faults left [--rounds N] [--runs N] [--trace]: what closed tabs leave behind in the app, by kind.

The app's server in this process, and tabs that speak Streamlit's protocol without a browser. In each round a tab opens
every page of the menu and is closed, its session ends, all garbage is collected, and what still lives is counted: the
kinds of objects, the C library's heap, open files, threads. Between two rounds nothing may have grown but by chance:
a kind that is there in larger numbers after each round has a holder, which --who names. With --runs, the runs that the
app keeps open (pages/ui/state.py) fill in the first eight rounds. Recorded in tests/bench/recorded/left.json.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import itertools
import json
import os
import socket
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlencode

import psutil

from tests.bench.recording import record

LIMIT_S = 60.0
MB = 1e6
OF_A_TAB = ("AppSession", "ScriptRunner", "ScriptRunContext", "SessionState", "StarletteSessionClient")
WARM = 2  # rounds after which all that is loaded once is there


class Life(NamedTuple):
    """After a round. kinds: objects that Python's collector knows, by type. blocks: that Python's own allocator has
    given out, for all objects up to 512 bytes. heap_bytes: given out by the C library; arrow_bytes: by Arrow's pool.
    media: files and downloads that Streamlit keeps. garbage: objects that only the collector could free."""

    kinds: Counter[str]
    blocks: int
    heap_bytes: int
    arrow_bytes: int
    free_bytes: int
    rss_bytes: int
    files: int
    threads: int
    media: int
    garbage: int
    took_s: float


class App:
    """The app's server, in a thread of this process."""

    def __init__(self) -> None:
        import uvicorn
        from streamlit.web.server.starlette.starlette_server import _get_uvicorn_config_kwargs

        from app import app

        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self.port = int(self._listening.getsockname()[1])
        settings = _get_uvicorn_config_kwargs() | {"log_level": "error"}
        self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=self.port, **settings))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve)

    def start(self) -> None:
        self._thread.start()
        _until(lambda: self._server.started, "the server did not start")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(LIMIT_S)

    def end_sessions(self) -> None:
        """Of all closed tabs, as the server does by itself after their time."""
        from streamlit.runtime import get_instance

        from pages.ui.server import end_left

        manager: Any = get_instance()._session_mgr
        assert self._loop is not None
        _until(lambda: not manager.list_active_sessions(), "a closed tab is still connected")
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (end_left(manager._session_storage), done.set()))
        assert done.wait(LIMIT_S)
        _until(lambda: not _script_threads(), "a script is still running")

    def _serve(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._listening])

        asyncio.run(serve())


class Tab:
    """A browser's tab, as far as the server knows it."""

    def __init__(self, port: int) -> None:
        from websockets.sync.client import connect

        address = f"ws://127.0.0.1:{port}/_stcore/stream"
        self._socket = connect(address, subprotocols=["streamlit"], max_size=None, open_timeout=LIMIT_S)  # type: ignore[list-item]

    def open(self, page: str, **query: object) -> int:
        """A page, drawn to its end; how many messages it took. Raises AssertionError where it cannot be drawn."""
        from streamlit.proto.BackMsg_pb2 import BackMsg
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        asked = BackMsg()
        asked.rerun_script.page_name = page
        asked.rerun_script.query_string = urlencode(query)
        asked.rerun_script.context_info.url = "http://127.0.0.1/"
        asked.rerun_script.context_info.timezone = "UTC"
        self._socket.send(asked.SerializeToString())
        n = 0
        while True:
            told = ForwardMsg.FromString(self._socket.recv(timeout=LIMIT_S))
            n += 1
            kind = told.WhichOneof("type")
            assert kind != "page_not_found", f"there is no page {page}"
            if kind == "delta" and told.delta.new_element.WhichOneof("type") == "exception":
                raise AssertionError(f"{page}: {told.delta.new_element.exception.message}")
            if kind == "script_finished" and told.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                return n
            assert kind != "script_finished" or told.script_finished != ForwardMsg.FINISHED_WITH_COMPILE_ERROR

    def close(self) -> None:
        self._socket.close()


@contextmanager
def served(home: Path) -> Iterator[App]:
    """The app on this home, with sessions that end when their tabs are closed. Changes this process for good."""
    from streamlit import config

    os.environ |= {"ROOFSCOPE_HOME": str(home), "HOME": str(home)}
    config.set_option("server.disconnectedSessionTTL", 0)
    config.set_option("server.headless", True)
    (home / "data").mkdir(parents=True, exist_ok=True)
    app = App()
    app.start()
    try:
        yield app
    finally:
        app.stop()


def visit(app: App, pages: Sequence[str], **query: object) -> None:
    """A tab that opens these pages, one behind the other, and is closed."""
    tab = Tab(app.port)
    try:
        for page in pages:
            tab.open(page, **query)
    finally:
        tab.close()


def run_once(home: Path) -> str:
    """One run of the fake backend by the app's own runner, to its end."""
    from core.types import Generate, Request
    from pages.ui.state import runner, store

    task = Generate(prompt="Write about the sea.", max_new_tokens=64)
    request = Request(model="smollm2-135m", backend="fake", task=task, threads=1, warmup=0)
    known = set(store().ids())
    run_id = runner().start(request)
    runner().wait(run_id)
    for old in sorted(known)[:-2]:
        store().delete(old)
    return run_id


def looked(app: App) -> Life:
    """What lives now, without what nobody holds."""
    from streamlit.runtime import get_instance

    from hardware.heap import give_back

    app.end_sessions()
    before_s = time.monotonic()
    garbage = gc.collect()
    took_s = time.monotonic() - before_s
    gc.collect()
    give_back()
    media: Any = get_instance().media_file_mgr
    me = psutil.Process()
    used, free = heap()
    return Life(
        Counter(map(_kind, gc.get_objects())),
        sys.getallocatedblocks(),
        used,
        arrow(),
        free,
        me.memory_info().rss,
        me.num_fds(),
        me.num_threads(),
        len(media._file_metadata) + len(media._deferred_callables) + len(media._files_by_session_and_coord),
        garbage,
        took_s,
    )


def growing(lives: Sequence[Life]) -> list[tuple[str, float]]:
    """Kinds of which there were more after every round behind the warm ones, with how many more in each; most first."""
    warm = [life.kinds for life in lives[WARM - 1 :]]
    found = []
    for kind in warm[-1]:
        counts = [kinds[kind] for kinds in warm]
        if all(b > a for a, b in itertools.pairwise(counts)):
            found.append((kind, (counts[-1] - counts[0]) / (len(counts) - 1)))
    return sorted(found, key=lambda pair: -pair[1])


class _Mallinfo2(ctypes.Structure):
    _fields_: ClassVar = [(f"_{n}", ctypes.c_size_t) for n in range(10)]


def heap() -> tuple[int, int]:
    """Bytes that the C library has given out, and that it keeps though they were freed; 0 where it tells nothing."""
    call = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if call is None:
        return 0, 0
    call.restype = _Mallinfo2
    found = call()
    mapped, used, free = found._4, found._7, found._8  # hblkhd, uordblks, fordblks of malloc.h
    return used + mapped, free


def arrow() -> int:
    """Bytes that Arrow's pool has given out; 0 where nobody has loaded it."""
    found = sys.modules.get("pyarrow")
    return int(found.total_allocated_bytes()) if found else 0


def _kind(thing: object) -> str:
    kind = type(thing)
    return sys.intern(f"{kind.__module__}.{kind.__qualname__}")  # what is counted here is no growth


def _script_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("ScriptRunner")]


def _until(true: Any, words: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < end, words
        time.sleep(0.01)


def who(name: str, most: int = 3, depth: int = 6) -> Iterator[str]:
    """Chains of holders of some living objects of a kind."""
    found = [thing for thing in gc.get_objects() if type(thing).__name__ == name][:most]
    for thing in found:
        chain, seen = [], {id(found)}
        at = thing
        for _ in range(depth):
            seen.add(id(at))
            holders = [h for h in gc.get_referrers(at) if id(h) not in seen and type(h).__name__ != "frame"]
            holders = [h for h in holders if not (isinstance(h, list) and len(h) > 10_000)]
            if not holders:
                break
            at = holders[0]
            chain.append(f"{_kind(at)} {str(list(at)[:4] if isinstance(at, dict) else at)[:80]}")
        yield f"{name}: " + " <- ".join(chain)


def told(life: Life) -> str:
    return (
        f"{life.kinds.total():8,} objects, {life.blocks:9,} blocks, heap {life.heap_bytes / MB:5.1f} MB and "
        f"{life.free_bytes / MB:4.1f} free, Arrow {life.arrow_bytes / MB:.1f}, resident {life.rss_bytes / MB:6.1f}; "
        f"{life.files} files, {life.threads} threads, {life.media} media; "
        f"{life.garbage:,} were garbage, found in {life.took_s:.2f} s"
    )


def rows(lives: Sequence[Life]) -> list[dict[str, Any]]:
    """What is recorded: a row for each round."""
    return [
        {
            "round": n,
            "objects": life.kinds.total(),
            "small blocks": life.blocks,
            "heap MB": round(life.heap_bytes / MB, 1),
            "resident MB": round(life.rss_bytes / MB, 1),
            "files": life.files,
            "threads": life.threads,
            "media": life.media,
        }
        for n, life in enumerate(lives, 1)
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults left", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--runs", type=int, default=0, help="runs of the fake backend in each round")
    parser.add_argument("--pages", nargs="*", help="only these")
    parser.add_argument("--who", default="", help="name a type whose holders are told at the end")
    parser.add_argument("--record", action="store_true", help="keep the rounds with the project")
    parser.add_argument("--trace", action="store_true", help="also where what grows was made (twice as slow)")
    parser.add_argument("--json", action="store_true", help="only the lives of the types of a tab, for a test")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, served(Path(home)) as app:
        from tests.faults.visitor import pages

        asked = ["" if name == "run" else name for name in given.pages or pages()]  # the first one has no name
        lives: list[Life] = []
        before: tracemalloc.Snapshot | None = None
        for n in range(given.rounds):
            began = time.monotonic()
            for _ in range(given.runs):
                run_id = run_once(Path(home))
                visit(app, ["", "roofline"], run=run_id)
            visit(app, asked)
            lives.append(looked(app))
            life = lives[-1]
            if not given.json:
                print(f"round {n + 1}, {time.monotonic() - began:.1f} s: {told(life)}", flush=True)
            if given.trace and n == WARM - 1:
                tracemalloc.start(12)
                visit(app, asked)
                looked(app)
                before = tracemalloc.take_snapshot()
        left = {name: sum(c for kind, c in lives[-1].kinds.items() if kind.endswith(f".{name}")) for name in OF_A_TAB}
        if given.json:
            found = {"left": left, "growing": growing(lives), "objects": [life.kinds.total() for life in lives]}
            found |= {"media": lives[-1].media, "files": [life.files for life in lives]}
            print(json.dumps(found))
            return 0
        print(f"left of closed tabs: {left}")
        if given.record:
            record("left", rows(lives), f"python -m tests.faults left --rounds {given.rounds} --runs {given.runs}")
        for kind, more in growing(lives)[:25]:
            print(f"{more:+10.1f} a round  {lives[-1].kinds[kind]:8,}  {kind}")
        if before is not None:
            after = tracemalloc.take_snapshot()
            hidden = [tracemalloc.Filter(False, tracemalloc.__file__), tracemalloc.Filter(False, __file__)]
            before, after = before.filter_traces(hidden), after.filter_traces(hidden)
            for line in after.compare_to(before, "traceback")[:12]:
                print(f"{line.size_diff / 1e3:+9.1f} kB, {line.count_diff:+6} blocks")
                print("    " + "\n    ".join(line.traceback.format()[-16:]))
        for line in who(given.who) if given.who else ():
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
