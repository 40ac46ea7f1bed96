"""The verbs that plugins implement. Capabilities are the only coupling between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.types.counts import Counts, Ledger
from core.types.events import Account, Count, Item, LayerTime, Metric, Step
from core.types.model import ModelEntry, ModelSpec
from core.types.record import Record, Scalar
from core.types.request import Request, Sampling
from core.types.setup import Reserve, Setup

Ids = NDArray[np.int64]  # token ids, always of shape (batch, n)


class Logits(Protocol):
    """A handle on the logits of one forward, shape (batch, n_kept, vocab); valid until the next forward."""

    def argmax(self) -> Ids:
        """Greedy next token at every kept position, shape (batch, n_kept)."""

    def numpy(self) -> NDArray[np.float32]:
        """All values, float32."""


class GenerationConfig(Record):
    """How to continue a prompt. limit: new tokens per sequence. stop: ids that end a sequence (kept)."""

    limit: int
    sampling: Sampling = Sampling()
    seed: int = 0
    stop: frozenset[int] = frozenset()


class Trace(Protocol):
    """Time per layer of the forwards run since it began, under canonical names."""

    def phase(self, name: Literal["prefill", "decode"]) -> None:
        """What follows belongs to this phase."""

    def rows(self) -> dict[str, tuple[LayerTime, ...]]:
        """Phase -> cumulative rows so far. Empty where the library tells only at the end."""

    def finish(self) -> dict[str, tuple[LayerTime, ...]]:
        """Detach; final rows per phase. The session then is as before. Safe to call twice."""


class Session(Protocol):
    """An opened model with a KV cache of `n_committed` tokens.

    Capabilities (of session and backend alike):
      forward  one forward over n tokens gives n rows of logits
      cache    what was committed is remembered: forward(a), commit, forward(b) continues
      rollback commit may keep fewer than all pending tokens, and rejected ones leave no trace;
               a forward of n tokens equals n forwards of one
      rewind   committed tokens can be taken back
      stream   the library's own generate loop
      batch    more than one sequence (all of equal length)
      layers   the layers profiler can be attached
      count    the FLOPs of a forward can be counted
      depth    a forward can leave blocks out (forward_to, forward_through, forward_exit)
      tree     the pending tokens may form a tree (forward_tree, commit_path)
      heads    the model has trained heads that guess further tokens (guesses)
      likelihood  how likely given tokens are can be asked, and nothing else of its logits (likelihoods)
      remote   the model runs in another process, which goes on while we write (took_s, account)

    eos_ids: every id at which the model's own files end a text. opening, closing: the ids that its tokenizer puts
    before and behind a text that stands alone (`raw`, `opened` of core.types).
    """

    spec: ModelSpec
    capabilities: frozenset[str]
    max_context: int
    chat_template: str | None
    bos_token: str
    eos_token: str
    eos_ids: frozenset[int]
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    setup: Setup
    ran: Ledger
    warnings: tuple[str, ...]

    @property
    def n_committed(self) -> int:
        """Tokens per sequence in the cache, without those that are pending."""

    def encode(self, text: str) -> list[int]:
        """Text to ids; special tokens in the text are recognised, none are added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text, special tokens left out."""

    def forward(self, ids: Ids, keep: int | None = None) -> Logits:
        """Run `ids` after what is committed. keep: logits of the last `keep` positions only (None: all).

        The tokens stay pending until `commit`. A second forward without a commit in between
        drops what was pending. Raises ExplorerError when the context is exceeded.
        """

    def commit(self, n: int) -> None:
        """Keep the first n pending tokens in the cache and drop the rest."""

    def rewind(self, n: int) -> None:
        """Take the last n committed tokens back, and drop what is pending (capability "rewind")."""

    def reset(self) -> None:
        """Forget all tokens; keep the weights and the warm kernels."""

    def sync(self) -> None:
        """Wait until the device has finished everything asked of it."""

    def stream(self, ids: Ids, config: GenerationConfig) -> Iterator[Ids]:
        """The library's own generate loop from an empty cache: yields (batch, 1) tokens, one step each."""

    def trace(self) -> Trace:
        """Start measuring time per layer (capability "layers"). Instruments the session until finish()."""

    def close(self) -> None:
        """Free the memory. The session cannot be used afterwards."""


class Counting(Session, Protocol):
    """A session whose forwards can be counted (capability "count")."""

    def count(self, n_new: int, n_past: int = 0) -> Count:
        """Count the FLOPs of one forward (capability "count"). Committed tokens stay; a Logits handle does not."""


