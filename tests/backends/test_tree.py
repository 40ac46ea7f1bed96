"""Trees of pending tokens: sessions that can, against plain forwards; and the window and tree built for them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import plugins
from core.decoding._lookahead_window import LookaheadWindow
from core.decoding._tree import Tree
from core.models import spec as specs
from core.types import Request, Session
from hardware.errors import ExplorerError

pytestmark = pytest.mark.engine("pytorch")

BACKENDS = [
    name
    for name in plugins.names("backend")
    if "tree" in (plugin := plugins.get("backend", name)).capabilities and plugin.unavailable() is None
]
PROMPT = np.random.default_rng(5).integers(33, 120, size=(1, 12))
IDS = np.random.default_rng(6).integers(33, 120, size=(1, 8))
PARENTS = [-1, 0, 0, 1, 2, 2, 4, -1]  # two roots, three leaves, one of them the second root
TOLERANCE = 1e-4


def quiet(note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
    pass


def open_tiny(backend: str, folder: Path, **options: str) -> Session:
    path, fmt = importlib.import_module(f"tests.support.tiny.{backend}").make(folder)
    wanted = Request(model="tiny", backend=backend, threads=1, options=dict(options))
    return plugins.get("backend", backend).open(path, specs.read(path, fmt), wanted, quiet)  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=[*((name, {}) for name in BACKENDS), ("pytorch", {"attention": "eager"})])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    name, options = request.param
    made = open_tiny(name, tmp_path_factory.mktemp("tiny"), **options)
    yield made
    made.close()


@pytest.fixture
def session(opened: Session) -> Session:
    """With a prompt read."""
    opened.reset()
    opened.forward(PROMPT, keep=1)
    opened.commit(PROMPT.shape[1])
    return opened


def values(logits: Any) -> Any:
    return logits.numpy()[0].copy()


def close(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(got, wanted, atol=TOLERANCE, rtol=0)


def path_to(node: int, parents: Sequence[int] = PARENTS) -> list[int]:
    return ([] if parents[node] < 0 else path_to(parents[node], parents)) + [node]


# ---------------------------------------------------------------- sessions


def test_a_chain_is_a_forward(session: Session) -> None:
    wanted = values(session.forward(IDS))
    close(values(session.forward_tree(IDS, range(-1, IDS.shape[1] - 1))), wanted)


def test_every_branch_is_the_forward_of_that_branch_alone(session: Session) -> None:
    rows = values(session.forward_tree(IDS, PARENTS))
    assert rows.shape[0] == len(PARENTS)
    for node in range(len(PARENTS)):
        close(rows[node], values(session.forward(IDS[:, path_to(node)], keep=1))[0])
    assert abs(rows[1] - rows[2]).max() > 0.1, "siblings differ"


def test_a_tree_at_the_very_start_needs_no_past(session: Session) -> None:
    session.reset()
    rows = values(session.forward_tree(IDS, PARENTS))
    close(rows[6], values(session.forward(IDS[:, path_to(6)], keep=1))[0])


@pytest.mark.parametrize("path", [[], [0], [0, 1, 3], [0, 2, 4, 6], [7]])
def test_a_path_is_kept_and_the_rest_leaves_no_trace(session: Session, path: list[int]) -> None:
    if path:
        session.forward(IDS[:, path])
        session.commit(len(path))
    wanted = values(session.forward(IDS))
    session.reset()
    session.forward(PROMPT, keep=1)
    session.commit(PROMPT.shape[1])
    session.forward_tree(IDS, PARENTS)
    session.commit_path(path)
    assert session.n_committed == PROMPT.shape[1] + len(path)
    close(values(session.forward(IDS)), wanted)


@pytest.mark.parametrize("path", [[1], [0, 3], [0, 2, 1], [0, 7], [0, 0]])
def test_what_is_no_path_is_refused(session: Session, path: list[int]) -> None:
    session.forward_tree(IDS, PARENTS)
    with pytest.raises(AssertionError):
        session.commit_path(path)


def test_a_path_belongs_to_the_last_tree(session: Session) -> None:
    session.forward_tree(IDS, PARENTS)
    session.forward(IDS)
    with pytest.raises((AssertionError, IndexError)):
        session.commit_path([0])


def test_a_second_tree_drops_the_first(session: Session) -> None:
    wanted = values(session.forward_tree(IDS, PARENTS))
    session.forward_tree(IDS[:, ::-1].copy(), PARENTS)
    close(values(session.forward_tree(IDS, PARENTS)), wanted)
    assert session.n_committed == PROMPT.shape[1]


def test_depth_fills_the_context_and_width_does_not(session: Session) -> None:
    n = session.max_context - 3
    if n > 1000:
        pytest.skip("its context is too large to fill here")
    session.reset()
    session.forward(np.resize(PROMPT, (1, n)), keep=1)
    session.commit(n)
    wide = [-1, 0, 0, 0, 1, 1, 2, 2]
    rows = values(session.forward_tree(IDS, wide))
    session.commit_path([0, 2, 6])
    assert session.n_committed == session.max_context and np.isfinite(rows).all()
    with pytest.raises(ExplorerError, match="context"):
        session.forward_tree(IDS[:, :1], [-1])


SIZES = {
    **{"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
    "opt": {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32},
    **dict.fromkeys(("gpt_neox", "phi", "qwen2", "qwen3", "gemma", "granite", "olmo2", "starcoder2"), SIZES),
    "phi3": {**SIZES, "pad_token_id": 0},
    "smollm3": {**SIZES, "pad_token_id": 0},
    "mixtral": {**SIZES, "num_local_experts": 4},
    "mistral": {**SIZES, "sliding_window": 8},
    "gemma2": {**SIZES, "head_dim": 8, "sliding_window": 8},
    "mamba": {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_a_tree_or_says_that_it_cannot(family: str, tmp_path: Path) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**FAMILIES[family])).save_pretrained(tmp_path)
    request = Request(model=family, backend="pytorch", threads=1)
    session = plugins.get("backend", "pytorch").open(str(tmp_path), specs.read(tmp_path, "hf"), request, quiet)
    session.forward(PROMPT, keep=1)
    session.commit(PROMPT.shape[1])
    if family in ("mistral", "gemma2", "mamba"):  # windows and recurrent states keep rows by their order
        assert "tree" not in session.capabilities
        with pytest.raises(AssertionError):
            session.forward_tree(IDS, PARENTS)
        return
    assert "tree" in session.capabilities
    rows = values(session.forward_tree(IDS, PARENTS))
    assert rows.std() > 0.1, "a model that says nothing proves nothing"
    for node in (3, 5, 6, 7):
        close(rows[node], values(session.forward(IDS[:, path_to(node)], keep=1))[0])


# ---------------------------------------------------------------- the tree of guesses


def test_equal_beginnings_are_one_node() -> None:
    tree = Tree(9)
    assert tree.extend([1, 2, 3]) == [1, 2, 3]
    assert tree.extend([1, 2, 4]) == [1, 2, 4] and tree.extend([2, 3]) == [5, 6]
    assert tree.tokens == [9, 1, 2, 3, 4, 2, 3] and tree.parents == [-1, 0, 1, 2, 2, 0, 5]
    assert tree.add(4, 7) == 7 and tree.parents[7] == 4
    assert tree.guess([0]) == (1, 2, 3) and tree.guess([0, 1, 2, 4]) == (1, 2, 4, 7)


# ---------------------------------------------------------------- lookahead's window


def fed(window: LookaheadWindow, known: int, deepest: int = 99) -> tuple[Tree, list[int]]:
    tree = Tree(known)
    return tree, window.put(tree, deepest)


def line(tree: Tree, node: int) -> list[int]:
    return [tree.tokens[i] for i in path_to(node, tree.parents)]


def counting() -> Iterator[int]:
    yield from range(100, 200)


def test_the_window_is_the_papers() -> None:
    """W = 3, N = 4: after two steps of filling there are three rows of three columns, and then n-grams."""
    fill = counting()
    window = LookaheadWindow(3, 4, 10, lambda: next(fill))
    tree, newest = fed(window, 10)
    # the known token and four guesses, one row
    assert tree.tokens == [10, 100, 101, 102, 103] and newest == [0, 1, 2, 3, 4]
    assert window.step([11, 21, 22, 23, 24], [11], frozenset()) == []
    tree, newest = fed(window, 11)
    # row 0 stands one further: 11 at 1 (it was 100), then 101 to 103; row 1 at 2 to 5, each below its column
    assert [line(tree, node) for node in newest] == [
        [11, 21],
        [11, 101, 22],
        [11, 101, 102, 23],
        [11, 101, 102, 103, 24],
    ]
    assert window.step([31, 32, 33, 34], [12], frozenset()) == []
    tree, newest = fed(window, 12)
    assert [line(tree, node) for node in newest] == [[12, 22, 32], [12, 102, 23, 33], [12, 102, 103, 24, 34]]
    # a column, its key in row 0, and what the model says behind it; the oldest row then leaves
    assert window.step([41, 42, 43], [13], frozenset()) == [(12, 22, 32, 41), (102, 23, 33, 42), (103, 24, 34, 43)]
    tree, newest = fed(window, 13)
    assert [line(tree, node) for node in newest] == [[13, 32, 41], [13, 23, 33, 42], [13, 23, 24, 34, 43]]
    assert len(tree) == 3 * 3


def test_a_window_moves_by_what_was_accepted() -> None:
    fill = counting()
    window = LookaheadWindow(3, 3, 10, lambda: next(fill))
    fed(window, 10)  # 10 100 101 102
    window.step([20, 21, 22, 23], [11], frozenset())
    tree, newest = fed(window, 11)
    assert [line(tree, node) for node in newest] == [[11, 21], [11, 101, 22], [11, 101, 102, 23]]
    # row 1 stood at 2, 3, 4 and its choices stand at 3, 4, 5; with 13 known at 3 both lose a column on the left
    assert window.step([31, 32, 33], [12, 13], frozenset()) == [(11, 21, 31), (101, 22, 32), (102, 23, 33)]
    tree, newest = fed(window, 13)
    assert [line(tree, node) for node in newest] == [[13, 32], [13, 23, 33], [13, 23, 103, 104]]


def test_a_token_that_ends_the_text_does_not_stay_in_the_window() -> None:
    fill = counting()
    window = LookaheadWindow(2, 2, 10, lambda: next(fill))
    fed(window, 10)
    assert window.step([11, 0], [11], frozenset({0})) == [(10, 11), (100, 0)], "the pool may know it"
    assert fed(window, 11)[0].tokens == [11, 101]


def test_a_window_is_cut_where_it_could_not_be_accepted() -> None:
    fill = counting()
    window = LookaheadWindow(4, 3, 10, lambda: next(fill))
    fed(window, 10)
    window.step([20, 21, 22, 23, 24], [11], frozenset())
    tree, newest = fed(window, 11, deepest=2)
    assert max(len(line(tree, node)) for node in range(len(tree))) == 3
    assert [line(tree, node) for node in newest] == [[11, 21], [11, 101, 22]]
    tree, newest = fed(window, 11, deepest=0)
    assert tree.tokens == [11] and newest == []
    assert window.step([], [12], frozenset()) == []


# ---------------------------------------------------------------- the embedded model

N = 24


@pytest.mark.model
def test_the_embedded_model_says_the_same_out_of_a_tree() -> None:
    """In fp32; the heads are untrained, which may cost speed and nothing else."""
    import torch

    from core.backends.pytorch.heads import Heads
    from core.models import artifacts, catalogue
    from core.tokenizers import chat
    from core.types import GenerationConfig

    _, path = artifacts.provide(catalogue.find("smollm2-135m"), ("hf",), quiet)
    request = Request(model="smollm2-135m", backend="pytorch", dtype="fp32", threads=1, options={"device": "cpu"})
    session = plugins.get("backend", "pytorch").open(path, specs.read(path, "hf"), request, quiet)
    model = session._model
    d = model.config.hidden_size
    weight = torch.randn(3, d, d, generator=torch.Generator().manual_seed(0)) / d
    session.add_heads(Heads(model, weight, ((0.5, 0.2, 0.1),) * 3))
    text = chat.render(session.chat_template, "Explain in three sentences why the sky is blue.")
    prompt = np.array([session.encode(text)])

    def said(name: str, **params: Any) -> tuple[list[int], int]:
        strategy = plugins.get("strategy", name)
        steps = list(strategy.decode(session, prompt, GenerationConfig(limit=N), strategy.Params(**params)))
        return [t for step in steps if step.tokens for t in step.tokens[0]], sum(s.phase == "decode" for s in steps)

    wanted, _ = said("autoregressive")
    assert len(wanted) == N
    for name, params, fewer_than in (("lookahead", {}, 22), ("jacobi", {"pool": 7}, 23), ("medusa", {}, N)):
        tokens, n_forward = said(name, **params)
        assert tokens == wanted, f"{name} differs at {next(i for i in range(N) if tokens[i] != wanted[i])}"
        assert n_forward < fewer_than
    session.close()
