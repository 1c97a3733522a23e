"""What the comparing process refuses, looked at without starting one."""

from __future__ import annotations

import os

import pytest

from backends.answers.worker import number_only, refuse


@pytest.mark.parametrize("text", ["7", "-12", "0.5", ".5", "1e10", "007"])
def test_numerals_are_read(text: str) -> None:
    assert float(number_only(text)) == float(text)


@pytest.mark.parametrize(
    "text", ["x", "1+1", "__import__('os')", "1e9999", "9" * 61, "", "9**9", "1 ", None, b"1", "0x10"]
)
def test_nothing_else_is(text: object) -> None:
    with pytest.raises(ValueError, match="numerals"):
        number_only(text)


@pytest.mark.parametrize(
    ("event", "args"),
    [
        ("compile", (b"1+1", "<string>")),
        ("compile", (None, None)),
        ("open", ("/tmp/x", "w", os.O_WRONLY | os.O_CREAT)),  # noqa: S108  nothing is opened
        ("open", ("/etc/passwd", "a", os.O_APPEND | os.O_WRONLY)),
        ("os.system", (b"true",)),
        ("os.remove", ("x", -1)),
        ("subprocess.Popen", ("true", ["true"], None, None)),
        ("socket.connect", (None, ("127.0.0.1", 1))),
        ("socket.__new__", (None, 2, 1, 0)),
        ("ctypes.dlopen", ("libc.so.6",)),
    ],
)
def test_the_hook_refuses_to_act(event: str, args: tuple[object, ...]) -> None:
    with pytest.raises(PermissionError, match=event):
        refuse(event, args)


@pytest.mark.parametrize(
    ("event", "args"),
    [
        ("compile", (b"x = 1", "/site-packages/sympy/abc.py")),
        ("open", ("/site-packages/sympy/abc.py", "r", os.O_RDONLY)),
        ("os.listdir", ("/site-packages",)),
        ("import", ("sympy", None, None, None, None)),
    ],
)
def test_the_hook_lets_modules_be_imported(event: str, args: tuple[object, ...]) -> None:
    refuse(event, args)
