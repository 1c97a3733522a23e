"""An unpacked copy of a GGUF file in the cache folder: reading it again takes seconds less.

transformers parses a GGUF file in Python and dequantises every tensor, 24 s for a model of 135M parameters;
a folder of safetensors with the same weights is read in well under one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from backends.models import cache_dir

NOTE = "unpacked.json"


def copy_folder(path: Path, dtype: str) -> Path:
    """Where the copy of this file belongs; it depends on its content, the dtype and transformers' version."""
    import transformers

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return cache_dir() / "unpacked" / f"{path.stem}-{digest[:16]}-{dtype}-{transformers.__version__}"


def quantisation(path: Path) -> str:
    """The type that most of the file's weights are stored in, Q4_1 say; takes seconds."""
    from gguf import GGUFReader

    weights: Counter[str] = Counter()
    for tensor in GGUFReader(path).tensors:
        weights[tensor.tensor_type.name] += int(tensor.n_elements)
    return weights.most_common(1)[0][0]


def save(model: Any, tokenizer: Any, stored_as: str, folder: Path) -> None:
    """Write the copy; it appears under its name only when it is complete. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as scratch:
        made = Path(scratch) / folder.name
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        (made / NOTE).write_text(json.dumps({"quantisation": stored_as}))
        try:
            os.replace(made, folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise


def noted_quantisation(folder: Path) -> str:
    """What the file that this copy was made of stored its weights in."""
    return str(json.loads((folder / NOTE).read_text())["quantisation"])
