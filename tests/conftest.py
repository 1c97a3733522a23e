"""The folder a test lies in is its marker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import start_valkey, valkey_url

__all__ = ["start_valkey", "valkey_url"]

FOLDERS = {"unit", "contract", "integration", "e2e"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for part in Path(item.path).parts:
            if part in FOLDERS:
                item.add_marker(part)
