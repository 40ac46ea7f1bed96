"""A tree of guesses, verified in one forward pass: every path from the known token is a guess at the text.

The session's forward_tree gives the model's own choice after every node. From the known token on, the choice
is looked for among the node's children, so the accepted tokens are those of autoregressive decoding, whatever
the tree holds (Miao et al., "SpecInfer", 2305.09781, section 4.3). That holds for sampling too, as in _verify.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.decoding._prompt import probabilities
from core.decoding._verify import until_stop
from core.types import Advance, GenerationConfig, Logits, Sampling, Session, trees


class Verified(NamedTuple):
    """What a step accepted. last: the node before the last token; best: the greedy choice behind every node, (n,)."""

    tokens: list[int]
    ended: bool
    last: int
    best: NDArray[np.int64]
    advance: Advance


class Tree:
    """Node 0 is the known token. Equal tokens behind one node are one node."""

    def __init__(self, root: int) -> None:
        self.tokens, self.parents = [root], [-1]
        self._children: list[dict[int, int]] = [{}]  # token -> node

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, parent: int, token: int) -> int:
        """The node of this token behind `parent`."""
        node = self._children[parent].setdefault(token, len(self.tokens))
        if node == len(self.tokens):
            self.tokens.append(token)
            self.parents.append(parent)
            self._children.append({})
        return node

    def extend(self, tokens: Iterable[int]) -> list[int]:
        """The nodes of a line of tokens behind the root."""
        parent, nodes = 0, []
        for token in tokens:
            parent = self.add(parent, token)
            nodes.append(parent)
        return nodes

    def children(self, node: int) -> dict[int, int]:
        return self._children[node]

    def verify(self, session: Session, config: GenerationConfig, rng: np.random.Generator) -> Verified:
        """One forward: the model's choices as far as the tree has them, and the first that it has not."""
        logits = self.forward(session)
        choose = chooser(logits, config.sampling, rng)
        tokens, path = [choose(0)], [0]
        while (node := self._children[path[-1]].get(tokens[-1])) is not None:
            path.append(node)
            tokens.append(choose(node))
        return self.keep(session, config, logits, tokens, path)

    def forward(self, session: Session) -> Logits:
        return trees(session).forward_tree(np.array([self.tokens], dtype=np.int64), self.parents)

    def keep(
        self, session: Session, config: GenerationConfig, logits: Logits, tokens: list[int], path: list[int]
    ) -> Verified:
        """Commit the path, tokens[i] being the choice behind node path[i], up to the first stop token."""
        best: NDArray[np.int64] = logits.argmax()[0]
        tokens, ended = until_stop(tokens, config)
        path = path[: len(tokens)]
        trees(session).commit_path(path)
        advance = Advance(phase="decode", tokens=(tuple(tokens),), guess=self.guess(path))
        return Verified(tokens, ended, path[-1], best, advance)

    def guess(self, path: Sequence[int]) -> tuple[int, ...]:
        """The guesses along an accepted path, and the line of first children behind it, which was not."""
        line = list(path)
        while children := self._children[line[-1]]:
            line.append(next(iter(children.values())))
        return tuple(self.tokens[node] for node in line[1:])


def chooser(logits: Logits, sampling: Sampling, rng: np.random.Generator) -> Callable[[int], int]:
    """What gives the model's choice at a kept row: the greedy one, or one drawn at each call."""
    if sampling.temperature <= 0:
        best = logits.argmax()[0]
        return lambda row: int(best[row])
    rows: NDArray[np.float32] = logits.numpy()[0]

    def draw(row: int) -> int:
        p = probabilities(rows[row][None], sampling)[0]
        return int(rng.choice(len(p), p=p))

    return draw
