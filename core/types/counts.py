"""What was run and what came out of it: the shape of every forward, and one count for all records that count."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from core.types.record import Record

Of = Literal["model", "blocks", "draft", "heads", "exits", "fill"]
Span = tuple[int, int]
MOST = 1 << 16


class Forwards(Record, array_like=True, gc=False):  # a long run has very many, and none can be part of a cycle
    """`times` forwards of one shape, one after the other.

    n_new: tokens fed per sequence. n_logits: positions per sequence whose logits are computed (a head that is asked
    behind several blocks counts each time). n_past: cached tokens before the first forward; `rise` more before each
    further one. n_sequences: 0 where an earlier version did not write it. blocks: the spans (first, end) of those that
    ran; empty for all. of: the "model"; its first "blocks" where they draft; a "draft" model; n_new trained "heads" on
    one hidden state; a trained head of rank n_new at one of the "exits", for n_logits positions; "fill" for the keys
    and values alone of blocks that a token left out.
    """

    n_new: int
    n_logits: int
    n_past: int
    n_sequences: int = 1
    of: Of = "model"
    blocks: tuple[Span, ...] = ()
    times: int = 1
    rise: int = 0

    @property
    def pasts(self) -> range | tuple[int, ...]:
        """Cached tokens before each of them."""
        if not self.rise:
            return (self.n_past,) * self.times
        return range(self.n_past, self.n_past + self.times * self.rise, self.rise)


class Counts(Record, gc=False):
    """Of a step, an answer, or any number of steps.

    tokens: accepted, of all sequences together, each up to its own end. sequences: that had not ended before.
    forwards: of the model; inputs: tokens per sequence that were fed to them; depth: the mean share of their blocks
    that ran, None where all did. drafts: forwards that drafted, by a draft model or by the model's first blocks.
    """

    tokens: int = 0
    forwards: int = 0
    inputs: int = 0
    drafts: int = 0
    depth: float | None = None
    sequences: int = 1

    @property
    def per_sequence(self) -> float:
        """Tokens of each sequence that was going."""
        return self.tokens / self.sequences if self.sequences else 0.0


class Ledger:
    """Notes every forward of a session; whoever times steps clears and takes it. The oldest of very many are lost."""

    __slots__ = ("_noted",)

    def __init__(self) -> None:
        self._noted: deque[tuple[int, int, int, int, Of, Sequence[int] | None]] = deque(maxlen=MOST)

    def note(
        self,
        n_new: int,
        n_logits: int,
        n_past: int,
        n_sequences: int,
        of: Of = "model",
        blocks: Sequence[int] | None = None,
    ) -> None:
        """blocks: rising numbers of those that ran; None: all. It is kept as it is, so that noting costs nothing."""
        self._noted.append((n_new, n_logits, n_past, n_sequences, of, blocks))

    def clear(self) -> None:
        """Forget what was noted."""
        self._noted.clear()

    def take(self) -> tuple[Forwards, ...]:
        """All since it was cleared, equal shapes with an evenly rising past as one; clears it."""
        found: list[Forwards] = []
        for n_new, n_logits, n_past, n_sequences, of, blocks in self._noted:
            ran = spans(blocks) if blocks is not None else ()
            now = Forwards(n_new=n_new, n_logits=n_logits, n_past=n_past, n_sequences=n_sequences, of=of, blocks=ran)
            joined = _joined(found[-1], now) if found else None
            found[-1:] = [joined] if joined is not None else [*found[-1:], now]
        self._noted.clear()
        return tuple(found)


class Joining:
    """Forwards as they come, single ones of one shape with an evenly rising past as one."""

    __slots__ = ("_done", "_first", "_rise", "_times")

    def __init__(self) -> None:
        self._done: list[Forwards] = []
        self._first: Forwards | None = None
        self._times = self._rise = 0

    def add(self, now: Forwards) -> None:
        """The next one, in the order in which they ran."""
        first = self._first
        if (
            first is not None
            and first.times == now.times == 1
            and first.n_new == now.n_new
            and first.n_logits == now.n_logits
            and first.n_sequences == now.n_sequences
            and first.of == now.of
            and first.blocks == now.blocks
        ):
            further = now.n_past - first.n_past
            if self._times == 1 and further >= 0:
                self._times, self._rise = 2, further
                return
            if self._times > 1 and further == self._times * self._rise:
                self._times += 1
                return
        self._done += self._last()
        self._first, self._times, self._rise = now, 1, 0

    def all(self) -> tuple[Forwards, ...]:
        """What was added, in that order."""
        return (*self._done, *self._last())

    def _last(self) -> tuple[Forwards, ...]:
        if self._first is None or self._times == 1:
            return () if self._first is None else (self._first,)
        return (msgspec.structs.replace(self._first, times=self._times, rise=self._rise),)


def _joined(a: Forwards, b: Forwards) -> Forwards | None:
    """`a` and one more forward after it, or None where they are no row of equals."""
    rise = b.n_past - a.n_past if a.times == 1 else a.rise
    if rise < 0 or b.n_past != a.n_past + a.times * rise:
        return None
    same = (a.n_new, a.n_logits, a.n_sequences, a.of, a.blocks) == (b.n_new, b.n_logits, b.n_sequences, b.of, b.blocks)
    return msgspec.structs.replace(a, times=a.times + 1, rise=rise) if same else None


def spans(blocks: Iterable[int]) -> tuple[Span, ...]:
    """Rising numbers as stretches (first, end)."""
    if isinstance(blocks, range) and blocks.step == 1:
        return ((blocks.start, blocks.stop),) if blocks else ()
    found: list[Span] = []
    for i in blocks:
        found[-1:] = [(found[-1][0], i + 1)] if found and found[-1][1] == i else [*found[-1:], (i, i + 1)]
    return tuple(found)


def counted(ran: Iterable[Forwards], n_blocks: int, tokens: int = 0, sequences: int = 1) -> Counts:
    """The counts of these forwards, and of what came out of them. n_blocks: of the whole model."""
    ran = tuple(ran)
    own = [f for f in ran if f.of == "model"]
    forwards, share = sum(f.times for f in own), 1.0
    if forwards and any(f.blocks for f in own):
        share = sum(f.times * (sum(b - a for a, b in f.blocks) or n_blocks) for f in own) / (n_blocks * forwards)
    return Counts(
        tokens=tokens,
        forwards=forwards,
        inputs=sum(f.times * f.n_new for f in own),
        drafts=sum(f.times for f in ran if f.of in ("blocks", "draft")),
        depth=share if any(f.blocks for f in own) else None,
        sequences=sequences,
    )


def together(parts: Iterable[Counts]) -> Counts:
    """The counts of several steps or answers as one; sequences: of the first."""
    tokens = forwards = inputs = drafts = 0
    deep, cut, sequences = 0.0, False, None
    for c in parts:  # once: a run may have very many
        tokens += c.tokens
        forwards += c.forwards
        inputs += c.inputs
        drafts += c.drafts
        if c.depth is None:
            deep += c.forwards
        else:
            deep, cut = deep + c.depth * c.forwards, True
        if sequences is None:
            sequences = c.sequences
    return Counts(
        tokens=tokens,
        forwards=forwards,
        inputs=inputs,
        drafts=drafts,
        depth=deep / forwards if cut and forwards else None,
        sequences=1 if sequences is None else sequences,
    )
