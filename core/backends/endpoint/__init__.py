"""A model behind a server: llama.cpp's, Ollama, LM Studio, vLLM, SGLang, TGI, Vertex AI, or any OpenAI-compatible one.

The server runs it, in another process and maybe on another machine; what this backend measures is what a client sees.
Knows how a request becomes a session and what an endpoint cannot tell; the session itself is in session.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from core.backends.endpoint.session import EndpointSession, Options
from core.endpoints import store
from core.plugins import settings
from core.types import Backend, ModelSpec, Progress, Request, Reserve, Scalar


class EndpointBackend:
    name = "endpoint"
    label = "Endpoint (a model server)"
    distributions: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("endpoint",)
    dtypes: tuple[str, ...] = ()
    capabilities = EndpointSession.capabilities
    runtime_bytes = 0
    Options = Options
    signal_advice: ClassVar[dict[int, tuple[str, str, dict[str, Scalar]]]] = {}

    def unavailable(self) -> str | None:
        return None

    def reserve(self, spec: ModelSpec, request: Request, n_tokens: int) -> Reserve:
        """Nothing of it is in a process of ours."""
        return Reserve(
            weights_bytes=0,
            packed_bytes=0,
            kv_bytes=0,
            workspace_bytes=0,
            runtime_bytes=0,
            max_context=spec.max_context,
        )

    def open(self, path: str, spec: ModelSpec, request: Request, progress: Progress) -> EndpointSession:
        options = settings(Options, request.options, self.label)
        served = store.read(Path(path))
        progress(f"Asking {served.endpoint.url}")
        return EndpointSession(spec, served, store.address_of(served.endpoint), options)


plugin: Backend = EndpointBackend()
