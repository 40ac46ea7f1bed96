"""What each model server answers to the questions that are no generation, as a ScriptedServer's paths."""

from __future__ import annotations

from typing import Any

from tests.support.scripted_server import Answer, Piece, json_answer


def listing(*ids: str, **more: Any) -> Answer:
    return json_answer({"object": "list", "data": [{"id": i, "object": "model", **more} for i in ids]})


LLAMA_CPP = {
    "/props": json_answer(
        {
            "default_generation_settings": {"n_ctx": 1024},
            "total_slots": 2,
            "build_info": "b11549",
            "chat_template": "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}",
            "bos_token": "<s>",
            "eos_token": "</s>",
        }
    ),
    "/v1/models": listing(
        "/models/Tiny-Q4_K_M.gguf",
        meta={
            "n_ctx": 1024,
            "n_ctx_train": 8192,
            "n_params": 134515008,
            "size": 96576768,
            "n_vocab": 300,
            "ftype": "Q4_K - Medium",
        },
    ),
    "/slots": json_answer(
        [{"id": 0, "n_ctx": 1024, "is_processing": False}, {"id": 1, "n_ctx": 1024, "is_processing": True}]
    ),
}
OLLAMA = {
    "/api/version": json_answer({"version": "0.33.0"}),
    "/api/tags": json_answer(
        {
            "models": [
                {
                    "name": "qwen3:0.6b",
                    "size": 522653767,
                    "details": {"family": "qwen3", "parameter_size": "751.63M", "quantization_level": "Q4_K_M"},
                }
            ]
        }
    ),
    "/api/show": json_answer(
        {
            "capabilities": ["completion", "tools"],
            "model_info": {
                "general.architecture": "qwen3",
                "general.parameter_count": 751632384,
                "qwen3.context_length": 40960,
                "qwen3.block_count": 28,
                "qwen3.embedding_length": 1024,
            },
        }
    ),
    "/api/ps": json_answer(
        {"models": [{"name": "qwen3:0.6b", "size": 1200000000, "size_vram": 1000000000, "context_length": 4096}]}
    ),
}
LM_STUDIO = {
    "/api/v1/models": json_answer(
        {
            "models": [
                {
                    "type": "llm",
                    "key": "qwen/qwen3-4b",
                    "size_bytes": 2500000000,
                    "params_string": "4B",
                    "quantization": {"name": "Q4_K_M", "bits_per_weight": 4},
                    "max_context_length": 262144,
                    "architecture": "qwen3",
                    "loaded_instances": [{"id": "qwen/qwen3-4b", "config": {"context_length": 8192, "parallel": 4}}],
                },
                {"type": "embedding", "key": "nomic", "loaded_instances": []},
            ]
        }
    ),
}
LM_STUDIO_V0 = {
    "/api/v0/models": json_answer(
        {
            "data": [
                {
                    "id": "q",
                    "type": "llm",
                    "arch": "qwen2",
                    "quantization": "Q8_0",
                    "state": "not-loaded",
                    "max_context_length": 32768,
                }
            ]
        }
    ),
}
VLLM = {
    "/version": json_answer({"version": "0.33.0"}),
    "/v1/models": listing("Qwen/Qwen3-4B", owned_by="vllm", max_model_len=32768),
    "/metrics": Answer(
        [Piece(b'# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{engine="0",model_name="q"} 0.25\n')],
        content_type="text/plain",
    ),
}
SGLANG = {
    "/server_info": json_answer(
        {
            "model_path": "Qwen/Qwen3-4B",
            "version": "0.5.23",
            "context_length": 40960,
            "internal_states": [{"weight_memory_usage_gb": 7.5, "kv_cache_memory_usage_gb": 30.0, "token_usage": 0.5}],
        }
    ),
    "/v1/models": listing("Qwen/Qwen3-4B"),
    "/version": json_answer({"version": "0.5.23"}),
}
TGI = {
    "/info": json_answer(
        {
            "model_id": "HuggingFaceTB/SmolLM2",
            "model_dtype": "torch.bfloat16",
            "max_total_tokens": 4096,
            "version": "3.3.7",
            "max_concurrent_requests": 128,
        }
    ),
    "/v1/models": listing("HuggingFaceTB/SmolLM2"),
}
OPENAI = {"/v1/models": listing("some-model", "other-model")}
SERVERS = {
    "llama_cpp": LLAMA_CPP,
    "ollama": OLLAMA,
    "lm_studio": LM_STUDIO,
    "vllm": VLLM,
    "sglang": SGLANG,
    "tgi": TGI,
    "openai": OPENAI,
}
