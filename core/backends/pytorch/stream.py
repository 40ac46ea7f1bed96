"""transformers' own `generate`, one token per step.

`generate` cannot be suspended, so it runs in a thread of its own. The two threads never run at the
same time: `generate` goes on only while the consumer waits inside `next`. A step's time is therefore
the library's step plus two thread switches, and what the consumer does between steps is not hidden
behind the model. Knows nothing of the Session.
"""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

from core.types import GenerationConfig, Ids


class _Abandoned(BaseException):
    """Raised inside `generate` when nobody wants the rest."""


class _Streamer:
    """What `generate` calls with the prompt and then with the tokens of each step."""

    def __init__(self, go_on: SimpleQueue[bool], out: SimpleQueue[Any]) -> None:
        self._go_on, self._out, self._is_prompt = go_on, out, True

    def put(self, value: Any) -> None:
        if self._is_prompt:
            self._is_prompt = False
            return
        self._out.put(value.numpy().reshape(-1, 1).astype(np.int64))
        if not self._go_on.get():
            raise _Abandoned

    def end(self) -> None:
        pass


def generate(model: Any, ids: Any, config: GenerationConfig, pad_id: int) -> Iterator[Ids]:
    """Tokens of shape (batch, 1) as `model.generate` produces them after `ids` (a tensor on its device).

    Closing the iterator stops the generation. What `generate` raises is raised here.
    """
    import torch
    import transformers

    sampling = config.sampling
    drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k or 0, "top_p": sampling.top_p or 1.0}
    settings = transformers.GenerationConfig(
        max_new_tokens=config.limit,
        do_sample=sampling.temperature > 0,
        eos_token_id=sorted(config.stop) or None,
        pad_token_id=pad_id,
        use_cache=True,
        **(drawn if sampling.temperature > 0 else {}),
    )
    go_on: SimpleQueue[bool] = SimpleQueue()
    out: SimpleQueue[Any] = SimpleQueue()

    def run() -> None:
        try:
            if go_on.get():
                torch.manual_seed(config.seed)
                model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=settings,
                    streamer=_Streamer(go_on, out),
                )
            out.put(None)
        except BaseException as error:
            out.put(None if isinstance(error, _Abandoned) else error)

    thread = Thread(target=run, name="generate", daemon=True)
    thread.start()
    try:
        while True:
            go_on.put(True)
            item = out.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        go_on.put(False)
        thread.join()