class Trees(Session, Protocol):
    """A session whose pending tokens may form a tree (capability "tree")."""

    def forward_tree(self, ids: Ids, parents: Sequence[int]) -> Logits:
        """Like forward of one sequence whose tokens form a tree (capability "tree"): token i stands one position
        after token parents[i] of the same call (-1: after what is committed) and sees only its ancestors."""

    def commit_path(self, indices: Sequence[int]) -> None:
        """Keep these pending tokens, a path from the root of the last forward_tree, and drop the rest."""


class Depths(Session, Protocol):
    """A session whose forwards can leave blocks out (capability "depth").

    exit_heads: numbers of blocks behind which a trained exit head stands.
    """

    exit_heads: tuple[int, ...]

    def forward_to(self, ids: Ids, depth: int, keep: int | None = None) -> Logits:
        """Like forward, through the first `depth` blocks, then the final norm and the head (capability "depth").

        Tokens committed after it lack the later blocks' cache: rewind them before a full forward.
        """

    def forward_through(self, ids: Ids, blocks: Sequence[int], keep: int | None = None) -> Logits:
        """Like forward, through these blocks only, in rising order and with the first (capability "depth").

        A block that has missed a committed token cannot run again until that token is taken back.
        """

    def forward_exit(self, ids: Ids, threshold: float, exits: Sequence[int]) -> tuple[Logits, int]:
        """Like forward of one token with keep=1, leaving after the first of the blocks `exits` at which the largest
        probability reaches `threshold` (capability "depth"). Returns the logits and how many blocks ran.

        The blocks left out get the keys and values of the exit's hidden state (CALM, arXiv 2207.07061, section 3.1).
        """


class Heads(Session, Protocol):
    """A session with trained heads (capability "heads"). head_accuracy[head][rank]: how often that guess was right."""

    head_accuracy: tuple[tuple[float, ...], ...]

    def guesses(self, index: int) -> NDArray[np.float32]:
        """What the heads say of the tokens after next at row `index` of the last forward's kept logits,
        shape (n_heads, vocab) (capability "heads")."""


class Templates(Session, Protocol):
    """A session that knows chat templates by name; the one called "default" is its chat_template.

    special_tokens: its tokenizer's, by the names that templates use ("unk_token", "image_token").
    """

    chat_templates: Mapping[str, str]
    special_tokens: Mapping[str, str]


def chat_templates(session: Session) -> Mapping[str, str]:
    """Name -> chat template; empty where the model has none."""
    named: Mapping[str, str] | None = getattr(session, "chat_templates", None)
    return named or ({"default": session.chat_template} if session.chat_template else {})


def special_tokens(session: Session) -> dict[str, str]:
    """What its chat templates are given: "bos_token", "eos_token" and the others that the model's tokenizer names."""
    named: Mapping[str, str] = getattr(session, "special_tokens", None) or {}
    found = {"bos_token": session.bos_token, "eos_token": session.eos_token, **named}
    return {name: text for name, text in found.items() if text}


def counting(session: Session) -> Counting:
    """The session as one whose forwards can be counted, which it must be."""
    assert "count" in session.capabilities, "its forwards cannot be counted"
    return cast(Counting, session)


def trees(session: Session) -> Trees:
    """The session as one that runs trees, which it must be."""
    assert "tree" in session.capabilities, "it runs no trees"
    return cast(Trees, session)


def depths(session: Session) -> Depths:
    """The session as one that leaves blocks out, which it must be."""
    assert "depth" in session.capabilities, "it leaves no blocks out"
    return cast(Depths, session)


def heads(session: Session) -> Heads:
    """The session as one with trained heads, which it must be."""
    assert "heads" in session.capabilities, "it has no heads"
    return cast(Heads, session)


class Remote(Session, Protocol):
    """A session whose model runs behind a server (capability "remote"): nothing of this process is the model's.

    took_s: of the step that `stream` yielded last, between the arrivals of its pieces; what we do delays none.
    """

    took_s: float | None

    def readable(self, text: str) -> str:
        """A prompt as a person reads it: the marks by which its turns travel to `stream` are no text."""

    def account(self) -> Account | None:
        """What the last answer told beyond its text, t_s being of time.perf_counter; None before there is one."""


def remote(session: Session) -> Remote | None:
    """The session as one behind a server, or None."""
    return cast(Remote, session) if "remote" in session.capabilities else None


def generates(capabilities: frozenset[str]) -> frozenset[str]:
    """Capabilities, with "text" where they are enough to generate: what an evaluation needs that only reads answers;
    and with "likelihood" where they give all logits, of which the probabilities of given tokens are a part."""
    if {"forward", "cache"} <= capabilities:
        return capabilities | {"text", "likelihood"}
    return capabilities | {"text"} if "stream" in capabilities else capabilities


