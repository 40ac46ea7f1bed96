"""What a run really ran on: the backend as it is once a model is open, and the machine below it."""

from __future__ import annotations

import msgspec

from core.types.record import Record, Scalar
from hardware.detect import Machine


class ModelFile(Record):
    """The file or folder that was opened, as it was then: another size or date tells of another model."""

    name: str
    size_bytes: int
    modified_s: float  # of its newest part, since the epoch


class Setup(Record):
    """What a backend runs, in our words. It says what is, not what was asked for.

    weight_dtype: of most of the weights. activation_dtype: of what goes from layer to layer. kv_dtype: of the KV cache.
    device: "cpu" or an accelerator. kernels: what the library says of its own. emulated: number formats that this
    device has no instructions for. file_type: what the file calls itself ("Q4_K - Medium"). fused: a step of few, large
    operators in place of the library's own. n_context: tokens per sequence that the cache holds from the start (None:
    it grows). n_batch: the most tokens of all sequences that go through the network at once (None: any number).
    chat_template: the name of the template that the prompt was put into; "" for none. thinking: what it was told of it.
    prunes_last_block: behind the attention of its last block it computes only positions whose logits are wanted.
    buffers_bytes: what the library says it reserved, by its own names. facts: what else there is to show; nothing
    reads it by name.
    """

    weight_dtype: str
    activation_dtype: str
    kv_dtype: str
    threads: int | None = None
    device: str = "cpu"
    device_name: str = ""
    kernels: str = ""
    emulated: tuple[str, ...] = ()
    file: ModelFile | None = None
    file_type: str = ""
    fused: bool = False
    n_context: int | None = None
    n_batch: int | None = None
    prunes_last_block: bool = False
    buffers_bytes: dict[str, int] = msgspec.field(default_factory=dict)
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    facts: dict[str, Scalar] = msgspec.field(default_factory=dict)
    chat_template: str = ""
    thinking: bool | None = None


class Reserve(Record, omit_defaults=False):
    """The resident memory that a backend is predicted to hold for a request.

    packed_bytes: second copies of weights in an order that kernels want. workspace_bytes: activations of the largest
    forward, logits, and what opening holds beside its result. runtime_bytes: the process with its library, and what
    the library keeps of a vocabulary. buffers_bytes: what the library will say that it allocated (Setup.buffers_bytes),
    by use; it counts what no run touches, and is empty where the library says nothing. max_context: tokens that a
    sequence of the request can have, prompt and answer; None where only the opened model tells, or nothing limits it.
    """

    weights_bytes: int
    packed_bytes: int
    kv_bytes: int
    workspace_bytes: int
    runtime_bytes: int
    buffers_bytes: dict[str, int] = msgspec.field(default_factory=dict)
    max_context: int | None = None

    @property
    def total_bytes(self) -> int:
        """Resident, of all parts; buffers_bytes counts what no run touches and is no part of it."""
        return self.weights_bytes + self.packed_bytes + self.kv_bytes + self.workspace_bytes + self.runtime_bytes


class Host(Record):
    """The machine when the model was open. load_average: over 1, 5 and 15 minutes; None where it is not told."""

    machine: Machine
    load_average: tuple[float, float, float] | None = None
    python: str = ""
    date: str = ""
