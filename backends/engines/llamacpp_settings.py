"""llama.cpp's engine settings: from the configuration to the server, and as operators read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.engines.config import LlamaCppConfig
from backends.models import FILE_NAME


def apply_settings(params: Any, config: LlamaCppConfig) -> None:
    """Set the cache types, attention, devices and drafts of the server's parameters (`CommonParams`)."""
    import xllamacpp

    params.n_gpu_layers = config.gpu_layers
    params.cache_type_k = _cache_type(config.cache_type_k)
    params.cache_type_v = _cache_type(config.cache_type_v)
    params.flash_attn_type = {
        "auto": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_AUTO,
        "on": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        "off": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }[config.flash_attention]
    params.split_mode = getattr(xllamacpp.llama_split_mode, f"LLAMA_SPLIT_MODE_{config.split_mode.upper()}")
    if config.tensor_split:
        left_out = len(params.tensor_split) - len(config.tensor_split)
        params.tensor_split = [*config.tensor_split, *([0.0] * left_out)]
    if config.draft_model_path is not None:
        speculative, draft = params.speculative, params.speculative.draft
        speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        draft.mparams.path = config.draft_model_path
        draft.n_max = config.draft_tokens
        draft.n_gpu_layers = config.gpu_layers
        draft.cpuparams.n_threads = params.cpuparams.n_threads
        draft.cpuparams_batch.n_threads = params.cpuparams_batch.n_threads


def told_settings(config: LlamaCppConfig) -> dict[str, str]:
    """What operators ask about, in words; files are named without the way to them."""
    drafts = "off"
    if config.draft_model_path is not None:
        drafts = f"{Path(config.draft_model_path).name}, {config.draft_tokens} tokens"
    prefixes = "in every slot"
    if config.shares_prompts:
        prefixes += f" and across slots ({config.prompt_cache_mib} MiB)"
    split: str = config.split_mode
    if config.tensor_split:
        split += " " + ":".join(f"{share:g}" for share in config.tensor_split)
    return {
        "weights": Path(config.model_path).name if config.model_path else FILE_NAME,
        "cache_type": f"{config.cache_type_k} keys, {config.cache_type_v} values",
        "prefix_caching": prefixes,
        "speculative_decoding": drafts,
        "flash_attention": config.flash_attention,
        "gpu_layers": "all" if config.gpu_layers == -1 else str(config.gpu_layers),
        "split": split,
    }


def _cache_type(name: str) -> Any:
    import xllamacpp

    return getattr(xllamacpp.ggml_type, f"GGML_TYPE_{name.upper()}")
