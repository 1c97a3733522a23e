"""A whole artifact as one text, to be published: JSON of its three files, with every check at both ends."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path

from classifier.artifact import CARD, FILES, MANIFEST, WEIGHTS, Artifact, from_files, read_files, write_files
from classifier.errors import ArtifactCorrupt, ArtifactForbidden

MAX_PACKED_BYTES = 4 * 2**20
_MAX_TEXT = 2 * MAX_PACKED_BYTES  # base64 and the escapes of JSON


@dataclass(frozen=True, slots=True)
class Packed:
    """An artifact that was checked, with the text that it travels as."""

    artifact: Artifact
    text: str

    @property
    def version(self) -> str:
        return self.artifact.version

    @property
    def name(self) -> str:
        """For people: how many arms, and the day it was trained or calibrated."""
        card = self.artifact.card
        calibrated = card.get("calibrated")
        date = calibrated.get("date") if isinstance(calibrated, dict) else card.get("date")
        said = f"{len(self.artifact.arms)} arms"
        return f"{said}, {date}"[:64] if isinstance(date, str) else said


def pack(directory: str | Path) -> Packed:
    """Check an artifact on disk and make a text of it.

    Raises ArtifactError as `artifact.load`, and ArtifactForbidden above MAX_PACKED_BYTES: what is published
    lies in the memory of the budgets' store.
    """
    files = read_files(directory)
    artifact = from_files(files, str(directory))
    size = sum(len(data) for data in files.values())
    if size > MAX_PACKED_BYTES:
        raise ArtifactForbidden(
            f"{directory} is {size / 2**20:.1f} MiB, and {MAX_PACKED_BYTES >> 20} at most are published; "
            "train on fewer prompts or arms"
        )
    told = {
        WEIGHTS: base64.b64encode(files[WEIGHTS]).decode("ascii"),
        CARD: files[CARD].decode("utf-8"),
        MANIFEST: files[MANIFEST].decode("utf-8"),
    }
    return Packed(artifact, json.dumps(told))


def write_packed(packed: Packed, directory: str | Path) -> None:
    """As a directory again, byte for byte. Raises ArtifactError if the place cannot be written."""
    write_files(directory, _files(packed.text))


def unpack(text: str, version: str) -> Packed:
    """The artifact that was published as `version`.

    Raises ArtifactForbidden above the size, ArtifactCorrupt for damage and where it is another version,
    ArtifactIncompatible for another format or other features.
    """
    if len(text) > _MAX_TEXT:
        raise ArtifactForbidden(f"the classifier {version} is too large; publish a smaller one")
    try:
        files = _files(text)
    except (ValueError, RecursionError, binascii.Error) as error:
        problem = f"the classifier {version} cannot be unpacked ({error}); publish it again"
        raise ArtifactCorrupt(problem) from error
    artifact = from_files(files, f"the classifier {version}")
    if artifact.version != version:
        raise ArtifactCorrupt(f"the classifier {version} is {artifact.version} inside; publish it again")
    return Packed(artifact, text)


def _files(text: str) -> dict[str, bytes]:
    """Raises ValueError, RecursionError."""
    told = json.loads(text)
    if not isinstance(told, dict) or set(told) != set(FILES):
        raise ValueError("it is not the three files")
    files = {name: str(told[name]).encode("utf-8") for name in FILES}
    files[WEIGHTS] = base64.b64decode(files[WEIGHTS], validate=True)
    return files
