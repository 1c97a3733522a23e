"""The README's code blocks run as they stand there, against a real service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Running

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
PYTHON = [code for language, code in BLOCKS if language == "python"]
# `make demo` and `make serve` would start a second service; they have tests of their own.
SHELL = [
    line
    for language, code in BLOCKS
    if language == "bash"
    for line in code.splitlines()
    if line.strip() and not line.startswith("make ")
]


def test_there_is_something_to_run() -> None:
    assert PYTHON
    assert len(SHELL) >= 5


@pytest.mark.parametrize("code", PYTHON)
def test_python_blocks(service: Running, code: str, tmp_path: Path) -> None:
    (tmp_path / ".acr").symlink_to(service.env["ACR_STATE_DIR"])
    code = code.replace("http://127.0.0.1:8000", service.base_url)
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip()


@pytest.mark.parametrize("line", SHELL)
def test_shell_lines(service: Running, line: str) -> None:
    line = line.replace(".venv/bin/acr", str(Path(sys.executable).with_name("acr")))
    line = line.replace("http://127.0.0.1:8000", service.base_url)
    told = subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env={**os.environ, **service.env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
