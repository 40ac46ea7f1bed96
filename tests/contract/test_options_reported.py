"""Asked for is what runs: every option of every backend that a session reports, on the tiny model of that backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import plugins
from core.runs.asked import LEFT, SEEN, settings_unlike
from core.types import Request, Scalar
from tests.support import engines, tiny_session

ASKED: dict[str, tuple[dict[str, Scalar], ...]] = {  # compile is left out: it takes a minute
    "fake": ({"delay_s": 0.001},),
    "llama_cpp": (
        {"n_ctx": 64, "flash_attn": "on", "use_mmap": False},
        {"kv_dtype": "f32", "flash_attn": "off", "use_extra_bufts": False, "n_gpu_layers": 0},
    ),
    "pytorch": ({"attention": "eager", "device": "cpu"}, {"attention": "sdpa"}, {"fused": True}),
    "onnxruntime": (
        {"optimization": "off", "spinning": False, "provider": "cpu"},
        {"optimization": "basic", "spinning": True},
    ),
}
NAMES = [name for name in ASKED if plugins.get("backend", name).unavailable() is None]


@pytest.mark.parametrize("backend", [engines.param(name) for name in NAMES])
def test_what_a_session_reports_is_what_was_asked(backend: str, tmp_path: Path) -> None:
    told = set()
    for options in ASKED[backend]:
        session = tiny_session.opened(backend, tmp_path, options=options)
        try:
            request = Request(model="tiny", backend=backend, threads=1, options=options)
            assert settings_unlike(request, session.setup) == ()
            assert session.setup.threads == 1
            told |= {name for name in options if SEEN[backend][name](session.setup) is not None}
            for name, value in options.items():
                other = _another(backend, name, value)
                if other is not None:
                    wrong = Request(model="tiny", backend=backend, threads=1, options={name: other})
                    assert settings_unlike(wrong, session.setup), f"{name} {other} would not have been noticed"
        finally:
            session.close()
    assert told == set(SEEN[backend]) - {"compile"}, "an option that no session reports"


def _another(backend: str, name: str, value: Scalar) -> Scalar:
    """A value that was not asked for; None where there is none to try."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    others = {"flash_attn": ("on", "off"), "kv_dtype": ("f16", "bf16"), "attention": ("sdpa", "eager")}
    others |= {"optimization": ("all", "off"), "device": ("cuda",), "provider": ("cuda",)}
    return next((v for v in others.get(name, ()) if v not in (value, *LEFT)), None)
