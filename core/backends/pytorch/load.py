"""From a folder to a model in memory: device, weights or random weights, tokenizer, and what went wrong.

Knows transformers' loading functions. Knows nothing of the Session contract. Weights come from
safetensors only and code from the folder is never run.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from core.backends.pytorch import quant as quant
from core.models import weight_files
from core.tokenizers.folder import Unread, additions, read_json, tokenizer_file
from core.tokenizers.library import library_tokenizer
from core.types import ModelSpec, Progress, Setup
from hardware.errors import ExplorerError

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
DAMAGED = "Check that the folder is complete and that its config.json matches its weights."
_SCALE = re.compile(r"[._](scales?|scale_inv|zeros|qzeros|zero_point|absmax|global_scale|biases)$")
_BLOCK = re.compile(r"(?:model\.|transformer\.|language_model\.)*(?:layers|h|blocks)\.(\d+)\.")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def own_dtype(folder: Path, spec: ModelSpec) -> str:
    """The dtype in which a folder runs unless a request says otherwise: around integers, what their kernels take."""
    if quantization := quant.stored(folder):
        return next(ours for ours, torchs in DTYPES.items() if torchs == quantization["compute_dtype"])
    return spec.dtype if spec.dtype in DTYPES else "fp32"


def choose_device(asked: str, folder: Path) -> str:
    """ "auto": cuda, else mps, else cpu. Raises ExplorerError for a device that is not there or has no kernels."""
    import torch

    if quant.stored(folder):
        if asked not in ("auto", "cpu"):
            raise ExplorerError(f"The integers in {folder.name} run on the processor only.", "Set the device to cpu.")
        return "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(asked.split(":")[0], False):
        raise ExplorerError(
            f"PyTorch has no device '{asked}' here.", f"Choose one of: {', '.join(d for d in there if there[d])}."
        )
    return asked


def load_model(
    folder: Path, spec: ModelSpec, dtype: str, device: str, attention: str | None, seed: int, progress: Progress
) -> tuple[Any, tuple[str, ...]]:
    """The model in evaluation mode on its device, and warnings about its weights.

    attention: None lets transformers choose (sdpa wherever the model can). A folder without weights
    whose spec says so gets random ones, drawn from `seed` directly in `dtype`. Raises ExplorerError
    for pickles, missing or damaged weights, unknown architectures.
    """
    import torch
    import transformers

    stored = weight_files.of(folder)
    _check_loadable(folder, spec, bool(stored.files))
    quantization = quant.stored(folder)
    if quantization:
        quant.register()
    auto = transformers.AutoModelForCausalLM if spec.causal else transformers.AutoModelForMaskedLM
    arguments: dict[str, Any] = {"dtype": getattr(torch, DTYPES[dtype]), "attn_implementation": attention}
    with explained(f"PyTorch cannot open {folder.name}", DAMAGED), _loading_progress(progress):
        if stored.files:
            progress("Loading weights")
            _check_places(folder, stored)
            own = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
            if not spec.causal and type(own) not in auto._model_mapping:
                raise ExplorerError(
                    f"{folder.name} embeds texts: it reads them both ways and writes none.",
                    "Its work and memory can be computed; to run one, choose a model that writes.",
                )
            arguments["config"] = weight_files.told(own, folder)
            declared = hasattr(own, "quantization_config")
            model, info = auto.from_pretrained(
                str(folder),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **arguments,
            )
            missing = sorted(info["missing_keys"])
            _check_names(folder, missing, info["unexpected_keys"])
            names = {name for name, _ in model.named_parameters()}
            _check_scales(folder, stored.files, info["unexpected_keys"], names, declared)
            _check_numbers(folder, stored.files, quantized=bool(quantization))
        else:
            progress("Making random weights")
            model, missing = _drawn(folder, auto, seed, arguments), []
        model = model.to(device).eval()
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    said = [f"{len(missing)} weights are not in the files and were made up: {shown}."] if missing else []
    if stored.files and (more := _blocks_behind(info["unexpected_keys"], spec.n_blocks)):
        n = "1 block" if more == 1 else f"{more} blocks"
        said.append(f"The files hold {n} more than config.json counts, which {'does' if more == 1 else 'do'} not run.")
    return model, tuple(said) + (quant.warnings() if quantization and quantization["activations"] == "int8" else ())


def _check_places(folder: Path, stored: weight_files.Weights) -> None:
    """Raises ExplorerError where the library takes a tensor, which several files hold, from another than the index."""
    from safetensors import safe_open

    taken: dict[str, Path] = {}
    for file in stored.files if stored.places else ():
        with safe_open(file, "pt") as opened:
            taken |= dict.fromkeys(opened.keys(), file)
    for name, file in taken.items():
        if not stored.has(file, name):
            raise ExplorerError(
                f"{name} lies in several files of {folder.name}, and transformers reads it from {file.name} instead of "
                f"{stored.places[name]}, which the index names.",
                f"Take it out of {file.name}, or save the model again.",
            )


def _check_loadable(folder: Path, spec: ModelSpec, has_weights: bool) -> None:
    """Raises ExplorerError for a folder whose model cannot be loaded from it."""
    if any(layer.name.startswith("encoder.") for layer in spec.layers):
        raise ExplorerError(
            f"{folder.name} is an encoder-decoder, which no backend here runs.",
            "Its work and memory can be computed; to run one, choose a model that only decodes.",
        )
    if not has_weights and any(file.suffix in PICKLES for file in folder.iterdir()):
        raise ExplorerError(
            f"The weights in {folder.name} are a pickle, which can run code when it is opened.",
            "Convert them to safetensors first.",
        )
    if not has_weights and not spec.random_weights:
        raise ExplorerError(
            f"The folder {folder.name} has no weights (no .safetensors file).",
            "Complete the download, or open its config.json as an architecture with random weights.",
        )


def _drawn(folder: Path, auto: Any, seed: int, arguments: dict[str, Any]) -> Any:
    """The model of a folder's configuration with random weights. Raises ExplorerError for an unknown architecture."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    if type(config) not in auto._model_mapping:
        raise ExplorerError(
            f"transformers has no language model for the architecture '{config.model_type}'.",
            "Choose another architecture.",
        )
    torch.manual_seed(seed)
    # from_config would draw torch's initial values first and the model's over them; loading
    # an empty state dict allocates once, in the dtype asked for, and draws once.
    return auto._model_mapping[type(config)].from_pretrained(None, config=config, state_dict={}, **arguments)


