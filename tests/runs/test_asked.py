"""What the worker reports is compared with the request, for every option of every backend."""

from __future__ import annotations

import msgspec
import pytest

from core import plugins
from core.runs.asked import SEEN, UNSEEN, settings_unlike, unlike
from core.runs.recording import Recording
from core.types import Counts, Event, Generate, Loaded, Pass, Request, Scalar, Setup, Step
from tests.support.facts import NOTHING

REQUEST = Request(model="m", backend="fake", task=Generate(prompt_tokens=3, max_new_tokens=2), threads=2, dtype="bf16")
SETUP = Setup(weight_dtype="bf16", activation_dtype="bf16", kv_dtype="bf16", threads=2, facts={"delay_s": 0.5})


def test_every_option_of_every_backend_is_reported_or_named_as_unseen() -> None:
    for name in plugins.names("backend"):
        options = set(plugins.get("backend", name).Options.__struct_fields__)
        assert options == set(SEEN[name]) | set(UNSEEN.get(name, ())), name


@pytest.mark.parametrize(
    ("backend", "options", "setup", "sentences"),
    [
        ("llama_cpp", {"kv_dtype": "f16"}, {"kv_dtype": "fp16"}, ()),
        ("llama_cpp", {"kv_dtype": "q8_0"}, {"kv_dtype": "fp16"}, ("Asked for kv dtype q8_0, and fp16 ran.",)),
        ("llama_cpp", {"n_ctx": "512"}, {"n_context": 512}, ()),
        ("llama_cpp", {"n_ctx": 512}, {"n_context": 256}, ("Asked for n ctx 512, and 256 ran.",)),
        ("llama_cpp", {"flash_attn": "on"}, {"facts": {"flash_attention": True}}, ()),
        ("llama_cpp", {"flash_attn": "auto"}, {"facts": {"flash_attention": False}}, ()),
        (
            "llama_cpp",
            {"flash_attn": "off"},
            {"facts": {"flash_attention": True}},
            ("Asked for flash attn off, and on ran.",),
        ),
        ("llama_cpp", {"use_mmap": False}, {"facts": {"use_mmap": True}}, ("Asked for use mmap off, and on ran.",)),
        ("pytorch", {"fused": True}, {}, ("Asked for fused on, and off ran.",)),
        ("pytorch", {"device": "cuda"}, {"device": "cuda:0"}, ()),
        ("pytorch", {"compile": True}, {"facts": {"compile": True}}, ()),
        ("onnxruntime", {"provider": "auto"}, {"device": "cpu"}, ()),
        (
            "onnxruntime",
            {"optimization": "off"},
            {"facts": {"graph_optimization": "all"}},
            ("Asked for optimization off, and all ran.",),
        ),
    ],
)
def test_options_as_reported(
    backend: str, options: dict[str, Scalar], setup: dict[str, object], sentences: tuple[str, ...]
) -> None:
    request = msgspec.structs.replace(REQUEST, backend=backend, options=options)
    assert settings_unlike(request, msgspec.structs.replace(SETUP, **setup)) == sentences


def recording(request: Request, setup: Setup = SETUP, n_prompt: int = 3, n_new: int = 2, **loaded: object) -> Recording:
    events: list[Event] = [
        Loaded(
            t_s=0,
            seconds=0,
            warm=False,
            spec=NOTHING,
            n_prompt_tokens=n_prompt,
            prompt_text="",
            setup=setup,
            capabilities=(),
            **loaded,  # type: ignore[arg-type]
        ),
        Pass(t_s=1, number=0, kind="timing"),
        *(
            Step(t_s=2 + n, pass_no=0, phase="decode", seconds=0.1, counts=Counts(tokens=1), n_context=n)
            for n in range(n_new)
        ),
    ]
    return Recording(request, events)


def test_a_run_as_asked() -> None:
    assert unlike(REQUEST, recording(REQUEST)) == ()


def test_one_forward_makes_no_tokens() -> None:
    request = msgspec.structs.replace(REQUEST, strategy="encode")
    assert unlike(request, recording(request, n_new=0)) == ()


def test_what_differs_is_one_sentence_each() -> None:
    setup = msgspec.structs.replace(SETUP, threads=1, weight_dtype="fp32")
    found = unlike(REQUEST, recording(REQUEST, setup, n_prompt=5, n_new=1, options={"delay_s": 2.0}))
    assert found == (
        "Asked for threads 2, and 1 ran.",
        "Asked for weights bf16, and fp32 ran.",
        "Asked for delay s the default, and 2.0 ran.",
        "Asked for prompt tokens 3, and 5 ran.",
        "Asked for new tokens 2, and 1 ran.",
    )
    assert unlike(REQUEST, Recording(REQUEST, [])) == ("The worker did not report what it ran.",)
