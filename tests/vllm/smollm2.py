"""The default model as vLLM wants it: a folder of safetensors, made from the pinned GGUF.

`python -m tests.vllm.smollm2` prints the folder; making it takes half a minute, once.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from backends.engines.config import VLLMConfig
from backends.models import cache_dir, fetch_default_model
from tests.engine_subjects import CONTEXT, PARALLEL

FOLDER_NAME = "SmolLM2-135M-Instruct-bf16"
BLOCK_TOKENS = 32  # on a CPU vLLM would take 128, and prompts are cached in whole blocks


def vllm_config(**fields: Any) -> VLLMConfig:
    """The model on a CPU, in the shape that the contract asks for."""
    shape = {"context_tokens": CONTEXT, "parallel": PARALLEL, "block_tokens": BLOCK_TOKENS}
    return VLLMConfig(
        **{"model": str(model_folder()), **shape, "dtype": "float32", "enforce_eager": True, **fields}
    )


def model_folder() -> Path:
    """The folder, fetched and converted if it is not there yet; it appears under its name when complete."""
    folder = cache_dir() / FOLDER_NAME
    if folder.is_dir():
        return folder
    gguf = fetch_default_model(report=print)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print(f"Converting {gguf.name} to bfloat16 safetensors.")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".convert-") as scratch:
        made = Path(scratch) / FOLDER_NAME
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        plain = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            **source, quantization_config=plain, dtype=torch.bfloat16
        )
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(**source).save_pretrained(made)
        os.replace(made, folder)
    return folder


if __name__ == "__main__":
    print(model_folder())
