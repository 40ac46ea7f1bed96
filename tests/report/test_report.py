"""Reports and bundles for others: one file, no request, nothing that says who made it, words only where wanted."""

from __future__ import annotations

import io
import re
import time
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from core.report import page, private
from core.report.bundle_for_others import shared_bundle
from core.report.page import MOST_BYTES, Section, Table, html
from core.report.run_forms import FORMATS, export_run
from core.report.runs import MOST_RUNS, report
from core.runs import about
from core.runs.store import Run, Store
from core.types import Counts, Done, Generate, Loaded, Memory, Pass, Request, Step, Warned, to_json
from hardware.errors import ExplorerError
from tests.analysis.test_predict import preset
from tests.support import facts

USER, HOST = "ada-lovelace", "analytical-engine"
EVIL = '</script><script src="http://evil.example/x.js"></script><img src=x onerror=alert(1)>'
ANSWER = "Some weigh less than others"


class Parsed(HTMLParser):
    """Elements of a page, and the text inside <pre>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_data(self, data: str) -> None:
        if "pre" in self._open[-1:]:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(private.getpass, "getuser", lambda: USER)
    monkeypatch.setattr(private.platform, "node", lambda: f"{HOST}.local")
    monkeypatch.setattr(page, "libraries", lambda: "window.vegaEmbed = () => Promise.resolve();")  # seconds to build
    yield


def made(store: Store, prompt: str = "Which of them?", strategy: str = "autoregressive", scale: float = 1.0) -> Run:
    """A finished run with all that a report shows, by its events alone."""
    request = Request(
        model=f"/srv/models/{USER}/tiny.gguf", backend="fake", strategy=strategy, threads=2,
        task=Generate(prompt=prompt, system=f"You are on {HOST}", max_new_tokens=4),
    )  # fmt: skip
    run = store.create(request)
    spec = msgspec.structs.replace(preset("smollm2-135m"), source=f"Read from {Path.home()}/models/tiny.gguf")
    counts = Counts(tokens=1, forwards=1, inputs=1)
    steps = [
        Step(t_s=1.0 + i, pass_no=1, phase="decode" if i else "prefill", seconds=scale * (0.01 + 0.001 * i),
             counts=counts, n_context=4 + i, text=word, tokens=(7000 + i,), pieces=(word,))
        for i, word in enumerate(ANSWER.split())
    ]  # fmt: skip
    events = [
        Loaded(t_s=0.5, seconds=0.4, warm=False, spec=spec, n_prompt_tokens=4, prompt_text=prompt,
               setup=facts.setup(spec), capabilities=(), host=facts.host()),
        Pass(t_s=0.6, number=1, kind="timing"),
        *steps,
        Memory(t_s=2.0, pass_no=1, phase="decode", rss_bytes=10**8, peak_bytes=2 * 10**8),
        Warned(t_s=3.0, message=f"The file {Path.home()}/models/tiny.gguf belongs to {USER}."),
        Done(t_s=9.0),
    ]  # fmt: skip
    (run.path / "events.jsonl").write_bytes(b"".join(to_json(e) + b"\n" for e in events))
    (run.path / "log.txt").write_text(f"opened {Path.home()}/models/tiny.gguf as {USER} on {HOST}\n")
    return run


def everything(data: bytes) -> str:
    """All text of a file, or of all files of a zip."""
    if not data.startswith(b"PK"):
        return data.decode()
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        return "\n".join(bundle.read(name).decode() for name in bundle.namelist())


@pytest.mark.parametrize("fmt", ["html", "notexts.html", "notexts.zip"])
def test_nothing_says_who_made_it(store: Store, fmt: str) -> None:
    words = everything(export_run(made(store), fmt))
    for name in (str(Path.home()), USER, HOST, "/srv/models"):
        assert name.casefold() not in words.casefold(), name
    assert "tiny.gguf" in words, "the file's own name stays"
    assert (ANSWER in words or "Which of them?" in words) == (fmt == "html")


def test_what_it_searches_for_is_there_before(store: Store) -> None:
    words = everything(export_run(made(store), "zip"))
    assert all(name in words for name in (str(Path.home()), USER, HOST, "Which of them?"))


def test_a_prompt_cannot_break_out(store: Store) -> None:
    found = Parsed(report([made(store, prompt=EVIL)]).decode())
    assert EVIL in found.text, "shown as it is"
    scripts = [attributes for tag, attributes in found.tags if tag == "script"]
    assert all(not attributes.get("src") for attributes in scripts) and not [t for t, _ in found.tags if t == "img"]
    charts = [a for a in scripts if a.get("type") == "application/json"]
    assert len(charts) == 2 and len(scripts) == len(charts) + 2, "the charts, the libraries once, and what draws them"


def test_no_request_to_any_host(store: Store) -> None:
    found = Parsed(report([made(store)]).decode())
    for tag, attributes in found.tags:
        for name in ("src", "href", "action", "srcset", "data"):
            assert not attributes.get(name), (tag, attributes)
    policy = [a["content"] for t, a in found.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy[0] and policy[0].startswith("default-src 'none'")


def test_a_chart_cannot_end_its_element_and_numbers_are_short() -> None:
    spec = {"mark": "point", "datasets": {"rows": [{"text": EVIL, "x": 1 / 3, "n": 7}]}}
    words = html("T", "L", [Section(title="C", chart=page.Chart(spec, EVIL))], "m").decode()
    (held,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', words, re.S)
    assert msgspec.json.decode(held)["datasets"]["rows"] == [{"text": EVIL, "x": 0.33333, "n": 7}]
    assert not [a for t, a in Parsed(words).tags if a.get("src")]


@pytest.mark.parametrize("name", ["mark", "table", "script", "test", "native"])
def test_a_user_called_as_the_page_writes_it_breaks_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    run = made(store, prompt=f"{name.capitalize()} asks", strategy="native")
    before = report([run]).decode()
    monkeypatch.setattr(private.getpass, "getuser", lambda: name)
    page_ = report([run]).decode()
    found, was = Parsed(page_), Parsed(before)
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in was.tags] and f"{name.capitalize()} asks" not in page_
    for words, old in zip(
        *(re.findall(r"application/json\"[^>]*>(.*?)</script>", w, re.S) for w in (page_, before)), strict=True
    ):
        spec, whole = msgspec.json.decode(words), msgspec.json.decode(old)
        marks, were = ([(part["mark"], part["encoding"].keys()) for part in s["layer"]] for s in (spec, whole))
        assert spec.keys() == whole.keys() and marks == were
    there = Store(tmp_path / "elsewhere").load(shared_bundle(run, texts=True))
    assert there.request.strategy == "native" and f"{name.capitalize()} asks" not in str(there.request.task)


def test_without_charts_it_carries_no_library() -> None:
    words = html("T", "L", [Section(title="C", table=Table(header=("a",), rows=(("<b>",),)))], "m").decode()
    assert "vegaEmbed" not in words and "&lt;b&gt;" in words


def test_a_report_is_small_with_its_libraries(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    runs = [made(store), made(store, strategy="native", scale=0.5)]
    data = report(runs)
    assert len(data) < MOST_BYTES and data.count(b"window.vegaEmbed=") == 1


def test_runs_side_by_side(store: Store) -> None:
    words = report([made(store), made(store, scale=0.5), made(store, strategy="native")], texts=False).decode()
    assert "3 runs side by side" in words and "2 ×" in words, "the second decodes twice as fast"
    assert "What differs" in words and ANSWER not in words and "Which of them?" not in words
    assert len(set(re.findall(r"<h2>Time per token: (.*?)</h2>", words))) == 3, "equal runs have names of their own"


def test_how_many_runs_a_report_takes(store: Store) -> None:
    for runs in ([], [made(store)] * (MOST_RUNS + 1)):
        with pytest.raises(ExplorerError) as caught:
            report(runs)
        assert caught.value.hint


def test_a_bundle_without_texts_is_imported_with_the_same_numbers(store: Store, tmp_path: Path) -> None:
    run = made(store)
    there = Store(tmp_path / "elsewhere").load(shared_bundle(run, texts=False))
    before, after = run.result(), there.result()
    for name in ("ttft_s", "tpot_s", "tok_per_s", "n_prompt_tokens", "n_new_tokens", "peak_memory_bytes", "itl_s"):
        assert getattr(before, name) == getattr(after, name) and getattr(after, name), name
    assert after.text == "" and before.text
    ids = [step.tokens for step in there.recording().all(Step)]
    assert ids == [(0,), (1,), (2,), (3,), (4,)], "renumbered"
    with_texts = Store(tmp_path / "third").load(shared_bundle(run, texts=True))
    assert with_texts.result().text == before.text


def test_a_line_that_cannot_be_read_is_left_out_of_a_bundle(store: Store) -> None:
    run = made(store)
    before = everything(shared_bundle(run, texts=False))
    odd = (b'{"type": "step", "odd": ' + b"[" * 100_000, b"{", b"[]", b"5", b'{"type": "step", "pieces": 3}')
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b"\n".join(odd) + b"\n")
    (run.path / about.FILE).write_bytes(b'{"name": "half')
    assert everything(shared_bundle(Run(run.path), texts=False)) == before
    assert ANSWER.split()[0] in everything(shared_bundle(Run(run.path), texts=True))


def test_scrubbing_leaves_words_alone() -> None:
    for words in ("4 tok/s and/or 3 GB/s", "http://localhost:8501/layers?run=1", "</td></tr>", "1/2 of them", "a / b"):
        assert private.scrubbed(words) == words
    assert private.scrubbed(f"{Path.home()}/x.gguf") == "~/x.gguf" or "…/x.gguf" in private.scrubbed(
        f"{Path.home()}/x.gguf"
    )
    assert private.scrubbed("in /data/models/q4.gguf now") == "in …/q4.gguf now"
    assert private.scrubbed(f"by {USER.upper()}, not {USER}s") == f"by …, not {USER}s"


def test_scrubbing_takes_no_longer_for_words_made_to_hold_it_up() -> None:
    """A hundred thousand characters that nearly are a path took minutes."""
    for part in ("~/", "/~", "a/~/", "C:/~", "./-", "1.-1", "/projects/"):
        began = time.process_time()
        private.scrubbed(part * (100_000 // len(part)) + " ")
        assert time.process_time() - began < 5, part


def test_every_format_is_offered_by_its_name() -> None:
    assert {"html", "notexts.html", "zip", "notexts.zip"} <= set(FORMATS)
