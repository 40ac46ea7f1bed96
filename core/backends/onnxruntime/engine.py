"""One InferenceSession and the meaning of its inputs and outputs.

Knows the names that exporters give to tokens, masks, positions and cache, and what ONNX Runtime
raises for a bad file. Knows nothing of committed tokens or of text.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.backends.onnxruntime.room import Cache, Room
from core.types import Ids, Setup
from hardware.errors import ExplorerError
from hardware.heap import give_back

LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}
CACHE_PREFIXES = (("input.", "output."), ("past_key_values.", "present."), ("past_key_values.", "present_key_values."))
KNOWN_INPUTS = frozenset({"input_ids", "logits_to_keep", "attention_mask", "position_ids", "token_type_ids"})
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
QUIET = 3  # errors only; warnings about nodes left on the CPU would be lost on a reader


class Engine:
    """Runs the graph once: `run` maps tokens and past to logits and present.

    `past` and `present` are caches, with values in the order of the cache inputs. On the processor they lie in memory
    that is used again, once a first run has shown that the graph's presents are as long as past and new tokens
    together; elsewhere they stay where the provider put them.
    """

    _session: Any = None

    def __init__(self, file: Path, provider: str, threads: int, spinning: bool | None, optimization: str) -> None:
        self.file, self.provider, self.threads = file, provider, threads
        self._spinning, self._optimization = spinning, optimization
        self.device = "cuda" if provider.startswith("CUDA") else "cpu"
        self.open()
        inputs = {value.name: value for value in self._session.get_inputs()}
        self._output_types = {value.name: value.type for value in self._session.get_outputs()}
        outputs = list(self._output_types)
        self._logits = _find_logits(outputs, file)
        pairs = _cache_pairs(inputs, outputs)
        self.past_names, self.present_names = [p[0] for p in pairs], [p[1] for p in pairs]
        self._shapes = [inputs[name].shape for name in self.past_names]
        self._dtypes = [DTYPES[inputs[name].type] for name in self.past_names]
        self._room: Room | None = None
        self._others = [name for name in inputs if name not in self.past_names]
        self.keeps_logits = "logits_to_keep" in self._others  # else every position's logits are computed
        if unknown := set(self._others) - KNOWN_INPUTS:
            raise ExplorerError(
                f"{file.name} has inputs that are not known here: {', '.join(sorted(unknown))}.",
                "Choose the model as a Hugging Face folder, from which Roofscope makes its own export.",
            )

    def open(self, profile: str | None = None) -> None:
        """Load the file, in place of what was open. profile: prefix of a profile file, written by `end_profiling`."""
        import onnxruntime

        self.close()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[self._optimization])
        options.log_severity_level = QUIET
        if self._spinning is not None:
            options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self._spinning)))
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile
        try:
            self._session = onnxruntime.InferenceSession(str(self.file), options, providers=[self.provider])
        except Exception as error:  # onnxruntime's exceptions share no class below Exception
            raise _explained(error, self.file) from error

    def setup(self, weight_dtype: str) -> Setup:
        """Keys and values leave a block as its activations do; a graph without a cache has its logits to tell."""
        dtypes = self._dtypes or [DTYPES.get(self._output_types[self._logits], np.float32)]
        dtype = "fp16" if dtypes[0] is np.float16 else "fp32"
        return Setup(
            weight_dtype=weight_dtype,
            activation_dtype=dtype,
            kv_dtype=dtype,
            threads=self.threads,
            device=self.device,
            facts={
                "providers": ", ".join(self._session.get_providers()),
                "graph_optimization": self._optimization,
                "spinning": self._spinning,
            },
        )

    def end_profiling(self) -> None:
        """Write the profile. The session goes on without profiling, at full speed."""
        self._session.end_profiling()

    @property
    def can_slice(self) -> bool:
        """Whether every cache tensor is (batch, heads, past, width), so that its end can be cut off."""
        return all(
            len(shape) == 4 and isinstance(shape[2], str) and isinstance(shape[3], int) for shape in self._shapes
        )

    def empty(self, batch: int) -> Cache:
        """A cache of no tokens."""
        from onnxruntime import OrtValue

        values = []
        for shape, dtype in zip(self._shapes, self._dtypes, strict=True):
            sizes = [batch, *(0 if isinstance(size, str) else size for size in shape[1:])]
            values.append(OrtValue.ortvalue_from_numpy(np.zeros(sizes, dtype), self.device, 0))
        return Cache(values)

    def cut(self, cache: Cache, n: int) -> Cache:
        """The first n positions of every cache tensor. What is cut is gone."""
        if cache.place is not None and self._room is not None:
            return self._room.cut(cache, n)
        return self.copied(cache, n)

    def copied(self, cache: Cache, n: int) -> Cache:
        """The first n positions of every cache tensor, in memory that no session owns."""
        from onnxruntime import OrtValue

        # a real copy: what numpy() returns may lie in memory that its OrtValue gives back
        parts = (value.numpy()[:, :, :n].copy(order="C") for value in cache.values)
        return Cache([OrtValue.ortvalue_from_numpy(part, self.device, 0) for part in parts])

    def run(self, ids: Ids, past: Cache, n_past: int, kept: int) -> tuple[Any, Cache]:
        """Logits of the last `kept` positions, an OrtValue on the CPU, and the present cache."""
        from onnxruntime import OrtValue

        if self._session is None:
            raise ExplorerError("The session is closed.", "Open the model again.")
        batch, n = ids.shape
        binding = self._session.io_binding()
        for name in self._others:
            array = _input(name, ids, n_past, n, kept)
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        for name, value in zip(self.past_names, past.values, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_output(self._logits, "cpu")
        present = self._room.beside(past, batch, n_past + n) if self._room is not None else None
        if present is None:
            for name in self.present_names:
                binding.bind_output(name, self.device)
        else:
            for name, value in zip(self.present_names, present.values, strict=True):
                binding.bind_ortvalue_output(name, value)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise _explained(error, self.file) from error
        logits, *made = binding.get_outputs()
        if present is not None:
            return logits, present
        if self.past_names and self.can_slice and self.device == "cpu":
            sizes = [(value.shape()[1], value.shape()[3]) for value in made]
            if [value.shape() for value in made] == [[batch, heads, n_past + n, width] for heads, width in sizes]:
                self._room = Room(sizes, self._dtypes)
        return logits, Cache(made)

    def close(self) -> None:
        if self._session is None:
            return
        self._session = None
        gc.collect()
        give_back()  # of freed weights, which would count as the next model's


def _input(name: str, ids: Ids, n_past: int, n: int, kept: int) -> Any:
    batch = len(ids)
    if name == "input_ids":
        return np.ascontiguousarray(ids, dtype=np.int64)
    if name == "logits_to_keep":
        return np.arange(n - kept, n)
    if name == "attention_mask":
        return np.ones((batch, n_past + n), dtype=np.int64)
    if name == "position_ids":
        return np.tile(np.arange(n_past, n_past + n), (batch, 1))
    return np.zeros((batch, n), dtype=np.int64)  # token_type_ids: one segment


def _find_logits(outputs: Sequence[str], file: Path) -> str:
    for name in ("logits", "prediction_logits"):
        if name in outputs:
            return name
    raise ExplorerError(
        f"{file.name} has no output called logits, so it is not a language model.",
        "Choose an ONNX export of a text-generation model.",
    )


def _cache_pairs(inputs: dict[str, Any], outputs: Sequence[str]) -> list[tuple[str, str]]:
    """(input, output) names of the cache, in the order of the inputs."""
    pairs = []
    for name in inputs:
        for before, after in CACHE_PREFIXES:
            if name.startswith(before) and after + name.removeprefix(before) in outputs:
                pairs.append((name, after + name.removeprefix(before)))
                break
    return pairs


def _explained(error: Exception, file: Path) -> ExplorerError:
    """What ONNX Runtime says, as one sentence with its usual cause."""
    text = " ".join(str(error).split())
    lower = text.lower()
    if "bad_alloc" in lower or "failed to allocate memory" in lower or "available memory" in lower:
        return ExplorerError(
            "The memory is not enough for this model and context.",
            "Choose a smaller model, a shorter prompt or a smaller batch.",
        )
    if "external" in lower or ".data" in lower:
        return ExplorerError(
            f"The weights beside {file.name} are missing or cut short.",
            f"Copy all files of the export into {file.parent.name}, or export the model again.",
        )
    if "protobuf" in lower or "invalidprotobuf" in lower:
        return ExplorerError(f"{file.name} is damaged or not an ONNX file.", "Export or download the model again.")
    cause = text.split(" : ")[-1][:200].rstrip(".")
    return ExplorerError(f"ONNX Runtime cannot use {file.name}: {cause}.", "Export the model again.")
