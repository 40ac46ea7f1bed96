"""Every page under axe-core: its rules for WCAG 2.1 A and AA and its good practice, by width and theme.

`make axe` (python -m tests.browser.axe [PAGE | WIDTH | THEME ...]) looks at all pages, widths and themes, or at those
that are named, and prints what is wrong; test_axe.py does a part of it in the suite. Only what is serious or critical
counts, and headings in their order. What axe does not look at is looked at here: a page that is wider than its screen
(WCAG 1.4.10), words of charts that lie on each other, and plugins called by their names in the code.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from app import MENU
from core import plugins
from core.runs.demo import load_into
from core.runs.runner import Runner
from core.runs.store import Store
from core.types import Evaluate, Generate, Request
from tests.browser.conftest import WAIT_MS, Server, chromium, served

WIDTHS = (390, 820, 1440)
THEMES = ("light", "dark")
HEIGHT = 900
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")
COUNTED = ("serious", "critical")
ALSO = ("heading-order", "empty-heading", "page-has-heading-one")  # without which nobody finds the way by headings
LOOKS = 5  # at a page that was drawn again meanwhile: what is on its way out is pale
LOOK = """async ([rules, counted, also]) => {
  let drawn = false;
  const eye = new MutationObserver(() => (drawn = true));
  const app = document.querySelector("[data-testid=stApp]");
  eye.observe(document.body, { subtree: true, attributeFilter: ["data-stale"] });
  if (app) eye.observe(app, { attributeFilter: ["data-test-script-state"] });
  // a rule's impact is that of all its findings: what does not count need not be looked for
  const idle = axe._audit.rules.filter(
    (rule) => rule.impact && !counted.includes(rule.impact) && !also.includes(rule.id));
  const off = Object.fromEntries(idle.map((rule) => [rule.id, { enabled: false }]));
  const runOnly = { type: "tag", values: rules };
  const options = { runOnly, rules: off, resultTypes: ["violations"], elementRef: false };
  const { violations } = await axe.run(document, options);
  eye.disconnect();
  return { violations, drawn: drawn || Boolean(window.roofscopeAccess?.waiting) };
}"""


class Excuse(NamedTuple):
    """A rule that Streamlit's own elements break: where, and why it cannot be mended from here."""

    rule: str
    where: str  # a part of the element's selector or of its HTML
    reason: str


WIDER = """() => {
  const main = document.getElementById("stMain");
  const over = (box, room) => box.scrollWidth - room;
  return Math.max(over(document.scrollingElement, innerWidth), main ? over(main, main.clientWidth) : 0);
}"""


# Words that are seen or read out and are a plugin's name in the code; what is meant to be typed is code.
CODE_NAMES = """(names) => {
  const found = new Set(), word = new RegExp(`\\\\b(${names.join("|")})\\\\b`);
  const look = (text, element) => word.test(text) && !element.closest("code, pre, textarea, script, style") &&
    element.checkVisibility() && found.add(text.trim().slice(0, 200));
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) look(texts.currentNode.data, texts.currentNode.parentElement);
  for (const part of document.querySelectorAll("[aria-label]")) look(part.getAttribute("aria-label"), part);
  return [...found];
}"""
# Labels of charts that Vega has hidden, and that are seen all the same, one over the other.
HIDDEN = """() => [...document.querySelectorAll("svg text[opacity='0']")]
  .filter((label) => label.textContent && getComputedStyle(label).opacity !== "0").map((label) => label.textContent)"""
EXCUSES: tuple[Excuse, ...] = ()
DEEPER = {  # what a page shows only when it is asked for: the page, and what its address says
    "Lessons: list in a lecture": ("Lessons", {"lecture": 1}),
    "Lessons: question": ("Lessons", {"lesson": "roofline", "step": 1}),
    "Lessons: number": ("Lessons", {"lesson": "roofline", "step": 4}),
    "Lessons: stepper": ("Lessons", {"lesson": "jacobi", "step": 2}),
    "Lessons: own run": ("Lessons", {"lesson": "kv_cache", "step": 6}),
    "Layers: open block": ("Layers", {"open": 0}),
}


class Finding(NamedTuple):
    """One element that breaks a rule."""

    rule: str
    impact: str
    where: str
    html: str
    why: str


def addresses() -> dict[str, str]:
    """The title of every page of the menu, with its path in the address."""
    return {
        entry[1]: "" if entry[1] == "Run" else Path(entry[0]).stem for entries in MENU.values() for entry in entries
    }


def filled(root: Path) -> None:
    """Two runs and an evaluation of the fake backend, beside the recorded run that the app brings."""
    store = Store(root)
    load_into(store)
    runs = Runner(store)
    tiny = {"model": "tiny-moe", "backend": "fake", "threads": 1, "warmup": 0, "retries": 0}
    say = Generate(prompt="Hello there", max_new_tokens=8)
    tasks = (say, say, Evaluate(eval="arithmetic", settings={"n": 4}))
    try:
        for task in tasks:
            runs.wait(runs.start(Request(task=task, **tiny)))  # type: ignore[arg-type]
    finally:
        runs.close()


