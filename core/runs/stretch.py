"""The steps of one phase of one pass and what they add up to, kept as they come: a long run has tens of thousands."""

from __future__ import annotations

from core.types import Counts, Forwards, Step
from core.types.counts import Joining


def one_each(counts: Counts) -> bool:
    """Whether one forward of one token gave one to every sequence, as all steps of a plain decoding do."""
    return counts.forwards == counts.inputs == 1 and counts.tokens == counts.sequences


class Stretch:
    """n: tokens of each sequence; equal_s: seconds of the steps that decode one token by one forward."""

    __slots__ = (
        "_deep",
        "_ran",
        "_text",
        "_texts",
        "cut",
        "drafts",
        "equal_s",
        "forwards",
        "inputs",
        "n",
        "seconds",
        "seconds_of",
        "sequences",
        "steps",
        "tokens",
    )

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.seconds_of: list[float] = []
        self.equal_s: list[float] = []
        self.seconds = self.n = self._deep = 0.0
        self.tokens = self.forwards = self.inputs = self.drafts = self.sequences = 0
        self.cut = False
        self._ran = Joining()
        self._text = ""
        self._texts: list[str] = []  # that are not in _text yet

    def add(self, step: Step) -> None:
        """The next step, in the order in which they ran."""
        counts, seconds = step.counts, step.seconds
        tokens, forwards, sequences = counts.tokens, counts.forwards, counts.sequences
        self.steps.append(step)
        self.seconds_of.append(seconds)
        self._texts.append(step.text)
        self.seconds += seconds
        self.tokens += tokens
        self.forwards += forwards
        self.inputs += counts.inputs
        self.drafts += counts.drafts
        self.sequences += sequences
        if sequences:
            self.n += tokens / sequences
        if counts.depth is None:
            self._deep += forwards
        else:
            self._deep += counts.depth * forwards
            self.cut = True
        if one_each(counts):
            self.equal_s.append(seconds)
        for ran in step.ran:
            self._ran.add(ran)

    @property
    def text(self) -> str:
        """Of all its steps, of the first sequence."""
        if self._texts:
            self._text += "".join(self._texts)
            self._texts.clear()
        return self._text

    @property
    def ran(self) -> tuple[Forwards, ...]:
        """All its forwards, equal ones with an evenly rising past as one."""
        return self._ran.all()

    @property
    def counts(self) -> Counts:
        """Of all its steps as one; sequences: of the first."""
        return Counts(
            tokens=self.tokens,
            forwards=self.forwards,
            inputs=self.inputs,
            drafts=self.drafts,
            depth=self._deep / self.forwards if self.cut and self.forwards else None,
            sequences=self.steps[0].counts.sequences if self.steps else 1,
        )
