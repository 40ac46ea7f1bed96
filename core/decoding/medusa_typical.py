"""Medusa with typical acceptance: a guess need not be the model's choice, only not unlikely to it.

Cai et al. (2401.10774, section 2.3.1): a guessed token x is accepted when p(x) > min(epsilon, alpha exp(-H(p))),
the longest accepted path wins, and the token behind it is drawn from the model. The text is not distributed as
the model's own. Greedy decoding has no typical tokens but the best one, and is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from core.decoding import _medusa
from core.decoding._prompt import probabilities
from core.decoding._tree import Tree, Verified
from core.types import Advance, GenerationConfig, Ids, Session, Strategy


class Typical(_medusa.Guesses):
    """As for Medusa heads, and how unlikely a guess may be.

    epsilon: a probability that is always enough. alpha: the share of exp(-entropy) that is enough.
    """

    epsilon: Annotated[float, Meta(gt=0, le=1)] = 0.09
    alpha: Annotated[float, Meta(gt=0, le=1)] = 0.3


class MedusaTypical:
    name = "medusa_typical"
    label = "Medusa heads, typical acceptance"
    needs = frozenset({"forward", "cache", "rollback", "tree", "heads"})
    single = True
    exact = False
    Params = Typical

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Typical) -> Iterator[Advance]:
        def verify(tree: Tree, session: Session, config: GenerationConfig, rng: np.random.Generator) -> Verified:
            if config.sampling.temperature <= 0:
                return tree.verify(session, config, rng)
            logits = tree.forward(session)
            p = probabilities(logits.numpy()[0], config.sampling)
            path = longest(tree, p, params.epsilon, params.alpha)
            last = int(rng.choice(p.shape[1], p=p[path[-1]]))
            return tree.keep(session, config, logits, [*(tree.tokens[node] for node in path[1:]), last], path)

        return _medusa.decode(session, prompt, config, params, self.label, verify)


def longest(tree: Tree, p: NDArray[np.float64], epsilon: float, alpha: float) -> list[int]:
    """The longest path of typical guesses from node 0, of equals the likeliest. p: (n_nodes, vocab)."""
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
    enough = np.minimum(epsilon, alpha * np.exp(-entropy))
    found: dict[int, tuple[int, float, list[int]]] = {0: (1, 0.0, [0])}  # length, log probability, path
    for node in range(1, len(tree)):  # parents come first
        parent = tree.parents[node]
        chance = p[parent, tree.tokens[node]]
        if parent in found and chance > enough[parent]:
            length, log_p, path = found[parent]
            found[node] = (length + 1, log_p + float(np.log(chance)), [*path, node])
    return max(found.values())[2]


plugin: Strategy = MedusaTypical()
