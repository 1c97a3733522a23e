"""A process of its own that says whether two formulas are equal (math-verify on sympy). Run as a script.

A line of JSON in, `["a", "b"]`; a line out, `true` or `false`. It imports nothing of this package and is told
no secret. Texts come from a model, so before the first one is read the memory is bounded, sympy's way from
text to objects (which runs Python) is made to take plain numbers only, and an audit hook refuses to run
source, to write files, to start processes and to open sockets. How long it may take is its parent's to say.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import sys
from importlib import import_module
from typing import Any

MEMORY_BYTES = 2 << 30
LATE = ("sympy.physics.units", "sympy.integrals.manualintegrate")  # sympy imports them when first used
_NUMERAL = re.compile(r"[-+]?(?:\d{1,60}(?:\.\d{0,60})?|\.\d{1,60})(?:[eE][-+]?\d{1,3})?")
# These make code out of counts and of their own field names, never out of what they are given to read.
_GENERATORS = ("/dataclasses.py", "/collections/__init__.py", "/sympy/polys/monomials.py")
_REFUSED = ("os.", "subprocess.", "socket.", "ctypes.", "shutil.", "pty.", "urllib.")
_ALLOWED = ("os.listdir", "os.scandir")  # what importing a module does
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def number_only(text: object, *_: object, **__: object) -> Any:
    """In place of `sympy.parse_expr`: a numeral as a sympy number. Raises ValueError for all else."""
    import sympy  # type: ignore[import-untyped]

    if not isinstance(text, str) or _NUMERAL.fullmatch(text) is None:
        raise ValueError("only numerals are read from text")
    return sympy.Integer(int(text)) if text.lstrip("+-").isdigit() else sympy.Float(text)


def refuse(event: str, args: tuple[Any, ...]) -> None:
    """The audit hook. Raises PermissionError."""
    if event == "compile":
        # Modules are compiled under their file's name; eval and exec of text are not.
        module = isinstance(args[1], str) and args[1].endswith(".py")
        allowed = module or sys._getframe(1).f_code.co_filename.endswith(_GENERATORS)
    elif event == "open":
        allowed = not (isinstance(args[2], int) and args[2] & _WRITES)
    else:
        allowed = not event.startswith(_REFUSED) or event in _ALLOWED
    if not allowed:
        raise PermissionError(f"{event} is refused here")


def equal(left: str, right: str) -> bool:
    """Whether two formulas are equal, asked both ways round: math-verify tells a reference from an answer."""
    from math_verify import LatexExtractionConfig, parse, verify  # type: ignore[import-untyped]

    def read(formula: str) -> Any:
        config = [LatexExtractionConfig(boxed_match_priority=0)]
        found = parse(f"\\boxed{{{formula}}}", config, fallback_mode="no_fallback", parsing_timeout=None)
        return found[0] if found else None

    one, other = read(left), read(right)
    if one is None or other is None:
        return False
    return bool(verify(one, other, timeout_seconds=None) and verify(other, one, timeout_seconds=None))


def shut_in() -> None:
    """Import and use what is needed, then give up what is not."""
    for module in LATE:
        import_module(module)
    parser: Any = import_module("sympy.parsing.sympy_parser")
    logging.disable(logging.CRITICAL)
    sys.dont_write_bytecode = True
    for left, right in ((r"\frac{1}{\sqrt{2}}", r"\sin 45"), ("(x-1)(x+1)", "x^2-1"), ("[0,1)", "x<1")):
        equal(left, right)
    parser.parse_expr = parser.eval_expr = number_only
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(refuse)


def main() -> None:
    # Whatever a library prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    shut_in()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        try:
            left, right = json.loads(line)
            verdict = equal(left, right)
        except (Exception, RecursionError):
            verdict = False
        print(json.dumps(verdict), file=answers, flush=True)


if __name__ == "__main__":
    main()