def show(page: Any, server: Server, title: str, **query: object) -> None:
    """Open a page by its address, and wait until it is drawn."""
    page.goto(server.address(addresses()[title], **query))
    drawn(page, title)


def turn_to(page: Any, title: str) -> None:
    """Go to a page by the menu, also where the menu is folded away, and wait until it is drawn."""
    page.locator(f'[data-testid="stSidebarNavLink"] >> text="{title}"').first.evaluate("link => link.click()")
    drawn(page, title)


def drawn(page: Any, title: str) -> None:
    """Wait until the page and its charts stand still."""
    from playwright.sync_api import expect

    expect(page.get_by_role("heading", name=title, exact=True, level=1)).to_be_visible()
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")  # nothing half faded
    still(page)


def still(page: Any) -> None:
    """Wait until nothing is drawn any more, and access.js has named what was."""
    from playwright.sync_api import expect

    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.locator("[data-testid=stSkeleton], [data-testid=stSpinner], [data-stale=true]")).to_have_count(0)
    page.wait_for_function(
        """() => new Promise((done) => {
          let last = document.body.innerHTML.length, same = 0;
          const look = () => {
            const now = document.body.innerHTML.length;
            same = now === last && !window.roofscopeAccess?.waiting ? same + 1 : 0;
            last = now;
            same >= 3 ? done(true) : setTimeout(look, 100);
          };
          look();
        })"""
    )


@cache
def _script() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text()


@cache
def _names() -> list[str]:
    """Of all plugins, those that cannot be a word of a sentence."""
    return sorted({name for kind in plugins.KINDS for name in plugins.names(kind) if "_" in name})


def findings(page: Any) -> list[Finding]:
    """What is serious or critical on the page as it stands, without what is excused."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(_script())
    for _ in range(LOOKS):
        told = page.evaluate(LOOK, [list(RULES), list(COUNTED), list(ALSO)])
        if not told["drawn"]:
            break
        still(page)
    found = [
        Finding(
            violation["id"],
            violation["impact"],
            " ".join(map(str, node["target"])),
            node["html"][:240],
            " ".join(node["failureSummary"].split()),
        )
        for violation in told["violations"]
        for node in violation["nodes"]
        if violation["impact"] in COUNTED or violation["id"] in ALSO
    ]
    found += [Finding("code-name", "serious", "html", words, words) for words in page.evaluate(CODE_NAMES, _names())]
    found += [
        Finding("hidden-label", "serious", "svg", words, "Vega has no room for it") for words in page.evaluate(HIDDEN)
    ]
    if (n := page.evaluate(WIDER)) > 1:
        found.append(Finding("reflow", "serious", "html", "", f"{n} pixels wider than its screen"))
    return [f for f in found if not any(e.rule == f.rule and e.where in f"{f.where} {f.html}" for e in EXCUSES)]


def context(browser: Any, width: int, theme: str) -> Any:
    """A tab of this width and theme."""
    page = browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=theme).new_page()
    page.set_default_timeout(WAIT_MS)
    return page


def everything(
    browser: Any, server: Server, titles: list[str], widths: Sequence[int] = WIDTHS, themes: Sequence[str] = THEMES
) -> Iterator[tuple[str, int, str, list[Finding]]]:
    """Every page at every width in both themes."""
    for width in widths:
        for theme in themes:
            page = context(browser, width, theme)
            show(page, server, "Run")
            for title in titles:
                turn_to(page, title)
                yield title, width, theme, findings(page)
            for name, (title, query) in DEEPER.items():
                if title in titles:
                    show(page, server, title, **query)
                    yield name, width, theme, findings(page)
            page.context.close()


def main(wanted: list[str]) -> int:
    """Print what is wrong, page by page; 1 when something is."""
    from playwright.sync_api import expect

    expect.set_options(timeout=WAIT_MS)
    named = {w.casefold() for w in wanted}
    titles = [t for t in addresses() if t.casefold() in named] or list(addresses())
    widths = [w for w in WIDTHS if str(w) in named] or list(WIDTHS)
    themes = [t for t in THEMES if t in named] or list(THEMES)
    begun, seen, total, shown = time.monotonic(), 0, 0, set()
    with tempfile.TemporaryDirectory() as folder:
        filled(Path(folder) / "data")
        with served(Path(folder)) as server, chromium() as (browser,):
            for title, width, theme, found in everything(browser, server, titles, widths, themes):
                seen, total = seen + 1, total + len(found)
                rules = ", ".join(sorted({f"{f.rule} {sum(o.rule == f.rule for o in found)}" for f in found}))
                print(f"{title:<26} {width:>5} {theme:<5} {rules or 'nothing'}", flush=True)
                for f in found:
                    if (f.rule, f.html) not in shown:
                        shown.add((f.rule, f.html))
                        print(f"    {f.rule} ({f.impact}) {f.where}\n      {f.html}\n      {f.why[:300]}", flush=True)
    print(f"{seen} views in {time.monotonic() - begun:.0f} s: {total} serious or critical findings")
    return int(total > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
