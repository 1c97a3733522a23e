"""The Lua scripts of this package, which are package data."""

from __future__ import annotations

from importlib.resources import files


def script_source(name: str) -> str:
    """The text of `lua/<name>.lua`."""
    return files("router").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
