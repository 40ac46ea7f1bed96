"""Medusa with the model's own choices: trained heads guess, one forward pass verifies a tree of the guesses.

Cai et al. (2401.10774, section 2.1), with exact acceptance: what is accepted is what the model would have said.
"""

from __future__ import annotations

from collections.abc import Iterator

from core.decoding import _medusa
from core.decoding._tree import Tree
from core.types import Advance, GenerationConfig, Ids, Session, Strategy


class Medusa:
    name = "medusa"
    label = "Medusa heads"
    needs = frozenset({"forward", "cache", "rollback", "tree", "heads"})
    single = True
    exact = True
    Params = _medusa.Guesses

    def decode(
        self, session: Session, prompt: Ids, config: GenerationConfig, params: _medusa.Guesses
    ) -> Iterator[Advance]:
        return _medusa.decode(session, prompt, config, params, self.label, Tree.verify)


plugin: Strategy = Medusa()