class Likelihoods(Session, Protocol):
    """A session that says of given tokens how likely they are, and no more (capability "likelihood")."""

    def likelihoods(self, ids: Sequence[int]) -> tuple[Sequence[float], Sequence[bool]]:
        """Of ids[1:], each after those before it: log-probability in nats, and whether none is likelier."""


def likely(session: Session) -> Likelihoods | None:
    """The session as one that gives no logits but these, or None."""
    return cast(Likelihoods, session) if "likelihood" in session.capabilities else None


class Progress(Protocol):
    """Tells how far something is that takes long."""

    def __call__(self, note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        """note: what is being done. done of total, in units ("bytes", "matrices"); None where that is not known."""


class Backend(Protocol):
    """A library that runs models. A module in core/backends exposes one as `plugin`."""

    name: str
    label: str
    distributions: tuple[str, ...]  # PyPI distributions whose versions go into the setup
    formats: tuple[str, ...]  # model file formats it opens, preferred first
    dtypes: tuple[str, ...]  # weight dtypes a user may ask for; empty: as the file has them
    capabilities: frozenset[str]  # what its sessions can do at most
    runtime_bytes: int  # resident memory of the imported library itself, as seen on one machine

    @property
    def signal_advice(self) -> dict[int, tuple[str, str, dict[str, Scalar]]]:
        """Signal -> message, hint, options for one retry."""

    @property
    def Options(self) -> type[Record]:  # noqa: N802 - a class
        """What a request may set in `options`."""

    def unavailable(self) -> str | None:
        """None, or one sentence that says what is missing and how to install it. Must be cheap: no import."""

    def reserve(self, spec: ModelSpec, request: Request, n_tokens: int) -> Reserve:
        """What a process that opens this and runs `n_tokens` per sequence will hold in the end. Must be cheap.

        spec: with the dtype it will have here. Raises ExplorerError for what it cannot open so: said before it runs.
        """

    def open(self, path: str, spec: ModelSpec, request: Request, progress: Progress) -> Session:
        """Open the file or folder `path`, which is in a format of `formats`.

        spec: the model's architecture with the dtype it will have here; becomes session.spec.
        """


class Attachment(Protocol):
    """A profiler at work on one pass. Used as: with profiler.attach(...) as a: a.phase(...); steps; a.step(...)"""

    def phase(self, name: Literal["prefill", "decode"]) -> None:
        """A phase begins."""

    def step(self, step: Step) -> None:
        """A step of the current phase ended; called between steps, never timed."""

    def events(self) -> Iterable[Any]:
        """New events since the last call, t_s being time.perf_counter() (the worker turns it into run time).

        Each is written before the next one is asked for: what takes long tells by a Phase how far it is.
        """

    def close(self) -> None:
        """Detach: the session is as before."""


class Profiler(Protocol):
    """Something attached to a pass of its own. A module in core/profilers exposes one as `plugin`."""

    name: str
    label: str
    needs: frozenset[str]
    single: bool  # measures one sequence only
    limit: int | None  # new tokens that its pass needs; None: as many as the request wants

    def unavailable(self) -> str | None:
        """Why it cannot measure here and what to do, or None."""

    def attach(self, session: Session, pass_no: int) -> Attachment:
        """Begin to measure the pass of this number, before its first step."""


@runtime_checkable
class Inside(Protocol):
    """A profiler that measures this process, in which a remote model is not."""

    inside: bool


class Advance(Record):
    """What a strategy yields: a prefill chunk (no tokens yet) or accepted tokens.

    tokens: accepted by each sequence, shape (batch, n) as nested tuples; empty in a prefill chunk. guess: as in Step.
    What was run for it, the sessions themselves note.
    """

    phase: Literal["prefill", "decode"]
    tokens: tuple[tuple[int, ...], ...] = ()
    guess: tuple[int, ...] = ()


class Strategy(Protocol):
    """A way to decode. A module in core/decoding exposes one as `plugin`.

    A strategy whose Params have a field `draft` (a model's id) gets that model's session, opened in the
    same backend and proven to have the same tokenizer, as decode's last argument.
    """

    name: str
    label: str
    needs: frozenset[str]
    single: bool  # decodes one sequence only
    exact: bool  # greedy decoding gives the model's own tokens; sampling, its own distribution

    @property
    def Params(self) -> type[Record]:  # noqa: N802 - a class
        """What a user may set."""

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Any) -> Iterator[Advance]:
        """Generate after `prompt` (batch, n) from an empty cache."""


