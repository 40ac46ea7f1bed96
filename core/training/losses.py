"""The losses of autoregressive tuning, of consistency training and of distillation, over one packed forward.

Kou et al., "CLLMs: Consistency large language models" (arXiv 2403.00835, section 3.2). The autoregressive loss covers
the first answer token, which the last prompt token predicts, and outweighs the consistency loss about ten times:
without either the model collapses into repeated tokens while both losses look fine.
"""

from __future__ import annotations

from typing import Any, Literal

from core.training.packing import Packed, tensors


def logits(model: Any, packed: Packed) -> tuple[Any, Any]:
    """(of the outputs that predict answer tokens, of those behind a wrong guess), each (n, vocab) in float32.

    The head runs on these outputs alone: it is a fifth of a small model's work.
    """
    import torch

    hidden = model.base_model(**tensors(packed, model), use_cache=False).last_hidden_state
    rows = torch.from_numpy(packed.answers[0]), torch.from_numpy(packed.guesses[0])
    columns = torch.from_numpy(packed.answers[1]), torch.from_numpy(packed.guesses[1])
    picked = model.get_output_embeddings()(hidden[torch.cat(rows), torch.cat(columns)]).float()
    return picked[: len(rows[0])], picked[len(rows[0]) :]


def autoregressive(clean: Any, packed: Packed) -> Any:
    """Mean cross-entropy of the answer tokens, in nats."""
    import torch

    return torch.nn.functional.cross_entropy(clean, torch.from_numpy(packed.answer_targets))


def consistency(clean: Any, noisy: Any, packed: Packed, kind: Literal["ce", "kl"], decay: float = 1.0) -> Any:
    """Weighted mean over the outputs behind a wrong guess, in nats; 0 when every guess is right.

    ce: cross-entropy with the sequence's own tokens. kl: forward divergence from the model's distribution over clean
    text at the same place, which is held fixed (the global consistency loss, eq. 7). decay: an output weighs
    decay^d, d guesses behind the first wrong one: a decoder accepts the near ones first, and far ones are hardest
    (as Medusa weighs its heads, arXiv 2401.10774, section 2.2.1).
    """
    import torch

    if not len(noisy):
        return noisy.sum()
    if kind == "ce":
        each = torch.nn.functional.cross_entropy(noisy, torch.from_numpy(packed.guess_targets), reduction="none")
    else:
        place = {
            (row, column): i for i, (row, column) in enumerate(zip(*(a.tolist() for a in packed.answers), strict=True))
        }
        columns = packed.positions[packed.guesses]  # a clean token's column is its position
        same = [place[row, column] for row, column in zip(packed.guesses[0].tolist(), columns.tolist(), strict=True)]
        wanted = torch.log_softmax(clean.detach(), -1)[same]
        each = torch.nn.functional.kl_div(torch.log_softmax(noisy, -1), wanted, reduction="none", log_target=True)
        each = each.sum(-1)
    weight = decay ** torch.from_numpy(packed.behind).float()
    return (weight * each).sum() / weight.sum()


def distillation(student: Any, teacher: Any, temperature: float) -> Any:
    """tau^2 KL(teacher || student) at temperature tau, mean over tokens, in nats.

    Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (arXiv 1503.02531, section 2).
    """
    import torch

    student, teacher = torch.log_softmax(student / temperature, -1), torch.log_softmax(teacher / temperature, -1)
    return temperature**2 * torch.nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
