"""A person at the real app in Chromium: opens pages, starts runs, waits for their ends, closes tabs."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.runs.demo import OFFERED
from core.runs.store import Run, Store
from core.types import GOING, Step
from pages.ui import state
from tests.browser import conftest
from tests.browser.conftest import Server
from tests.faults.stage import WrongError

LIMIT_MS = 60_000
VIEW = {"width": 1280, "height": 900}
ADDRESS = {"run": ""}  # the first page has no name in the address
KEPT_RUNS = 20
KEPT_OPEN = state._KEPT_RUNS  # by the app, for all its tabs
ROUND, LIVELY = 400, 150  # acts: in the rest of each round nothing ends a worker, so that one lives long
OF_A_RUN = ("run", "roofline", "layers", "memory")


@contextmanager
def served(home: Path) -> Iterator[Server]:
    """The app, without the recorded run; ends with it."""
    (home / "data").mkdir(parents=True, exist_ok=True)
    (home / "data" / OFFERED).touch()
    with conftest.served(home) as server:
        yield server


def tab(browser: Any) -> Any:
    page = browser.new_context(viewport=VIEW).new_page()
    page.set_default_timeout(LIMIT_MS)
    return page


def settled(page: Any) -> None:
    """Drawn to its end, and nothing went wrong on it. Raises WrongError."""
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
    page.wait_for_selector('[data-testid="stMainBlockContainer"] h1, .st-key-rest', state="attached")
    broken = page.locator('[data-testid="stException"], :text("Something went wrong")')
    if broken.count():
        raise WrongError(f"{page.url}: {broken.first.inner_text()[:200]}")


@cache
def pages() -> tuple[str, ...]:
    """All of the menu."""
    from app import MENU

    return tuple(Path(entry[0]).stem for entries in MENU.values() for entry in entries)


def address(server: Server, page: str, **query: object) -> str:
    return server.address(ADDRESS.get(page, page), **query)


class Visitor:
    """One person; everything is drawn from the seed. did: what was done how often. doing: what now, and where."""

    def __init__(self, server: Server, seed: int, backends: tuple[str, ...]) -> None:
        self.did: Counter[str] = Counter()
        self.doing = ""
        self._server, self._backends = server, backends
        self._random = random.Random(seed)
        self._backend = backends[0]

    def takes(self, browser: Any) -> Visitor:
        """From here on this browser, with one empty tab."""
        self._browser, self._tabs = browser, [tab(browser)]
        return self

    def act(self) -> None:
        """One thing, to its end. Raises WrongError and Playwright's errors; then a new tab goes on."""
        names = ("page", "reload", "run", "stop", "open", "tab", "leave")
        (what,) = self._random.choices(names, (40, 12, 18, 6 if self._lively else 0, 12, 6, 6))
        self.did[what] += 1
        page = self._random.choice(self._tabs)
        self.doing = f"{what} from {urlsplit(page.url).path}"
        try:
            getattr(self, f"_{what}")(page)
        except BaseException:
            self._tabs = [t for t in self._tabs if t is not page] or [tab(self._browser)]
            page.context.close()
            raise

    @property
    def _lively(self) -> bool:
        """Whether workers are stopped and exchanged now."""
        return self.did.total() % ROUND < LIVELY

    def everything(self) -> None:
        """Each backend and each page, and as many runs as the app keeps open: what a process loads on first use and
        keeps is there, and what has bounds has reached them."""
        page = self._tabs[0]
        for backend in self._backends:
            run = self.runs(page, backend, 16, live=True)
            self.until_over(page, run)
            settled(page)
        for name in pages():
            page.goto(address(self._server, name))
            settled(page)
        for n in range(KEPT_OPEN):
            again = run.path.with_name(f"20000101-{n:06d}-again")
            shutil.copytree(run.path, again)
            page.goto(address(self._server, "run", run=again.name))
            settled(page)

    def runs(self, page: Any, backend: str, tokens: int, delay_s: float = 0.0, live: bool = True) -> Run:
        """Starts a run on the Run page."""
        store = Store(self._server.home / "data")
        asked = {
            "model": "smollm2-135m", "backend": backend, "prompt": "Write about the sea.", "threads": 1, "warmup": 0,
            "max_new_tokens": tokens, "ignore_eos": "true", "live": str(live).lower(), "retries": 0,
            "o-fake-delay_s": delay_s,
        }  # fmt: skip
        known = set(store.ids())
        page.goto(address(self._server, "run", **asked))
        settled(page)
        page.locator(".st-key-start button:not([disabled])").first.click()
        end = time.monotonic() + LIMIT_MS / 1e3
        while not (new := set(store.ids()) - known):
            if time.monotonic() > end:
                raise WrongError(f"the run did not begin: {page.locator('[role=alert]').all_inner_texts()}")
            page.wait_for_timeout(50)
        return store.open(new.pop())

    def until_over(self, page: Any, run: Run) -> None:
        end = time.monotonic() + 2 * LIMIT_MS / 1e3
        while run.status() in GOING:
            if time.monotonic() > end:
                raise WrongError(f"the run {run.id} does not end")
            page.wait_for_timeout(200)

    # ------------------------------------------------------------ what a visitor does

    def _page(self, page: Any) -> None:
        page.goto(address(self._server, self._random.choice(pages())))
        settled(page)

    def _reload(self, page: Any) -> None:
        if page.url.startswith("about:"):
            page.goto(address(self._server, "history"))
        else:
            page.reload()
        settled(page)

    def _run(self, page: Any) -> None:
        if self._lively and self._random.random() < 0.2:
            self._backend = self._random.choice(self._backends)
        run = self.runs(page, self._backend, self._random.choice((4, 8, 16)), live=self._random.random() < 0.3)
        self.until_over(page, run)
        if run.status() != "done":
            raise WrongError(f"the run ended as {run.status()}: {run.result().error}")
        settled(page)
        self._tidy()

    def _stop(self, page: Any) -> None:
        run = self.runs(page, "fake", 2000, delay_s=0.05)
        end = time.monotonic() + LIMIT_MS / 1e3
        while not any(isinstance(e, Step) for e in run.events()):
            if time.monotonic() > end:
                raise WrongError("no step")
            page.wait_for_timeout(50)
        page.locator(".st-key-stop button").first.click()
        self.until_over(page, run)

    def _open(self, page: Any) -> None:
        ended = [run.id for run in Store(self._server.home / "data").runs() if run.status() == "done"]
        query = {"run": self._random.choice(ended[:KEPT_RUNS])} if ended else {}
        page.goto(address(self._server, self._random.choice(OF_A_RUN), **query))
        settled(page)

    def _tab(self, page: Any) -> None:
        if len(self._tabs) > 2:
            page.context.close()
            self._tabs.remove(page)
            return
        self._tabs.append(tab(self._browser))
        self._page(self._tabs[-1])

    def _leave(self, page: Any) -> None:
        """Close it while it is drawn; not while it is opened, when Chromium may say that it closed and never does
        (Playwright's issues 41900 and 42366)."""
        page.goto(address(self._server, self._random.choice(pages())), wait_until="domcontentloaded")
        page.wait_for_timeout(self._random.choice((0, 200, 800)))
        page.context.close()
        self._tabs.remove(page)
        if not self._tabs:
            self._tabs.append(tab(self._browser))

    def _tidy(self) -> None:
        """As many runs as at the beginning: what grows with them is no leak."""
        store = Store(self._server.home / "data")
        for run_id in store.ids()[KEPT_RUNS:]:
            store.delete(run_id)
