"""Every term of the interface in a sentence or two; knows words, and where in the app the thing itself is seen."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from core.types import Record


class Term(Record, omit_defaults=False):
    """One entry. also: other words for it, abbreviations included. page: the page file that shows it ("" for none)."""

    name: str
    group: str
    about: str
    also: tuple[str, ...] = ()
    page: str = ""

    @property
    def key(self) -> str:
        """Its name in an address."""
        return _slug(self.name)


RUN, CHAT = "pages/measure/run.py", "pages/measure/chat.py"
EVALUATE, TRANSFORM, TRAIN = "pages/measure/evaluate.py", "pages/measure/transform.py", "pages/measure/train.py"
LOAD = "pages/measure/load.py"
ROOFLINE, LAYERS, MEMORY = "pages/understand/roofline.py", "pages/understand/layers.py", "pages/understand/memory.py"
DECODING, JACOBI = "pages/understand/decoding.py", "pages/understand/jacobi.py"
HISTORY, TRADEOFFS = "pages/compare/history.py", "pages/compare/tradeoffs.py"
DEVICES, PREDICT = "pages/plan/devices.py", "pages/plan/predict.py"
ENDPOINTS = "pages/manage/endpoints.py"
PAGE_NAMES = {  # as the menu has them
    RUN: "Run",
    CHAT: "Chat",
    EVALUATE: "Evaluate",
    TRANSFORM: "Transform",
    TRAIN: "Train",
    LOAD: "Load test",
    ROOFLINE: "Roofline",
    LAYERS: "Layers",
    MEMORY: "Memory",
    DECODING: "Decoding",
    JACOBI: "Jacobi, live",
    HISTORY: "History",
    TRADEOFFS: "Trade-offs",
    DEVICES: "Devices",
    PREDICT: "Predict",
    ENDPOINTS: "Endpoints",
}


def _group(name: str, *entries: tuple[str, str, tuple[str, ...], str]) -> tuple[Term, ...]:
    return tuple(Term(name=term, group=name, about=about, also=also, page=page) for term, about, also, page in entries)


TERMS: tuple[Term, ...] = (
    *_group(
        "Speed",
        (
            "Time to first token",
            "From handing in the prompt's tokens to the first token of the answer: prefill and the first choice, "
            "without loading. At a server it also holds the waiting in its queue.",
            ("TTFT", "First token", "prompt latency"),
            RUN,
        ),
        (
            "Time per token",
            "(Latency − time to first token) / (tokens − 1): the mean time of a token after the first one.",
            ("TPOT", "time per output token", "ms per token"),
            RUN,
        ),
        (
            "Inter-token latency",
            "The time between two tokens that follow each other. Its mean is the time per token; its high percentiles "
            "show stutter that the mean hides.",
            ("ITL", "token gap"),
            RUN,
        ),
        ("Latency", "The time of the whole answer, from handing in the prompt to its last token.", ("E2E",), RUN),
        (
            "Decode speed",
            "Tokens per second after the first one, all sequences of the batch together: batch over time per token.",
            ("Decode", "tok/s", "tokens per second", "decode tokens per second"),
            RUN,
        ),
        (
            "Decode phase",
            "The part of an answer after its first token. One token per forward pass, so all weights are read again "
            "for every token: usually memory-bound.",
            (),
            RUN,
        ),
        (
            "Prefill",
            "Reading the prompt: all of its tokens in one or a few forward passes, which share each read of the "
            "weights. Usually compute-bound from a few dozen tokens on.",
            ("prompt processing", "prefill speed"),
            RUN,
        ),
        (
            "Loading",
            "Opening the model. Warm: the worker had it open from the run before, so nothing was loaded.",
            ("load time", "warm start", "cold start"),
            RUN,
        ),
        (
            "Speed-up",
            "Time before over time after. Without its setting (batch, machine, what it is compared with) it says "
            "nothing.",
            ("speedup", "×"),
            DECODING,
        ),
        (
            "Throughput",
            "Tokens per second of all requests together. A larger batch raises it, and makes each user wait longer.",
            ("total tokens per second", "system throughput"),
            LOAD,
        ),
        (
            "Warm-up",
            "A pass that is not counted, so that caches are filled and kernels are chosen before the clock runs.",
            (),
            RUN,
        ),
        (
            "Timing pass",
            "A pass with nothing attached, from which alone the headline numbers come. Profilers have passes of their "
            "own.",
            ("timing", "pass", "repeat"),
            RUN,
        ),
        (
            "Disturbed",
            "Something else took the processor while this was timed: other processes, the hypervisor, a change of "
            "clock. The number is shown with that warning.",
            ("disturbance", "unrest", "drift"),
            RUN,
        ),
        (
            "Forward pass",
            "One way of some tokens through all layers of the network. It reads every weight once, however many "
            "tokens it carries.",
            ("forward", "step"),
            DECODING,
        ),
    ),
    *_group(
        "Work and machine",
        (
            "FLOP",
            "A floating-point operation. A multiply-add counts as two, so a matrix product does two per weight and "
            "token.",
            ("FLOPs", "GFLOP", "MFLOP", "TFLOP", "KFLOP"),
            LAYERS,
        ),
        (
            "FLOP/s",
            "Floating-point operations per second: how fast arithmetic goes, or could go.",
            ("TOPS", "compute", "peak"),
            ROOFLINE,
        ),
        (
            "Bandwidth",
            "Bytes per second that can be read from memory. In decode it decides the speed, since every token reads "
            "the weights.",
            ("memory bandwidth", "B/s", "GB/s"),
            ROOFLINE,
        ),
        (
            "Roofline",
            "The fastest that a piece of work can go: the smaller of peak FLOP/s and bandwidth times arithmetic "
            "intensity.",
            ("roof", "attainable", "of the roof"),
            ROOFLINE,
        ),
        (
            "Ceiling",
            "A measured or stated limit of a machine: its arithmetic in one number format, or its bandwidth. Drawn, "
            "it is a roof.",
            ("measured ceiling",),
            DEVICES,
        ),
        (
            "Arithmetic intensity",
            "FLOPs per byte that has to be moved. Decoding one token does about one FLOP per byte in 16 bit.",
            ("intensity", "FLOP per byte", "FLOP/B"),
            ROOFLINE,
        ),
        (
            "Ridge point",
            "Peak FLOP/s over bandwidth: the arithmetic intensity at which the limit changes from memory to "
            "arithmetic.",
            ("ridge",),
            ROOFLINE,
        ),
        (
            "Memory-bound",
            "Its intensity lies left of the ridge point, so moving bytes takes longer than the arithmetic.",
            ("memory bound", "bound"),
            ROOFLINE,
        ),
        (
            "Compute-bound",
            "Its intensity lies right of the ridge point, so the arithmetic takes longer than moving bytes.",
            ("compute bound",),
            ROOFLINE,
        ),
        (
            "Utilization",
            "Achieved over peak: of the FLOP/s (MFU) or of the bandwidth (MBU). In decode only the second can be high.",
            ("MFU", "MBU", "efficiency"),
            ROOFLINE,
        ),
        (
            "Compulsory traffic",
            "The bytes that must move at least: each weight once per forward pass, each activation once in and out, "
            "the KV cache once.",
            ("model bytes", "bytes moved"),
            LAYERS,
        ),
        (
            "Working set",
            "The bytes that a forward pass touches. One that fits into a cache can be read faster than memory allows.",
            (),
            ROOFLINE,
        ),
        (
            "Accelerator",
            "A processor made for many equal operations at once: a GPU, a TPU, an NPU.",
            ("GPU", "GPUs", "TPU", "NPU", "CUDA", "MPS", "MIG", "HBM", "VRAM", "SM", "NVML"),
            DEVICES,
        ),
        (
            "CPU",
            "The main processor. AMX and AVX are its instructions for matrices and vectors; a core may carry several "
            "threads.",
            ("AMX", "AVX", "SIMD", "thread", "core", "NUMA", "RAM", "DRAM", "DDR"),
            DEVICES,
        ),
        ("TDP", "Thermal design power: the watts that a processor may draw for long, by its data sheet.", (), DEVICES),
        (
            "Energy per token",
            "Joules that one generated token cost: read from the processor's counter (RAPL, NVML), or estimated with "
            "a range where there is none.",
            ("RAPL", "joule", "J/token", "energy"),
            RUN,
        ),
        (
            "Launch overhead",
            "The time of calling a kernel rather than of its work. With many small layers it is what remains of a "
            "token's time.",
            ("overhead", "kernel", "BLAS", "GEMM", "GEMV"),
            LAYERS,
        ),
    ),
    *_group(
        "Memory",
        (
            "Weights",
            "The numbers that training has found. In decode all of them are read for every token.",
            ("weight bytes", "Parameters"),
            MEMORY,
        ),
        (
            "KV cache",
            "Keys and values of all earlier tokens, kept so that they need not be computed again. It grows with the "
            "context and with the batch.",
            ("KV", "key-value cache", "KV dtype", "cache"),
            MEMORY,
        ),
        ("Activations", "What one layer hands to the next, alive only during a forward pass.", (), MEMORY),
        (
            "Workspace",
            "Memory that a library needs while it computes, such as the attention scores where they are written out.",
            ("runtime memory",),
            MEMORY,
        ),
        (
            "Peak memory",
            "The worker's resident memory (RSS) at its highest, library included.",
            ("RSS", "resident memory", "PSS", "USS"),
            MEMORY,
        ),
        (
            "Context",
            "The tokens that the model sees at once: prompt and answer so far. Its length decides the KV cache.",
            ("context length", "prompt tokens"),
            MEMORY,
        ),
        (
            "Batch",
            "Sequences that go through the network together and share each read of the weights.",
            ("batch size", "continuous batching"),
            PREDICT,
        ),
        (
            "GB",
            "A thousand million bytes; MB a million, kB a thousand. Memory of 24 GiB is 25.8 GB.",
            ("MB", "kB", "KB", "TB", "GiB", "MiB"),
            MEMORY,
        ),
    ),
    *_group(
        "The network",
        (
            "Token",
            "A piece of text that the model reads or writes: a short word, or a part of one.",
            ("tokenizer", "BPE", "BOS", "EOS"),
            RUN,
        ),
        (
            "LLM",
            "Large language model: a network that foretells the next token of a text.",
            ("language model", "model"),
            RUN,
        ),
        (
            "Block",
            "Attention and MLP with their norms; a network has dozens of equal ones. Also called a layer.",
            ("transformer block", "Mean depth"),
            LAYERS,
        ),
        (
            "Attention",
            "Each token weighs the values of the tokens before it by how well its query fits their keys.",
            ("self-attention", "head", "MHA", "SDPA"),
            LAYERS,
        ),
        (
            "Grouped-query attention",
            "Several query heads share one head of keys and values, so the KV cache is that much smaller (GQA). MQA: "
            "all share one. MLA: a small latent is cached instead.",
            ("GQA", "MQA", "MLA", "KV heads"),
            MEMORY,
        ),
        (
            "MLP",
            "The feed-forward part of a block: widen, bend, narrow. It holds most of the weights.",
            ("feed-forward", "FFN"),
            LAYERS,
        ),
        (
            "Mixture of experts",
            "Several MLPs of which each token uses a few (MoE): many parameters, fewer bytes read per token.",
            ("MoE", "expert", "router"),
            LAYERS,
        ),
        (
            "Head",
            "The last layer: from the state of a token to one logit for each word of the vocabulary.",
            ("lm_head", "unembedding"),
            LAYERS,
        ),
        (
            "Embedding",
            "The table that gives each token its vector. Often the same table serves as the head.",
            ("vocabulary",),
            LAYERS,
        ),
        (
            "State-space model",
            "A recurrence with a state of fixed size in place of a KV cache (SSM), such as Mamba.",
            ("SSM", "scan", "Mamba"),
            LAYERS,
        ),
        (
            "Norm",
            "Scales each token's vector to a common size before attention and MLP.",
            ("RMS", "LayerNorm", "RMSNorm"),
            LAYERS,
        ),
        (
            "RoPE",
            "Rotary position embedding: queries and keys are turned by an angle that grows with place.",
            (),
            LAYERS,
        ),
        ("Logits", "The scores of all words of the vocabulary for the next token, before softmax.", ("logit",), RUN),
    ),
    *_group(
        "Number formats",
        (
            "Quantization",
            "Storing numbers with fewer bits: fewer bytes to read per token, for a small error.",
            ("quantize", "gguf_quantize", "torch_quantize", "onnx_quantize", "AWQ", "GPTQ"),
            TRANSFORM,
        ),
        (
            "Bits per weight",
            "All stored bits over the number of weights, scales included: a 4-bit format with a 16-bit scale per 32 "
            "weights has 4.5.",
            ("bits", "BPW"),
            TRANSFORM,
        ),
        (
            "bf16",
            "Sixteen bits with the range of fp32 and three decimal digits. fp16 has more digits and less range.",
            ("BF16", "fp16", "FP16", "fp32", "FP32", "dtype", "number format", "F16", "FP8"),
            TRANSFORM,
        ),
        (
            "int8",
            "Whole numbers of eight bits with a scale. Weights alone (less to read), or activations too (faster "
            "arithmetic).",
            ("INT8", "INT4", "int4", "W8A8", "W4A16"),
            TRANSFORM,
        ),
        (
            "GGUF",
            "The file format of llama.cpp: weights in blocks with a scale each (Q8_0, Q4_K_M), tokenizer and template "
            "in one file.",
            ("Q8_0", "Q4_0", "Q4_1", "Q4_K_M", "k-quants", "imatrix"),
            TRANSFORM,
        ),
        (
            "ONNX",
            "A file format for networks as graphs of operators, run by ONNX Runtime.",
            ("ONNX Runtime", "ORT"),
            RUN,
        ),
        (
            "Dequantize",
            "To write quantized weights as plain numbers again. What quantization lost stays lost.",
            ("dequantize",),
            TRANSFORM,
        ),
    ),
    *_group(
        "Decoding",
        (
            "Strategy",
            "How the next tokens are found: one after the other, or several guessed and checked at once.",
            ("decoding strategy",),
            DECODING,
        ),
        (
            "Autoregressive decoding",
            "One forward pass gives one token, which is fed to the next. What every other strategy is compared with.",
            ("autoregressive", "AR", "native"),
            DECODING,
        ),
        (
            "Tokens per forward",
            "Accepted tokens over forward passes of the model in decode. It is the method's number; seconds per "
            "forward pass are the machine's.",
            ("tokens per forward pass",),
            DECODING,
        ),
        (
            "v(n)",
            "The cost of a forward pass of n tokens, in forward passes of one. Guessing pays while tokens per forward "
            "exceed it.",
            ("forward cost", "cost of a forward pass", "Time per forward pass"),
            DECODING,
        ),
        (
            "Acceptance rate",
            "The share of guesses that were right, of those that were decided. A guess behind a wrong one was not.",
            ("alpha", "α", "acceptance"),
            DECODING,
        ),
        (
            "Draft",
            "Tokens that are guessed cheaply, to be checked by the model in one forward pass.",
            ("guess",),
            DECODING,
        ),
        (
            "Speculative decoding",
            "A small model drafts, the large one checks all drafted tokens in one forward pass and keeps what fits, "
            "by a rule that leaves its distribution as it is.",
            ("speculative", "draft model"),
            DECODING,
        ),
        (
            "Self-speculation",
            "The model's own first blocks draft, all blocks check.",
            ("self_speculative", "self speculative"),
            DECODING,
        ),
        (
            "Prompt lookup",
            "The draft is what followed the same words earlier in the text. Costs nothing to draft.",
            ("prompt_lookup", "n-gram"),
            DECODING,
        ),
        (
            "Jacobi decoding",
            "A whole window of guessed tokens is corrected by each forward pass until it no longer changes; a fixed "
            "point is the greedy text.",
            ("jacobi", "Jacobi", "window"),
            JACOBI,
        ),
        (
            "Fast-forwarded",
            "Guesses accepted: tokens beyond the one that every forward pass gives.",
            ("fast-forwarded tokens",),
            JACOBI,
        ),
        (
            "Stationary",
            "Tokens that were right already while a token before them was still wrong, so they had to wait.",
            ("stationary tokens", "fixed"),
            JACOBI,
        ),
        (
            "Lookahead decoding",
            "A Jacobi window feeds a pool of n-grams, which are checked in the same forward pass.",
            ("lookahead",),
            DECODING,
        ),
        (
            "Medusa",
            "Extra heads guess the tokens after the next one; a tree of their guesses is checked at once.",
            ("medusa", "medusa_typical", "medusa_heads", "tree attention"),
            DECODING,
        ),
        (
            "Consistency model",
            "A model trained so that any guess converges in few Jacobi steps (CLLM).",
            ("CLLM", "CLLMs", "consistency"),
            TRAIN,
        ),
        (
            "Early exit",
            "A token leaves the network at a block where the model is already sure. Lossy: the text may change.",
            ("early_exit", "exit_heads", "exit threshold"),
            DECODING,
        ),
        (
            "Layer skipping",
            "Later tokens run through fewer blocks, by their place alone.",
            ("layer_skip", "SkipDecode"),
            DECODING,
        ),
        (
            "Lossless",
            "The greedy text, or the distribution under sampling, is that of autoregressive decoding.",
            ("exact", "lossy"),
            DECODING,
        ),
        (
            "Sampling",
            "Drawing the next token by its probability. Temperature 0 is greedy: always the likeliest.",
            ("temperature", "top k", "top p", "greedy", "Seed"),
            RUN,
        ),
        (
            "Encoding",
            "One forward pass over a whole text by a network that sees it in both directions, such as BERT.",
            ("encode", "encoder", "BERT"),
            RUN,
        ),
    ),
    *_group(
        "Quality and statistics",
        (
            "Perplexity",
            "e to the mean negative log-likelihood of a text's tokens: among how many words the model hesitates.",
            ("PPL", "perplexity"),
            EVALUATE,
        ),
        (
            "KL divergence",
            "How far one model's next-token distribution lies from another's, in nats. 0: the same.",
            ("KL", "divergence", "NLL"),
            EVALUATE,
        ),
        ("Accuracy", "Right answers over questions.", ("acc", "rate", "hit rate"), EVALUATE),
        (
            "F1",
            "Overlap of answer and expected answer: the harmonic mean of precision and recall over words.",
            ("EM", "exact match", "chrF", "BLEU", "ROUGE"),
            EVALUATE,
        ),
        (
            "Execution accuracy",
            "The share of written SQL queries that give the same rows as the expected one when run.",
            ("SQL", "text to SQL"),
            EVALUATE,
        ),
        (
            "GLUE",
            "Public sets of questions about sentences; MMLU, GSM8K, HumanEval and others ask for knowledge, sums, "
            "code.",
            ("SuperGLUE", "SQuAD", "RACE", "MMLU", "GSM8K", "MBPP", "SST"),
            EVALUATE,
        ),
        (
            "Confidence interval",
            "The range that would hold the true value in 95 of 100 such studies.",
            ("interval", "95 % interval", "CI", "bootstrap"),
            TRADEOFFS,
        ),
        (
            "p-value",
            "How often chance alone would show a difference at least this large. After Holm: corrected for having "
            "looked at several.",
            ("p", "McNemar", "Holm", "significance"),
            EVALUATE,
        ),
        (
            "Paired comparison",
            "Both sides meet the same questions, or run in turn, and are compared one by one: what they share cancels.",
            ("pairs", "interleaved"),
            DECODING,
        ),
        (
            "Non-inferiority",
            "Shown to be no worse than a margin that was stated before the answers were known.",
            ("margin", "equal"),
            EVALUATE,
        ),
        (
            "Pareto front",
            "The variants that no other beats in every objective at once.",
            ("front", "hypervolume"),
            TRADEOFFS,
        ),
        (
            "Percentile",
            "p95: 95 of 100 values lie below it. The median is p50.",
            ("p50", "p90", "p95", "p99", "median", "tail latency"),
            LOAD,
        ),
    ),
    *_group(
        "Making models",
        (
            "Distillation",
            "A small model learns from what a large one writes, and from its probabilities.",
            ("distill", "teacher", "student"),
            TRAIN,
        ),
        (
            "Fine-tuning",
            "Training a finished model a little further on questions of one kind. LoRA: only small added matrices.",
            ("finetune", "LoRA", "adapter", "QLoRA"),
            TRAIN,
        ),
        (
            "Pruning",
            "Setting weights to zero (Wanda), or cutting out channels and blocks. Zeros alone do not speed a dense "
            "kernel.",
            ("prune", "Wanda", "2:4", "sparsity", "shrink", "drop_layers", "cut"),
            TRANSFORM,
        ),
        ("Healing", "Short training after a cut, so that the rest takes over what was lost.", ("healed",), TRAIN),
        (
            "AR weight",
            "How much the ordinary next-token loss counts beside the consistency loss.",
            ("ar_weight", "loss", "curve"),
            TRAIN,
        ),
    ),
    *_group(
        "Serving",
        (
            "Vertex AI",
            "Google's cloud service for models. What is deployed there answers over HTTP to Google's credentials.",
            ("AI", "Google Cloud"),
            ENDPOINTS,
        ),
        (
            "Goodput",
            "Requests per second that met their objectives for time to first token and time per token.",
            ("SLO", "SLOs", "service-level objective"),
            LOAD,
        ),
        (
            "Request rate",
            "Requests that arrive per second (RPS, QPS). In an open loop they come whether or not others have ended.",
            ("RPS", "QPS", "arrival rate", "Poisson", "open loop", "closed loop"),
            LOAD,
        ),
        ("Concurrency", "Requests that are going at the same time.", ("in flight",), LOAD),
        (
            "Paged attention",
            "The KV cache in pages, as an operating system keeps memory, so that many sequences fit beside each other.",
            ("PagedAttention", "prefix cache", "chunked prefill"),
            LOAD,
        ),
        (
            "Endpoint",
            "The address of a model server that answers over HTTP (the OpenAI or the Ollama API), streaming by SSE.",
            ("API", "HTTP", "HTTPS", "SSE", "URL", "IP", "TLS"),
            ENDPOINTS,
        ),
    ),
    *_group(
        "Runs",
        (
            "Run",
            "A request and the events that came out of it, kept in a folder; every chart is computed from the two.",
            ("run id", "bundle"),
            HISTORY,
        ),
        (
            "Provenance",
            "Where a number comes from: measured (events), computed (architecture), stated (data sheet), estimated "
            "(with a range).",
            ("measured", "computed", "stated", "estimated"),
            RUN,
        ),
        (
            "Backend",
            "The library that runs the model, in a process of its own: llama.cpp, PyTorch, ONNX Runtime.",
            ("engine", "worker"),
            RUN,
        ),
        (
            "Profiler",
            "What watches a pass: memory, layer times, energy, operators. Each has a pass of its own and states what "
            "it costs.",
            ("profiler", "trace"),
            RUN,
        ),
        (
            "Preset",
            "An architecture without its weights: they are random, so speed and memory are real, text is noise.",
            (),
            RUN,
        ),
        (
            "Study",
            "Many runs under one plan, interleaved, with one report.",
            ("ladder", "benchmark", "sweep"),
            TRADEOFFS,
        ),
    ),
)


def find(word: str) -> Term | None:
    """The entry of a word, whatever its case or number; None without one."""
    for form in _forms(word):
        if form in _index():
            return _index()[form]
    return None


def explained(word: str, more: str = "") -> str:
    """What the word means, for a tooltip, and `more` in a paragraph of its own; `more` alone without an entry."""
    found = find(word)
    return "\n\n".join(part for part in (found.about if found else "", more) if part)


def matching(words: str) -> tuple[Term, ...]:
    """The entries in which every one of these words occurs, those that are named so first; all for no words."""
    parts = words.casefold().split()
    found = [t for t in TERMS if all(p in f"{t.name} {' '.join(t.also)} {t.about}".casefold() for p in parts)]
    return tuple(sorted(found, key=lambda t: not any(_named(t, p) for p in parts)))


def groups(terms: Iterable[Term]) -> dict[str, tuple[Term, ...]]:
    """Entries by their group, both in their order here."""
    found: dict[str, tuple[Term, ...]] = {}
    for term in terms:
        found[term.group] = (*found.get(term.group, ()), term)
    return found


def _named(term: Term, part: str) -> bool:
    return any(part in name.casefold() for name in (term.name, *term.also))


@cache
def _index() -> dict[str, Term]:
    """Every spelling; a name goes before another entry's other words."""
    found = {name.casefold(): term for term in TERMS for name in term.also}
    return found | {term.name.casefold(): term for term in TERMS}


def _forms(word: str) -> tuple[str, ...]:
    plain = word.strip().casefold()
    return plain, plain.removesuffix("s"), f"{plain}s"


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.casefold()).split())