def _blocks_behind(unread: Iterable[str], n_blocks: int) -> int:
    """How many blocks behind the last one have weights that the library left unread. Those of towers for pictures or
    sound are not meant."""
    numbers = {int(m[1]) for name in unread if (m := _BLOCK.match(name))}
    return len([n for n in numbers if n >= n_blocks])


def _check_names(folder: Path, missing: Iterable[str], unread: Collection[str]) -> None:
    """Raises ExplorerError where weights that the library made up are in the files, under a longer name or a shorter:
    torch.compile, training on several devices and adapters put words before the names."""
    known = {name: theirs for name in missing for theirs in unread if f".{theirs}".endswith(f".{name}")}
    known |= {name: theirs for name in missing for theirs in unread if f".{name}".endswith(f".{theirs}")}
    if known:
        name = min(known)
        raise ExplorerError(
            f"transformers finds {len(known)} weights of {folder.name} under no name that it knows: {known[name]} is "
            f"to be called {name}.",
            "Rename the tensors, or save the model again without what was put around it.",
        )


def _check_scales(
    folder: Path, files: Iterable[Path], unread: Iterable[str], weights: Collection[str], declared: bool
) -> None:
    """Raises ExplorerError where the library took quantized weights and left scales that change them, or zero points:
    what it has are other numbers. declared: config.json says that they are quantized; else scales are those beside a
    weight."""
    scales = {name for name in unread if _SCALE.search(name)}
    if not declared:
        scales = {name for name in scales if _SCALE.sub("", name).removesuffix(".weight") + ".weight" in weights}
    if scales and not _neutral(files, scales):
        raise ExplorerError(
            f"transformers reads the quantized weights in {folder.name} and leaves {len(scales)} of their scales "
            f"unread ({min(scales)}), so that the model would not be itself.",
            "Write its weights as plain numbers once, and run that model: Transform, Dequantize.",
        )


def _check_numbers(folder: Path, files: Iterable[Path], quantized: bool) -> None:
    """Raises ExplorerError for matrices of integers of which nothing says what they stand for: the library takes them
    as they are."""
    import safetensors

    if quantized or read_json(folder / "config.json").get("quantization_config"):
        return
    for file in files:
        with safetensors.safe_open(file, "pt") as found:
            for name in found.keys():  # noqa: SIM118 - not a dict
                part = found.get_slice(name)
                if name.endswith(".weight") and len(part.get_shape()) == 2 and part.get_dtype()[0] in "IU":
                    raise ExplorerError(
                        f"{name} in {folder.name} is stored in integers ({part.get_dtype()}), and config.json does not "
                        "say what they stand for.",
                        "Use the config.json that came with the weights.",
                    )


def _neutral(files: Iterable[Path], names: Collection[str]) -> bool:
    """Whether these tensors are all there and change nothing: scales are one, zero points and biases zero."""
    import safetensors

    missing = set(names)
    for file in files:
        with safetensors.safe_open(file, "pt") as found:
            here = missing & set(found.keys())
            missing -= here
            for name in here:
                wanted = 1.0 if "scale" in name.rpartition(".")[2] else 0.0
                if not bool((found.get_tensor(name).float() == wanted).all()):
                    return False
    return not missing


class ByteTokenizer:
    """Stands in where an architecture comes without a tokenizer: one token per UTF-8 byte."""

    chat_template = bos_token = eos_token = None
    eos_token_id = pad_token_id = None

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], **_: bool) -> str:
        return bytes(i % 256 for i in ids).decode(errors="replace")


