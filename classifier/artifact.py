"""A trained classifier as a directory of plain files: weights.npz, card.json, MANIFEST.json.

The manifest holds the sha256 of the other two, checked at every load: it finds damage and careless edits.
Whoever can rewrite the whole directory can rewrite the manifest too; compare `version` where that matters.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.arrays import from_arrays, to_arrays
from classifier.errors import ArtifactCorrupt, ArtifactError, ArtifactForbidden, ArtifactIncompatible
from classifier.features import FEATURE_VERSION
from classifier.forward import Weights
from classifier.tables import OutcomeTable

FORMAT = 1
WEIGHTS, CARD, MANIFEST = "weights.npz", "card.json", "MANIFEST.json"
FILES = (WEIGHTS, CARD, MANIFEST)
MAX_FILE_BYTES = 256 * 2**20
_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin")
_EPOCH = (1980, 1, 1, 0, 0, 0)
# What zipfile and numpy raise over files that somebody broke or made on purpose.
_BROKEN = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    tokenize.TokenError,
    TypeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A loaded classifier; `version` is the first 12 hex digits of the manifest's sha256."""

    arms: tuple[str, ...]
    weights: Weights
    card: Mapping[str, Any]
    version: str

    def seen(self, table: OutcomeTable) -> int:
        """How many of the table's prompts it was trained on, word for word."""
        return int(np.isin(table.fingerprints(), self.weights.seen).sum())


def save(directory: str | Path, arms: tuple[str, ...], weights: Weights, card: Mapping[str, Any]) -> str:
    """Write an artifact, replacing one that is there, and return its version.

    The same weights and card give the same bytes. Raises ArtifactError if the place is taken by something
    else or cannot be written.
    """
    target = Path(directory)
    full = {**card, "format": FORMAT, "feature_version": FEATURE_VERSION, "arms": list(arms)}
    files = {WEIGHTS: _npz(to_arrays(weights)), CARD: _json(full)}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files[MANIFEST] = _json({"format": FORMAT, "files": digests})
    # read back what is about to be written: nothing is saved that would not load
    parsed = _parse(files[WEIGHTS], files[CARD])
    if parsed[0] != arms:
        raise ArtifactError("the arms do not survive being written; give them plain, distinct names")
    write_files(target, files)
    return _version(files[MANIFEST])


def check_place(directory: str | Path) -> None:
    """Raise ArtifactError where `save` would find the place taken or closed: asked before long work."""
    target = Path(directory)
    try:
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise ArtifactError(f"{target} is not a directory; choose another place")
        if target.is_dir() and any(e.name not in (WEIGHTS, CARD, MANIFEST) for e in target.iterdir()):
            raise ArtifactError(f"{target} holds other files; choose an empty or a new directory")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise ArtifactError(f"{target.parent} may not be written to; choose another place")
    except OSError as error:
        raise ArtifactError(f"{target} cannot be written: {error.strerror}; choose another place") from error


def load(directory: str | Path) -> Artifact:
    """Read an artifact. Raises as `read_files` and `from_files`."""
    return from_files(read_files(directory), str(directory))


def read_files(directory: str | Path) -> dict[str, bytes]:
    """The three files of an artifact by name, not looked into yet.

    Raises ArtifactError if there is none, ArtifactForbidden for pickles, symlinks, unlisted and huge files,
    ArtifactCorrupt for one that is missing.
    """
    root = Path(directory)
    if not root.is_dir():
        raise ArtifactError(f"{root} is not a directory; make it with `acr train TABLE --out {root}`")
    for entry in sorted(root.iterdir()):
        if entry.suffix.lower() in _PICKLES:
            raise ArtifactForbidden(
                f"{entry} may run code when read; remove it (an artifact is npz and json)"
            )
        if entry.is_symlink() or not entry.is_file():
            raise ArtifactForbidden(
                f"{entry} is not a plain file; copy the artifact without links or folders"
            )
        if entry.name not in (WEIGHTS, CARD, MANIFEST):
            raise ArtifactForbidden(f"{entry} is not listed in {MANIFEST}; remove it")
    return {name: _read(root / name) for name in FILES}


