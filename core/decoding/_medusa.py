"""Trees out of Medusa heads: heads on the last hidden state guess the tokens after the next, and one forward verifies.

Cai et al., "Medusa: Simple LLM inference acceleration framework with multiple decoding heads" (2401.10774,
section 2.1). Head k reads the hidden state that gave the known token and guesses the token k + 1 behind it. The
tree holds the guesses that are likeliest to be right together. Knows nothing of how they are accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from core.decoding._prompt import first_token
from core.decoding._tree import Tree, Verified
from core.decoding._verify import one_sequence
from core.types import Advance, GenerationConfig, Ids, Record, Session, heads

Verify = Callable[[Tree, Session, GenerationConfig, np.random.Generator], Verified]


class Guesses(Record):
    """What one forward verifies.

    n_nodes: guesses in the tree. More are right more often, and cost more.
    top_k: guesses taken from each head at most.
    tree: measured goes by the heads' accuracies on held-out text, as the paper does, so every step's tree has the
    same shape; confident goes by the probabilities that the heads give in this step.
    prefill_chunk: prompt tokens per forward pass.
    """

    n_nodes: Annotated[int, Meta(ge=1, le=256)] = 12
    top_k: Annotated[int, Meta(ge=1, le=64)] = 6
    tree: Literal["measured", "confident"] = "measured"
    prefill_chunk: Annotated[int, Meta(ge=1, le=1_000_000)] = 512


def decode(
    session: Session, prompt: Ids, config: GenerationConfig, params: Any, label: str, verify: Verify
) -> Iterator[Advance]:
    """The loop of core.types.Strategy. params: Guesses, or what extends them."""
    one_sequence(prompt, label)
    guessing, rng = heads(session), np.random.default_rng(config.seed)
    known, ended = yield from first_token(session, prompt, config, params.prefill_chunk, rng)
    row, left = 0, config.limit - 1
    while left and not ended:
        ranked, chances = ranking(guessing.guesses(row), params.top_k)
        if params.tree == "measured":
            chances = np.array(guessing.head_accuracy)[:, : params.top_k]
        tree, nodes = Tree(known), [0]
        for parent, head, rank in likeliest(chances[: left - 1], params.n_nodes):
            nodes.append(tree.add(nodes[parent], int(ranked[head, rank])))
        step = verify(tree, session, config, rng)
        yield step.advance
        known, row, left, ended = step.tokens[-1], step.last, left - len(step.tokens), step.ended


def ranking(logits: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each head's k likeliest tokens, best first, and their probabilities; both of shape (n_heads, k)."""
    k = min(k, logits.shape[1])
    some = np.argpartition(logits, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(logits, some, axis=1), axis=1, kind="stable")
    ranked = np.take_along_axis(some, order, axis=1)
    shifted = logits - logits.max(axis=1, keepdims=True)
    chances = np.exp(np.take_along_axis(shifted, ranked, axis=1)) / np.exp(shifted).sum(axis=1, keepdims=True)
    return ranked, chances


def likeliest(chances: NDArray[np.float64], n: int) -> Iterator[tuple[int, int, int]]:
    """The n nodes of the largest probability, parents first, each as (parent, head, rank).

    chances[head, rank]: falls with the rank. A node's probability is the product along its path, as if heads
    were right independently (section 2.1.2's greedy construction). parent: 0 is the root, i the i-th node given.
    """
    n_heads, n_ranks = chances.shape
    waiting: list[tuple[float, int, int, int]] = []  # minus its probability, parent, head, rank
    above = [1.0]

    def consider(parent: int, head: int, rank: int) -> None:
        if head < n_heads and rank < n_ranks:
            heappush(waiting, (-above[parent] * float(chances[head, rank]), parent, head, rank))

    consider(0, 0, 0)
    while waiting and len(above) <= n:
        chance, parent, head, rank = heappop(waiting)
        yield parent, head, rank
        above.append(-chance)
        consider(len(above) - 1, head + 1, 0)
        consider(parent, head, rank + 1)
