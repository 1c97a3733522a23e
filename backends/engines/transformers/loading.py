"""Model and tokenizer from a hub id, a local folder or a GGUF file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.engines.config import TransformersConfig
from backends.engines.transformers import converted
from backends.errors import ModelFileError
from backends.models import default_model_path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to generate. `ends` are the tokens that end a reply."""

    model: Any
    tokenizer: Any
    ends: frozenset[int]
    device: str
    dtype: str
    attention: str
    quantisation: str


def load(config: TransformersConfig) -> Loaded:
    """Read everything; blocks for seconds to minutes. Raises ModelFileError."""
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    attention = _attention(config.attention, device)
    try:
        model, tokenizer, stored_as = _read(config, dtype, attention)
        model = model.to(device).eval()
    except ModelFileError:
        raise
    except Exception as error:  # every file format and architecture raises errors of its own
        raise ModelFileError(
            f"transformers could not load {config.model or 'the default model'}: {error}"
        ) from error
    if not getattr(tokenizer, "chat_template", None):
        raise ModelFileError("the model has no chat template: use one that was trained for chat")
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and longest < config.context_tokens:
        raise ModelFileError(
            f"the model's context holds {longest} tokens: set context_tokens to that or less"
        )
    return Loaded(model, tokenizer, _ends(model, tokenizer), device, dtype, attention, stored_as)


def _read(config: TransformersConfig, dtype: str, attention: str) -> tuple[Any, Any, str]:
    import torch

    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
    gguf = config.gguf_path
    if gguf is not None or config.model is None:
        return _read_gguf(gguf or default_model_path(), options, dtype, keep=config.keep_unpacked)
    model, tokenizer = _read_pretrained(config.model, options, revision=config.revision)
    quantised = getattr(model.config, "quantization_config", None)
    method = getattr(quantised, "quant_method", None) if quantised is not None else None
    return model, tokenizer, str(getattr(method, "value", method) or "none")


def _read_gguf(path: Path, options: dict[str, Any], dtype: str, *, keep: bool) -> tuple[Any, Any, str]:
    from transformers import GgufConfig

    if not path.is_file():
        raise ModelFileError(f"there is no model file at {path}: correct model")
    folder = converted.copy_folder(path, dtype) if keep else None
    if folder is not None and folder.is_dir():
        model, tokenizer = _read_pretrained(str(folder), options)
        return model, tokenizer, converted.noted_quantisation(folder)
    model, tokenizer = _read_pretrained(
        str(path.parent),
        # Packed weights are dequantised in every step; unpacked they are what the kernels multiply.
        {**options, "quantization_config": GgufConfig(dequantize=True)},
        gguf_file=path.name,
    )
    stored_as = converted.quantisation(path)
    if folder is not None:
        try:
            converted.save(model, tokenizer, stored_as, folder)
        except OSError as error:
            log.warning("%s is unpacked again at the next start, no copy could be kept: %s", path, error)
    return model, tokenizer, stored_as


def _read_pretrained(source: str, options: dict[str, Any], **where: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # trust_remote_code stays off: code that comes with a model is not run.
    tokenizer = AutoTokenizer.from_pretrained(source, **where)
    return AutoModelForCausalLM.from_pretrained(source, **where, **options), tokenizer


def _device(asked: str) -> str:
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ModelFileError(
            f"there is no GPU for device {asked}: set device to cpu, or install a CUDA build"
        )
    return asked


def _dtype(asked: str, device: str) -> str:
    import torch

    if asked != "auto":
        return asked
    if device != "cpu":
        return "bfloat16"
    # Where the CPU multiplies bfloat16 itself it is about twice as fast as float32, elsewhere slower.
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("amx_bf16") or able.get("avx512_bf16") else "float32"


def _attention(asked: str, device: str) -> str:
    from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

    if asked != "auto":
        return asked
    if device != "cpu" and is_flash_attn_3_available():
        return "flash_attention_3"
    return "flash_attention_2" if device != "cpu" and is_flash_attn_2_available() else "sdpa"


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    told = getattr(model.generation_config, "eos_token_id", None)
    many = told if isinstance(told, list) else [told]
    return frozenset(token for token in (*many, tokenizer.eos_token_id) if token is not None)
