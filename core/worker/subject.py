"""The model under test: dialogue in, answer out; and the probabilities it gives to a text.

An answer is timed as a run is, its text put together between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import plugins
from core.types import (
    Counts,
    Generation,
    GenerationConfig,
    Session,
    Strategy,
    counted,
    likely,
    raw,
    special_tokens,
    together,
)
from core.worker.drive import drive
from hardware.errors import ExplorerError

NOTHING = np.empty((0, 0), dtype=np.float32)
CHUNK = 128  # tokens whose logits are held at once: 25 MB for a vocabulary of 49 152


class ModelUnderTest:
    """core.types.Subject over an open session. check: called between steps; raises when a stop is asked for."""

    def __init__(
        self,
        session: Session,
        reference: Session | None,
        strategy: Strategy,
        params: Any,
        draft: Session | None = None,
        seed: int = 0,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.session, self.reference, self.seed = session, reference, seed
        self._strategy, self._params = strategy, params
        self._drafts = () if draft is None else (draft,)
        self._check = check
        # committed by loglikelihood, whose calls often share a beginning, and the logits of the last of these tokens
        self._held: list[int] = []
        self._known = NOTHING

    def prompt(self, messages: Sequence[tuple[str, str]]) -> str:
        begun = messages[-1][1] if messages[-1][0] == "assistant" else ""
        if not self.session.chat_template:
            said = messages[:-1] if begun else messages
            return "\n\n".join(text for _, text in said if text) + f"\n{begun}"
        from core.tokenizers.chat import render_begun, render_messages

        render = render_begun if begun else render_messages
        return render(self.session.chat_template, messages, values=special_tokens(self.session))

    def render(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        text = self.prompt(messages)
        return self.session.encode(text) if self.session.chat_template else raw(self.session, text)

    def generate(self, ids: Sequence[int], limit: int, stop: Sequence[str] = ()) -> Generation:
        self._forget()
        hint = "Choose another strategy or backend."
        plugins.require(self._strategy, self.session.capabilities, "this model", hint)
        self._fits(len(ids) + limit)
        config = GenerationConfig(limit=limit, seed=self.seed, stop=self.session.eos_ids)
        prompt = np.array([ids], dtype=np.int64)
        answer: list[int] = []
        text, ttft_s, seconds = "", 0.0, 0.0
        counts: list[Counts] = []
        steps: Any = self._strategy.decode(self.session, prompt, config, self._params, *self._drafts)
        try:
            for advance, took, ran in drive(steps, self.session, *self._drafts):
                new = advance.tokens[0] if advance.tokens else ()
                known = len(answer)
                answer.extend(new)
                text = self.session.decode(answer)
                cuts = [cut for s in stop if (cut := text.find(s)) >= 0]
                if cuts:  # what a step of many tokens said behind the stop text is no part of the answer
                    answer = answer[: self._first_with(answer, known, stop)]
                if known:
                    seconds += took
                    counts.append(counted(ran, self.session.spec.n_blocks, len(answer) - known))
                else:
                    ttft_s += took
                if cuts:
                    text = text[: min(cuts)]
                    break
                self._check()
        finally:
            steps.close()
        return Generation(
            text=text,
            ids=tuple(answer),
            ttft_s=ttft_s,
            seconds=seconds,
            counts=together(counts),
        )

    def _first_with(self, answer: Sequence[int], known: int, stop: Sequence[str]) -> int:
        """How many tokens of an answer it takes until its text has one of the stop texts; more than are known."""
        for n in range(known + 1, len(answer)):
            if any(s in self.session.decode(answer[:n]) for s in stop):
                return n
        return len(answer)

    def loglikelihood(self, ids: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        assert ids and continuation, "a continuation needs something to continue"
        self._fits(len(ids) + len(continuation) - 1)  # the last token is never fed
        self._check()
        if (far := likely(self.session)) is not None:
            values, greedy = far.likelihoods([*ids, *continuation])
            return float(sum(values[len(ids) - 1 :])), all(greedy[len(ids) - 1 :])
        self.session.ran.clear()
        logits = self._logits([*ids, *continuation[:-1]], len(ids) - 1)
        picked = np.take_along_axis(log_softmax(logits), np.array(continuation)[:, None], axis=1)
        return float(picked.sum()), bool((logits.argmax(-1) == np.array(continuation)).all())

    def _logits(self, ids: Sequence[int], first: int) -> NDArray[np.float32]:
        """Of the tokens from `first` on, shape (n, vocab). What earlier calls have fed is not fed again.

        Choices of one token behind one text are a single forward, as in lm-evaluation-harness.
        """
        known = self._go_back(ids, first)
        fed = ids[len(self._held) :]
        if fed:
            made = self.session.forward(np.array([fed], dtype=np.int64), keep=len(ids) - first - len(known)).numpy()[0]
            self.session.commit(len(fed))
            self._held = list(ids)
            known = np.concatenate((known, made)) if len(known) else made.copy()  # a backend may write there again
        self._known = known
        return known

    def logprobs(self, session: Session, ids: Sequence[int], first: int) -> Iterator[NDArray[np.float32]]:
        assert 0 < first < len(ids), "the first token has nothing before it"
        self._forget()
        if len(ids) - 1 > session.max_context:
            raise ExplorerError(
                f"{len(ids)} tokens exceed the context of {session.max_context} tokens.", "Choose a shorter context."
            )
        session.reset()
        session.ran.clear()
        fed = np.array([ids[:-1]], dtype=np.int64)
        if "cache" not in session.capabilities:
            yield log_softmax(session.forward(fed).numpy()[0, first - 1 :])
            return
        for start in range(0, len(ids) - 1, CHUNK):
            self._check()
            part = fed[:, start : start + CHUNK]
            keep = min(part.shape[1], max(1, start + part.shape[1] - (first - 1)))
            logits = session.forward(part, keep=keep).numpy()[0]
            if start + part.shape[1] >= first:
                yield log_softmax(logits)
            session.commit(part.shape[1])

    def _go_back(self, ids: Sequence[int], first: int) -> NDArray[np.float32]:
        """Leave only what is committed of `ids`; returns the logits that are known of its tokens from `first` on.

        Where those of the first of them are not, it and what is behind it will be fed again.
        """
        held, known = self._held, self._known
        n = next((i for i, (a, b) in enumerate(zip(held, ids, strict=False)) if a != b), min(len(held), len(ids)))
        start = len(held) - len(known)
        known = known[first - start : n - start] if start <= first < n else NOTHING
        if not len(known):
            n = min(n, first)
        if n < len(held) and "rewind" not in self.session.capabilities:
            n, known = 0, NOTHING
        if not n:
            self.session.reset()
        elif n < len(held):
            self.session.rewind(len(held) - n)
        self._held, self._known = held[:n], known
        return known

    def _forget(self) -> None:
        """The session will hold something else."""
        self._held, self._known = [], NOTHING

    def _fits(self, n: int) -> None:
        if n > self.session.max_context:
            raise ExplorerError(
                f"An item needs {n} tokens, and the context has {self.session.max_context}.",
                "Raise the context, or choose fewer examples or shorter answers.",
            )


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over the last axis, in float32."""
    shifted: NDArray[np.float32] = logits - logits.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted
