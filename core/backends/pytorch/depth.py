"""Forward passes that leave blocks out: through the first ones, through some, or until the model is confident.

Knows models whose body is an embedding, a rotary embedding, a list of blocks and a final norm, and whose
attention projects keys and values one by one: the families below. Exit heads, where the model's folder
has them, stand in for the final norm behind the blocks they were trained on. Knows no session.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardware.errors import ExplorerError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # each is tested: a name alone proves nothing
EXIT_HEADS = "exit_heads.safetensors"


class Depth:
    """Runs some of the blocks of a model over a DynamicCache; all tensors (batch, n, ...).

    body: how its blocks are run, one by one: Modules, or core.backends.pytorch.fused.Fused.
    """

    def __init__(self, model: Any, body: Any) -> None:
        self._body = body
        self._norms = dict(getattr(model, "exit_heads", {}).items())
        self.exit_ranks = {int(block): int(head.down.out_features) for block, head in self._norms.items()}

    @property
    def exit_heads(self) -> tuple[int, ...]:
        return tuple(sorted(self.exit_ranks))

    def through(self, x: Any, cache: Any, n_past: int, blocks: Sequence[int], keep: int | None) -> Any:
        """Logits of the last `keep` ids of x after these blocks, whose caches hold n_past tokens each."""
        assert blocks and blocks[0] == 0 and list(blocks) == sorted(set(blocks)), "blocks rise from the first"
        assert all(cache.layers[i].get_seq_length() == n_past for i in blocks), "a block has missed a token"
        hidden, around = self._body.start(x, cache, n_past)
        for i in blocks:
            hidden = self._body.block(i, hidden, around)
        return self._logits(hidden if keep is None else hidden[:, -keep:], blocks[-1] + 1)

    def until_confident(
        self, x: Any, cache: Any, n_past: int, threshold: float, exits: Sequence[int]
    ) -> tuple[Any, int]:
        """Logits of one token per sequence, and how many blocks ran until every sequence was confident, or all.

        Confident: the largest probability behind a number of blocks in `exits` reaches the threshold.
        """
        assert x.shape[1] == 1, "only one token at a time can leave early"
        assert complete(cache, n_past), "a block has missed a token"
        hidden, around = self._body.start(x, cache, n_past)
        n_blocks = self._body.n_blocks
        for i in range(n_blocks):
            hidden, ran = self._body.block(i, hidden, around), i + 1
            if ran not in exits or ran == n_blocks:
                continue
            logits = self._logits(hidden, ran)
            scores = logits.float()
            if bool(((scores.amax(-1) - scores.logsumexp(-1)).exp() >= threshold).all()):
                for left_out in range(ran, n_blocks):
                    self._body.remember(left_out, hidden, around)
                return logits, ran
        return self._logits(hidden, n_blocks), n_blocks

    def _logits(self, hidden: Any, ran: int) -> Any:
        return self._body.logits(hidden, self._norms.get(str(ran), self._body.norm))


class Modules:
    """The blocks as transformers' modules run them."""

    def __init__(self, model: Any) -> None:
        self._body, self._head, self.norm = model.model, model.lm_head, model.model.norm

    @property
    def n_blocks(self) -> int:
        return len(self._body.layers)

    def start(self, x: Any, cache: Any, n_past: int) -> tuple[Any, dict[str, Any]]:
        """What goes into the first block, and what every block gets beside it; as the model's own forward does."""
        import torch
        from transformers.masking_utils import create_causal_mask

        hidden = self._body.embed_tokens(x)
        positions = torch.arange(n_past, n_past + x.shape[1], device=x.device)[None]
        mask = create_causal_mask(
            config=self._body.config,
            inputs_embeds=hidden,
            attention_mask=None,
            past_key_values=cache,
            position_ids=positions,
        )
        return hidden, {
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": cache,
            "use_cache": True,
            "position_embeddings": self._body.rotary_emb(hidden, position_ids=positions),
        }

    def block(self, i: int, hidden: Any, around: dict[str, Any]) -> Any:
        return self._body.layers[i](hidden, **around)

    def remember(self, i: int, hidden: Any, around: dict[str, Any]) -> None:
        """Write the keys and values that block i would have made of this hidden state (CALM, 2207.07061, 3.1)."""
        block = self._body.layers[i]
        attention, x = block.self_attn, block.input_layernorm(hidden)
        shape = (*x.shape[:-1], -1, attention.head_dim)
        keys, values = attention.k_proj(x).view(shape), attention.v_proj(x).view(shape)
        if hasattr(attention, "k_norm"):
            keys = attention.k_norm(keys)
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        rotate = vars(sys.modules[type(attention).__module__])["apply_rotary_pos_emb"]
        keys = rotate(keys, keys, *around["position_embeddings"])[1]
        around["past_key_values"].update(keys, values, attention.layer_idx)

    def logits(self, hidden: Any, norm: Any) -> Any:
        return self._head(norm(hidden))


def depth_of(model: Any) -> Depth | None:
    """None where the model is not built as this file needs it."""
    known = getattr(model.config, "model_type", None) in FAMILIES and hasattr(model, "lm_head")
    return Depth(model, Modules(model)) if known else None


def complete(cache: Any, n: int) -> bool:
    """Whether every block has seen all n tokens."""
    return all(layer.get_seq_length() == n for layer in cache.layers)


def cut(cache: Any, n: int) -> None:
    """Let every block keep at most its first n tokens; some may hold fewer than others."""
    for layer in cache.layers:
        if (surplus := layer.get_seq_length() - n) > 0:
            layer.crop(-surplus)


# ---------------------------------------------------------------- exit heads


def exit_head(d_model: int, rank: int, norm: Any) -> Any:
    """A module that stands in for the final norm behind an early block: h -> y + B A y with y = norm(h).

    A is (rank, d_model) and B (d_model, rank), zero at first, so that an untrained head is the final norm.
    """
    import copy

    from torch import nn

    class ExitHead(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.scaling = copy.deepcopy(norm)  # called norm, it would pass for the final one in the file
            self.down = nn.Linear(d_model, rank, bias=False)
            self.up = nn.Linear(rank, d_model, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, hidden: Any) -> Any:
            y = self.scaling(hidden)
            return y + self.up(self.down(y))

    return ExitHead()


def add_exit_heads(model: Any, folder: Path) -> None:
    """Give the model the exit heads of its folder, in its dtype and on its device; none where there is no file."""
    file = folder / EXIT_HEADS
    if not file.exists():
        return
    from safetensors.torch import load_file
    from torch import nn

    try:
        tensors = load_file(file)
    except Exception as error:  # safetensors raises its own
        raise ExplorerError(f"{file.name} in {folder.name} is cut off or damaged.", "Make the model again.") from error
    settings = getattr(model.config, "exit_heads", None)
    if not isinstance(settings, dict) or depth_of(model) is None:
        raise ExplorerError(
            f"{folder.name} has exit heads that its config.json does not describe.", "Make the model again."
        )
    heads = nn.ModuleDict(
        {
            str(block): exit_head(model.config.hidden_size, settings["rank"], model.model.norm)
            for block in settings["blocks"]
        }
    )
    heads.load_state_dict({name.removeprefix("exit_heads."): tensor for name, tensor in tensors.items()})
    model.exit_heads = heads.to(device=model.device, dtype=model.dtype).eval()