class Source(Record):
    """The model a transform starts from: its catalogue entry, and the file or folder in a format it reads."""

    entry: ModelEntry
    format: str
    path: str
    spec: ModelSpec


class Job(Protocol):
    """What a running transform has of the world.

    folder: for checkpoints. It outlives a cancel and a kill, and the same request finds it again; it is removed
    when the model is made. progress, curve and check raise when the user asked for a stop: save first.
    """

    folder: Path
    seed: int
    threads: int

    def progress(self, note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        """As Progress; raises when the user asked for a stop."""

    def curve(self, step: int, total: int, **values: float) -> None:
        """A point of the training curves: step of total, a number per curve. Raises when the user asked for a stop."""

    def warn(self, message: str) -> None:
        """One sentence that stands beside the result."""

    def check(self) -> None:
        """Raises when the user asked for a stop."""

    def open(self, model: str, formats: tuple[str, ...]) -> Source:
        """Another model (a teacher) in one of these formats."""


class Outcome(Record):
    """note: one sentence for whoever reads results of this model. facts: numbers and names worth keeping."""

    note: str
    facts: dict[str, Any] = msgspec.field(default_factory=dict)


class Transform(Protocol):
    """Makes a model from a model. A module in core/transforms exposes one as `plugin`."""

    name: str
    label: str
    backend: str  # the backend whose library does the work
    formats: tuple[str, ...]  # of the source, preferred first
    trains: bool  # takes long, writes a curve, goes on from a checkpoint

    @property
    def Params(self) -> type[Record]:  # noqa: N802 - a class
        """What a user may set."""

    def unavailable(self) -> str | None:
        """Why it cannot run here and what to do, or None."""

    def check(self, spec: ModelSpec, params: Any) -> None:
        """Raises ExplorerError when this model cannot be made so; reads no weights."""

    def suffix(self, params: Any) -> str:
        """What tells this model from its parent in its id: "q4_k_m", "drop8"."""

    def run(self, source: Source, params: Any, out: Path, job: Job) -> Outcome:
        """Write the model's files into the folder `out`, which is empty and becomes the model at the end."""


@runtime_checkable
class ReadsQuantized(Protocol):
    """A transform that reads the weights of a folder as another program has quantized them, by itself."""

    reads_quantized: bool


class Generation(Record):
    """An answer. seconds, counts: of the decoding after the first token."""

    text: str
    ids: tuple[int, ...]
    ttft_s: float
    seconds: float
    counts: Counts


class Subject(Protocol):
    """The model under test as a request configured it. reference: the session to compare with, if the eval has one."""

    session: Session
    reference: Session | None
    seed: int

    def prompt(self, messages: Sequence[tuple[str, str]]) -> str:
        """A dialogue of (role, text), with the model's chat template where it has one, up to the answer.

        A last message of the assistant is an answer that has begun.
        """

    def render(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Ids of that prompt."""

    def generate(self, ids: Sequence[int], limit: int, stop: Sequence[str] = ()) -> Generation:
        """Continue `ids` with the request's strategy and sampling, until a stop text, which is left out."""

    def loglikelihood(self, ids: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """Sum of log probabilities (nats) of `continuation` after `ids`, and whether it is the greedy one."""

    def logprobs(self, session: Session, ids: Sequence[int], first: int) -> Iterator[NDArray[np.float32]]:
        """Log probabilities over the vocabulary for ids[first:], in chunks of shape (n, vocab); float32."""


class Eval(Protocol):
    """A measurement of quality. A module in core/evals exposes one as `plugin`.

    An eval whose Params have a field `reference` (a model's id) gets that model's session as subject.reference,
    opened in the backend `reference_backend` of the same Params and proven to have the same tokenizer.
    selects: the settings that only choose which items are asked; two runs may differ in them and still be compared on
    the items that they share. Every other setting changes what an item's values mean.
    """

    needs: frozenset[str]
    selects: frozenset[str]

    @property
    def name(self) -> str:
        """The file's name."""

    @property
    def label(self) -> str:
        """As people read it."""

    @property
    def Params(self) -> type[Record]:  # noqa: N802 - a class
        """What a user may set."""

    def metrics(self, params: Any) -> tuple[Metric, ...]:
        """What is computed of the items' values, in the order in which it is shown."""

    def size(self, params: Any) -> int | None:
        """How many items there will be; None when only the measurement can tell."""

    def measure(self, subject: Subject, params: Any) -> Iterator[Item]:
        """Items as they are judged, each with the fingerprint of what was asked; t_s is 0 and is filled by the worker.

        Raises ExplorerError for bad data.
        """
