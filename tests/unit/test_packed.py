"""An artifact as one text: what comes back is what went in, and nothing made on purpose gets through."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from classifier.artifact import CARD, MANIFEST, WEIGHTS, load
from classifier.errors import ArtifactCorrupt, ArtifactError, ArtifactForbidden, ArtifactIncompatible
from classifier.packed import MAX_PACKED_BYTES, pack, unpack
from classifier.predictor import DEFAULT_ARTIFACT, Predictor
from tests.artifacts import packed

TALK = [{"role": "user", "content": "What is 3 + 4?"}]


def resealed(text: str, change: Callable[[dict[str, bytes]], None]) -> tuple[str, str]:
    """Text and version after a change of the files, with a manifest that agrees."""
    told = json.loads(text)
    files = {WEIGHTS: base64.b64decode(told[WEIGHTS]), CARD: told[CARD].encode()}
    change(files)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = json.dumps({"format": 1, "files": digests})
    new = {
        WEIGHTS: base64.b64encode(files[WEIGHTS]).decode(),
        CARD: files[CARD].decode("utf-8", "replace"),
        MANIFEST: manifest,
    }
    return json.dumps(new), hashlib.sha256(manifest.encode()).hexdigest()[:12]


def npz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def npy(shape: str, descr: str = "'<f8'", data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def test_what_is_packed_comes_back(tmp_path: Path) -> None:
    there = packed(tmp_path / "a")
    back = unpack(there.text, there.version)
    assert (back.version, back.artifact.arms, back.name) == (there.version, there.artifact.arms, there.name)
    assert there.name == "3 arms, 2026-01-01"
    assert Predictor(back.artifact).predict(TALK) == Predictor(load(tmp_path / "a")).predict(TALK)


def test_the_shipped_one_is_small_enough_many_times_over() -> None:
    there = pack(DEFAULT_ARTIFACT)
    assert len(there.text) * 4 < MAX_PACKED_BYTES
    assert unpack(there.text, there.version).version == there.version


def test_what_is_too_large_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path / "a")
    monkeypatch.setattr("classifier.packed.MAX_PACKED_BYTES", 1000)
    with pytest.raises(ArtifactForbidden, match="train on fewer prompts or arms"):
        pack(tmp_path / "a")


def test_a_huge_text_is_not_even_parsed() -> None:
    with pytest.raises(ArtifactForbidden, match="too large"):
        unpack("[" * (2 * MAX_PACKED_BYTES + 1), "0" * 12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        "[" * 200_000,
        json.dumps({WEIGHTS: "", CARD: "{}", MANIFEST: "{}"}),
        json.dumps({WEIGHTS: "!!", CARD: "{}", MANIFEST: "{}"}),
        json.dumps({WEIGHTS: None, CARD: None, MANIFEST: None}),
        json.dumps({WEIGHTS: "", CARD: "{}", MANIFEST: "{}", "run.py": "import os"}),
        json.dumps({WEIGHTS: "\ud800", CARD: "\ud800", MANIFEST: "\ud800"}),
    ],
)
def test_nonsense_is_corrupt(text: str) -> None:
    with pytest.raises(ArtifactCorrupt):
        unpack(text, "0" * 12)


def test_another_version_than_it_was_published_as(tmp_path: Path) -> None:
    one, two = packed(tmp_path / "a"), packed(tmp_path / "b", 1)
    with pytest.raises(ArtifactCorrupt, match=f"{one.version} is {two.version} inside"):
        unpack(two.text, one.version)


def test_a_changed_card_no_longer_fits_the_manifest(tmp_path: Path) -> None:
    one = packed(tmp_path / "a")
    with pytest.raises(ArtifactCorrupt, match=r"card\.json differs"):
        unpack(one.text.replace("2026-01-01", "2026-01-02"), one.version)


def test_other_features_are_incompatible(tmp_path: Path) -> None:
    def older(files: dict[str, bytes]) -> None:
        files[CARD] = json.dumps({**json.loads(files[CARD]), "feature_version": 1}).encode()

    text, version = resealed(packed(tmp_path / "a").text, older)
    with pytest.raises(ArtifactIncompatible, match="feature_version 1"):
        unpack(text, version)


@pytest.mark.parametrize(
    "member",
    [
        npy("(1000000000000,)"),
        npy("(60000000000,)", data=b"\0" * 16),
        npy("(-1,)"),
        npy("(" + "9," * 2000 + ")"),
        npy("(1,)", "'|O'", b"\0" * 8),
        npy("(1,)", "[('a', '|O')]", b"\0" * 8),
        npy("(1,)", "'<f8'", b"\0" * 7),
        npy("(1,)", "__import__('os').system('true')", b"\0" * 8),
        npy("((((((((1", data=b""),
        npy("(1,)", version=b"\x02\x00"),
        npy("(1,)", version=b"\x09\x00"),
        b"\x93NUMPY",
        b"cposix\nsystem\n(S'true'\ntR.",
        b"",
    ],
)
def test_an_array_made_on_purpose(tmp_path: Path, member: bytes) -> None:
    """Room is made for what is there, never for what a header claims; nothing is run."""

    def replaced(files: dict[str, bytes]) -> None:
        files[WEIGHTS] = npz({"mean.npy": member})

    text, version = resealed(packed(tmp_path / "a").text, replaced)
    with pytest.raises(ArtifactCorrupt, match="plain npz"):
        unpack(text, version)


def test_weights_with_any_byte_changed_load_or_are_named_errors(tmp_path: Path) -> None:
    """A manifest that agrees with the damage: the reader itself must hold."""
    text = packed(tmp_path / "a").text
    rng = np.random.default_rng(0)
    for _ in range(150):

        def damaged(files: dict[str, bytes]) -> None:
            data = bytearray(files[WEIGHTS])
            # headers and the directory at the end are where a zip file is most easily hurt
            near = rng.choice([int(rng.integers(0, 120)), len(data) - 1 - int(rng.integers(0, 1500))])
            data[int(near)] = int(rng.integers(256))
            files[WEIGHTS] = bytes(data)

        changed, version = resealed(text, damaged)
        with suppress(ArtifactError):
            assert unpack(changed, version).version == version
