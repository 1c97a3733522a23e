"""Formulas compared in a process of their own: what it finds equal, and that it can hurt nobody."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from backends.answers.equivalence import Equivalence

# A comparison takes milliseconds; the limit is for a machine that does something else as well.
PATIENT_S = 30.0


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def real() -> AsyncIterator[Equivalence]:
    equivalence = Equivalence(compare_timeout_s=PATIENT_S)
    yield equivalence
    await equivalence.aclose()


def scripted(source: str, **settings: float) -> Equivalence:
    """An Equivalence whose worker is `source`, which must say "ready" first."""
    command = (sys.executable, "-c", source)
    return Equivalence(command=command, **({"compare_timeout_s": PATIENT_S} | settings))  # type: ignore[arg-type]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        (r"2\pi", r"\pi\cdot2"),
        ("(x-1)(x+1)", "x^2-1"),
        ("3+4", "7"),
        (r"\{1,2\}", r"\{2,1\}"),
        ("[0,1)", "[0,1.0)"),
        ("1/3", "0.333333"),
        (r"1.5\cdot10^3", "1500"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{bmatrix}1&2\end{bmatrix}"),
    ],
)
async def test_equal_formulas_are_found_equal(real: Equivalence, one: str, other: str) -> None:
    assert await real.same(one, other)
    assert await real.same(other, one)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\infty", r"-\infty"),
        ("10^{100}", "10^{100}+1"),
        ("x+1", "y+1"),
        ("[0,1]", "(0,1)"),
        ("(1,2)", "(2,1)"),
        ("}{", "1"),
        ("1/0", "2/0"),
        ("{" * 90, "(" * 90),
    ],
)
async def test_different_or_broken_ones_are_not(real: Equivalence, one: str, other: str) -> None:
    assert not await real.same(one, other)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "payload",
    [
        "__import__('os').system('touch {0}')",
        r"\operatorname{{__import__}}('os').system('touch {0}')",
        r"\text{{__import__('os').system('touch {0}')}}",
        r"\variable{{__import__('os').system('touch {0}')}}",
        r"\operatorname{{gcd}}(__import__('os').system('touch {0}'), 2)",
        r"f(__import__('os').system('touch {0}'))",
        r"x_{{__import__('os').system('touch {0}')}}",
        r"\frac{{1}}{{open('{0}','w')}}",
        "exec(\"open('{0}','w')\")",
        "[c for c in ().__class__.__base__.__subclasses__()]; open('{0}','w')",
    ],
)
async def test_a_formula_runs_nothing(real: Equivalence, payload: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    hostile = payload.format(mark)
    for other in ("1", "x+1", hostile + " "):
        await real.same(hostile, other)
    assert not mark.exists()


async def test_it_would_have_run_without_the_measures(tmp_path: Path) -> None:
    """The payload above does what it says where text reaches sympy: so the test before can fail."""
    mark = tmp_path / "ran"
    code = f"import sympy; sympy.sympify(\"__import__('os').system('touch {mark}')\")"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stderr=asyncio.subprocess.DEVNULL
    )
    await process.wait()
    assert mark.exists()


async def test_a_comparison_that_hangs_is_cut_off_and_the_next_one_works() -> None:
    equivalence = Equivalence(compare_timeout_s=PATIENT_S)
    assert await equivalence.same("3+4", "7")  # the worker is up; what follows is the comparison alone
    equivalence._compare_timeout_s = 0.3
    assert not await equivalence.same("9^{9^{9^{9}}}", "1")
    equivalence._compare_timeout_s = PATIENT_S
    assert await equivalence.same("5+4", "9")
    await equivalence.aclose()


async def test_the_event_loop_goes_on_meanwhile() -> None:
    equivalence = scripted("import sys; print('ready', flush=True); sys.stdin.read()", compare_timeout_s=0.5)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    assert not await equivalence.same("x+1", "1+x")
    ticking.cancel()
    assert ticks > 5
    await equivalence.aclose()


async def test_cancelling_ends_the_worker_that_was_asked() -> None:
    equivalence = scripted("import sys; print('ready', flush=True); sys.stdin.read()")
    waiting = asyncio.create_task(equivalence.same("x+1", "1+x"))
    while not equivalence._busy or not any(w.stdin for w in equivalence._busy):
        await asyncio.sleep(0.01)
    (worker,) = equivalence._busy
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await worker.wait() != 0
    assert not equivalence._idle
    await equivalence.aclose()


@pytest.mark.parametrize(
    "source",
    [
        "print('ready', flush=True); input()",  # dies when asked
        "print('ready', flush=True); input(); print('maybe', flush=True); input()",
        "print('ready', flush=True); input(); print('t' * 10**6, flush=True); input()",
        "print('ready', flush=True); input(); import os; os.abort()",
    ],
)
async def test_a_worker_that_dies_or_babbles_says_nothing(source: str) -> None:
    equivalence = scripted(source)
    assert not await equivalence.same("x+1", "1+x")
    assert not equivalence._idle
    await equivalence.aclose()


@pytest.mark.parametrize("source", ["", "print('hello')", "raise SystemExit(1)"])
async def test_where_no_worker_comes_up_none_is_tried_again(
    source: str, caplog: pytest.LogCaptureFixture
) -> None:
    equivalence = scripted(source)
    assert not await equivalence.same("x+1", "1+x")
    assert not await equivalence.same("x+2", "2+x")
    assert [record.getMessage().count("math-verify") for record in caplog.records] == [1]
    await equivalence.aclose()


async def test_a_missing_interpreter_is_no_error() -> None:
    equivalence = Equivalence(command=("/nonexistent/python",))
    assert not await equivalence.same("x+1", "1+x")


async def test_the_worker_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACR_CACHE_SECRET", "s3cret")
    says = "import os, json; print('ready', flush=True); input(); print(json.dumps({}), flush=True); input()"
    for seen, told in (("'ACR_CACHE_SECRET' in os.environ", False), ("'PATH' in os.environ", True)):
        equivalence = scripted(says.format(seen))
        assert await equivalence.same("x+1", "1+x") is told
        await equivalence.aclose()


async def test_verdicts_are_remembered_and_long_formulas_not_asked() -> None:
    answers = "print('ready', flush=True)\nfor _ in range(1): input(); print('true', flush=True)"
    equivalence = scripted(answers)
    assert await equivalence.same("x+1", "1+x")
    assert await equivalence.same("1+x", "x+1")  # the worker is gone; it is not needed
    assert not await equivalence.same("x" * 201, "1+x")
    assert await equivalence.same("y", "y")
    await equivalence.aclose()


async def test_closing_twice_is_harmless() -> None:
    equivalence = scripted("print('ready', flush=True); input(); print('true', flush=True); input()")
    assert await equivalence.same("x+1", "1+x")
    await equivalence.aclose()
    await equivalence.aclose()