class NoTokenizer(ByteTokenizer):
    """Stands in where real weights come without a tokenizer: it refuses to read a text."""

    def __init__(self, name: str) -> None:
        self._unread = Unread(name)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return self._unread.encode(text)

    def decode(self, ids: Sequence[int], **_: bool) -> str:
        return self._unread.decode(ids)


def check_known(folder: Path) -> None:
    """Raises ExplorerError for an architecture that the library does not have, or whose numbers it refuses."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = read_json(folder / "config.json").get("model_type")
    if isinstance(kind, str) and kind not in CONFIG_MAPPING:
        plain = kind.strip().lower()
        raise ExplorerError(
            f"transformers does not know the architecture '{kind}', and code that comes with a model is never run.",
            f"Did you mean {plain}? Correct 'model_type' in config.json."
            if plain in CONFIG_MAPPING
            else "Its work and memory can be computed; to run it, take its GGUF or a newer transformers.",
        )
    with explained(f"PyTorch cannot open {folder.name}", DAMAGED):
        transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)


def load_tokenizer(folder: Path, spec: ModelSpec) -> Any:
    """The folder's own tokenizer; without one, bytes for random weights, and a refusal to read for real ones."""
    if tokenizer_file(folder) is None:
        return ByteTokenizer() if spec.random_weights else NoTokenizer(folder.name)
    return library_tokenizer(folder)


def added(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer puts before and behind a text that stands alone."""
    if isinstance(tokenizer, ByteTokenizer):
        return (), ()
    return additions(lambda text, special: list(tokenizer.encode(text, add_special_tokens=special)))


def cpu_warnings(dtype: str) -> tuple[str, ...]:
    """What a reader of CPU results must know about this dtype here."""
    if dtype not in emulated("cpu"):
        return ()
    if dtype == "bf16":
        return ("This CPU has no bf16 instructions: bf16 is emulated and slower than fp32.",)
    return ("This CPU has no fp16 matrix instructions: fp16 is emulated and slow.",)


def emulated(device: str) -> tuple[str, ...]:
    """The dtypes that this processor multiplies without instructions for it; only x86 tells."""
    import torch

    if device != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return ()
    bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return (*(() if bf16 else ("bf16",)), *(() if torch.cpu._is_amx_fp16_supported() else ("fp16",)))


def setup(model: Any, spec: ModelSpec, device: str) -> Setup:
    """What runs, as the opened model tells. Its cache takes keys and values as the blocks make them."""
    import torch

    dtype = {torchs: ours for ours, torchs in DTYPES.items()}[str(model.dtype).removeprefix("torch.")]
    found = Setup(
        weight_dtype=spec.dtype,
        activation_dtype=dtype,
        kv_dtype=dtype,
        threads=torch.get_num_threads(),
        device=device,
        emulated=emulated(device),
        facts={"attention": model.config._attn_implementation},
    )
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        return msgspec.structs.replace(
            found,
            device_name=properties.name,
            kernels=f"CUDA {torch.version.cuda}, compute capability {properties.major}.{properties.minor}",
            facts={**found.facts, "device_memory_bytes": properties.total_memory},
        )
    mkldnn = torch.backends.mkldnn.is_available()
    return msgspec.structs.replace(
        found,
        kernels=f"{torch.backends.cpu.get_cpu_capability()}{', oneDNN' if mkldnn else ''}",
        facts={
            **found.facts,
            "onednn_bf16": mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
            "amx": bool(torch.cpu._is_amx_tile_supported()),
        },
    )


@contextmanager
def explained(what: str, hint: str) -> Iterator[None]:
    """Turn what the libraries raise into an ExplorerError: `what`, their first sentence, and the hint."""
    import torch

    try:
        yield
    except ExplorerError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory() from error
    except Exception as error:
        if "can't allocate memory" in str(error):
            raise out_of_memory() from error
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if isinstance(error, KeyError):  # of a table of the library's, or its own words
            cause = cause.strip('"') if " " in cause else f"transformers knows no {cause}"
        raise ExplorerError(f"{what}: {cause.split('. ')[0].rstrip('.')}.", hint) from error


def out_of_memory() -> ExplorerError:
    return ExplorerError(
        "The memory is not enough for this model and context.",
        "Choose a smaller model, a shorter prompt, a smaller batch, or bf16.",
    )


@contextmanager
def _loading_progress(progress: Progress) -> Iterator[None]:
    """Report transformers' progress bars through `progress`, and print nothing."""
    from transformers.utils import logging

    class Bar:
        def __init__(self, iterable: Any = (), desc: str = "", total: float | None = None, **_: Any) -> None:
            self._items, self._desc = iterable, desc or "Loading"
            self._total = total if total is not None or not hasattr(iterable, "__len__") else len(iterable)

        def __iter__(self) -> Iterator[Any]:
            for done, item in enumerate(self._items):
                progress(self._desc, done, self._total, "tensors")
                yield item

        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *args, **kwargs: None

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    verbosity = logging.get_verbosity()
    previous = logging.set_tqdm_hook(lambda factory, args, kwargs: Bar(*args, **kwargs))
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(previous)