def from_files(files: Mapping[str, bytes], where: str) -> Artifact:
    """An artifact of the contents of its `FILES`; `where` they come from is for messages.

    Raises ArtifactCorrupt for damage, ArtifactForbidden for what unpacks to too much, ArtifactIncompatible
    for another format or other features.
    """
    digests = _parse_json(MANIFEST, files[MANIFEST]).get("files")
    if not isinstance(digests, dict) or set(digests) != {WEIGHTS, CARD}:
        raise ArtifactCorrupt(f"{MANIFEST} must list {WEIGHTS} and {CARD}; train the classifier again")
    for name in (WEIGHTS, CARD):
        if hashlib.sha256(files[name]).hexdigest() != digests[name]:
            raise ArtifactCorrupt(f"{where}/{name} differs from {MANIFEST}; copy the artifact again")
    arms, weights, card = _parse(files[WEIGHTS], files[CARD])
    return Artifact(arms, weights, card, _version(files[MANIFEST]))


def _parse(weights: bytes, card_bytes: bytes) -> tuple[tuple[str, ...], Weights, Mapping[str, Any]]:
    card = _parse_json(CARD, card_bytes)
    for key, expected in (("format", FORMAT), ("feature_version", FEATURE_VERSION)):
        if card.get(key) != expected:
            raise ArtifactIncompatible(
                f"the classifier has {key} {card.get(key)!r}, this program needs {expected}; train it again"
            )
    arms = card.get("arms")
    if not isinstance(arms, list) or not arms or not all(isinstance(arm, str) and arm for arm in arms):
        raise ArtifactCorrupt(f"{CARD} lists no arms; train the classifier again")
    if len(set(arms)) != len(arms):
        raise ArtifactCorrupt(f"{CARD} lists an arm twice; train the classifier again")
    return tuple(arms), from_arrays(_arrays(weights), len(arms)), card


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Sizes are looked at before anything is unpacked, and each array's before room is made for it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(info.file_size for info in members) > MAX_FILE_BYTES:
                raise ArtifactForbidden(f"{WEIGHTS} unpacks to more than {MAX_FILE_BYTES >> 20} MiB; refused")
            return {info.filename.removesuffix(".npy"): _array(archive.read(info)) for info in members}
    except _BROKEN as error:
        raise ArtifactCorrupt(f"{WEIGHTS} is not a plain npz file ({error}); train again") from error


def _array(content: bytes) -> NDArray[Any]:
    """One .npy of format 1.0, as numpy writes all plain arrays. Raises ValueError."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it is of another format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("it has objects in it")
    # numpy makes room for what the header says before it reads what is there
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError("an array is not as long as its header says")
    found = np.frombuffer(content, dtype, offset=file.tell())
    return found.reshape(shape, order="F" if fortran else "C").copy()


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Like numpy.savez_compressed, without the time of day in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name]), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(finite(value), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def finite(value: Any) -> Any:
    """JSON has no NaN: a figure that is not defined becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _parse_json(name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactCorrupt(f"{name} is not JSON; train the classifier again") from error
    if not isinstance(value, dict):
        raise ArtifactCorrupt(f"{name} is not a JSON object; train the classifier again")
    return value


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ArtifactCorrupt(f"{path} cannot be read ({error.strerror}); copy it again") from error
    if len(data) > MAX_FILE_BYTES:
        raise ArtifactForbidden(f"{path} is over {MAX_FILE_BYTES >> 20} MiB; refused")
    return data


def _version(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()[:12]


def write_files(directory: str | Path, files: Mapping[str, bytes]) -> None:
    """Write beside the target and rename, so that a reader finds the old artifact or the new one.

    Raises ArtifactError if the place is taken by something else or cannot be written.
    """
    target = Path(directory)
    check_place(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            fresh.chmod(0o755)
            for name, data in files.items():
                (fresh / name).write_bytes(data)
            old = fresh.with_name(f"{fresh.name}-old")
            if target.exists():
                os.replace(target, old)
            os.replace(fresh, target)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise ArtifactError(f"{target} cannot be written: {error.strerror}; choose another place") from error
