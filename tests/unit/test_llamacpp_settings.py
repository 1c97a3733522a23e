"""llama.cpp's settings: what is refused, what operators read, what reaches the server's parameters."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from backends.engines.config import LlamaCppConfig
from backends.engines.llamacpp import LlamaCppEngine
from backends.engines.llamacpp_settings import apply_settings
from backends.errors import ModelFileError

ALL: dict[str, Any] = {
    "model_path": "/models/big-Q4_K_M.gguf",
    "gpu_layers": 20,
    "cache_type_k": "q8_0",
    "cache_type_v": "q4_0",
    "flash_attention": "on",
    "split_mode": "row",
    "tensor_split": (3, 1),
    "draft_model_path": "/models/small.gguf",
    "draft_tokens": 6,
}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cache_type_k": "int3"}, "Input should be 'f32'"),
        ({"cache_type_v": "q8_0", "flash_attention": "off"}, "set flash_attention to auto or on"),
        ({"tensor_split": (0, 0)}, "at least one a number above 0"),
        ({"tensor_split": (1, -1)}, "greater than or equal to 0"),
        ({"tensor_split": (float("inf"),)}, "finite"),
        ({"tensor_split": (1,) * 17}, "at most 16 items"),
        ({"split_mode": "columns"}, "Input should be 'none'"),
        ({"draft_tokens": 6}, "needs a draft_model_path"),
        ({"draft_tokens": 0, "draft_model_path": "x"}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        LlamaCppConfig(**fields)
    assert said in str(caught.value)


def test_settings_come_back_from_json_as_they_were() -> None:
    config = LlamaCppConfig(**ALL)
    assert LlamaCppConfig.model_validate_json(config.model_dump_json()) == config


def test_what_operators_read() -> None:
    assert LlamaCppEngine(LlamaCppConfig(**ALL)).info.settings == {
        "weights": "big-Q4_K_M.gguf",
        "cache_type": "q8_0 keys, q4_0 values",
        "prefix_caching": "in every slot and across slots (512 MiB)",
        "speculative_decoding": "small.gguf, 6 tokens",
        "flash_attention": "on",
        "gpu_layers": "20",
        "split": "row 3:1",
    }
    plain = LlamaCppEngine(LlamaCppConfig(prompt_cache_mib=0)).info.settings
    assert plain["weights"] == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert plain["prefix_caching"] == "in every slot"
    assert (plain["speculative_decoding"], plain["gpu_layers"], plain["split"]) == ("off", "all", "layer")


def test_drafts_cost_the_log_probabilities() -> None:
    engine = LlamaCppEngine(LlamaCppConfig(**ALL, logprobs=True))
    assert (engine.info.logprobs, engine.info.top_logprobs) == (False, 0)
    assert LlamaCppEngine(LlamaCppConfig()).info.logprobs


def test_what_the_server_is_told() -> None:
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 3
    apply_settings(params, LlamaCppConfig(**ALL))
    assert params.n_gpu_layers == params.speculative.draft.n_gpu_layers == 20
    assert params.cache_type_k == xllamacpp.ggml_type.GGML_TYPE_Q8_0
    assert params.cache_type_v == xllamacpp.ggml_type.GGML_TYPE_Q4_0
    assert params.flash_attn_type == xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    assert params.split_mode == xllamacpp.llama_split_mode.LLAMA_SPLIT_MODE_ROW
    assert params.tensor_split[:3] == [3.0, 1.0, 0.0]
    assert params.speculative.draft.mparams.path == "/models/small.gguf"
    assert params.speculative.draft.n_max == 6
    assert params.speculative.draft.cpuparams.n_threads == 3
    assert len(params.speculative.types) == 1


def test_left_alone_the_server_keeps_its_own() -> None:
    xllamacpp = pytest.importorskip("xllamacpp")
    params, untouched = xllamacpp.CommonParams(), xllamacpp.CommonParams()
    apply_settings(params, LlamaCppConfig())
    for name in ("cache_type_k", "cache_type_v", "flash_attn_type", "split_mode", "tensor_split"):
        assert getattr(params, name) == getattr(untouched, name), name
    assert params.speculative.types == untouched.speculative.types


@pytest.mark.parametrize("name", ["f32", "bf16", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
@pytest.mark.parametrize("mode", ["none", "layer", "row", "tensor"])
def test_every_type_and_mode_is_one_of_the_servers(name: Any, mode: Any) -> None:
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    apply_settings(params, LlamaCppConfig(cache_type_k=name, cache_type_v=name, split_mode=mode))
    assert params.cache_type_k == params.cache_type_v


async def test_a_missing_draft_model_is_named(tmp_path: Any) -> None:
    (tmp_path / "m.gguf").write_bytes(b"")
    config = LlamaCppConfig(
        model_path=str(tmp_path / "m.gguf"), draft_model_path=str(tmp_path / "absent.gguf")
    )
    with pytest.raises(ModelFileError, match=r"absent\.gguf: correct draft_model_path"):
        await LlamaCppEngine(config).start()
