"""Break a copy of the code in named ways; a named test must notice each. Ends with 1 if one is not noticed.

A copy, in a temporary folder: nothing here is touched. First every named test is run on the copy as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("backends", "benchmarks", "classifier", "policies", "router", "tests", "pyproject.toml")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.jsonl", "*.parquet")
CONTRACT = "tests/contract/test_ledger_contract.py"
TIMEOUT_S = 180

console = Console(width=120)


@dataclass(frozen=True, slots=True)
class Mutant:
    """`edits` are a file, what stands there, and what is put instead; `test` is the test that must fail."""

    name: str
    test: str
    edits: tuple[tuple[str, str, str], ...]


MUTANTS = (
    Mutant(
        "no lease: holds do not count",
        f"{CONTRACT}::test_used_and_held_together_bound_the_next_hold",
        (("policies/lua/common.lua", "+ known.held[unit] + more[unit]", "+ more[unit]"),),
    ),
    Mutant(
        "no dedupe: a repeated reserve holds again",
        f"{CONTRACT}::test_a_repeat_holds_nothing_more",
        (
            ("policies/lua/reserve.lua", "if lease.state == 'open' then", "if false then"),
            (
                "policies/lua/reserve.lua",
                "if lease.state then",
                "if lease.state and lease.state ~= 'open' then",
            ),
        ),
    ),
    Mutant(
        "charge after: nothing is held before the run",
        "tests/unit/test_holding.py::test_many_requests_at_once_never_pass_a_budget_in_money",
        (
            (
                "router/reserving.py",
                "await lease.reserve(scopes, amount)",
                "await lease.reserve(scopes, type(amount)())",
            ),
        ),
    ),
    Mutant(
        "shared cache key: tenants are not told apart",
        "tests/unit/test_cache.py::test_the_context_changes_the_key",
        (("router/keys.py", "whole = [FORMAT, tenant, ", "whole = [FORMAT, "),),
    ),
    Mutant(
        "except Exception: who leaves is not noticed",
        "tests/unit/test_runner.py::test_a_caller_who_leaves_is_charged_what_was_generated",
        (
            (
                "backends/runner.py",
                "except asyncio.CancelledError:\n            await self._abandon(run)",
                "except ZeroDivisionError:\n            await self._abandon(run)",
            ),
        ),
    ),
    Mutant(
        "sweep dropped: expired leases keep their hold",
        f"{CONTRACT}::test_an_expired_lease_makes_room",
        (("policies/lua/common.lua", "'LIMIT', 0, SWEEP_AT_MOST)", "'LIMIT', 0, 0)"),),
    ),
    Mutant(
        "one scope only: other scopes' limits are not looked at",
        f"{CONTRACT}::test_all_windows_and_scopes_or_none",
        (("policies/lua/common.lua", "if limit then", "if limit and scope == 'tenant' then"),),
    ),
    Mutant(
        "settle twice: a repeated settlement charges again",
        f"{CONTRACT}::test_settling_twice_charges_once",
        (("policies/lua/settle.lua", "lease.state == 'open'", "lease.state"),),
    ),
    Mutant(
        "a crash is forgiven: an expired lease is charged nothing",
        f"{CONTRACT}::test_an_expired_lease_charges_every_unit_of_its_checkpoint",
        (("policies/lua/common.lua", "'expired', lease.checkpoint", "'expired', NOTHING"),),
    ),
    Mutant(
        "unknown price is free",
        "tests/unit/test_holding.py::test_an_unknown_price_is_refused_and_never_free",
        (("router/holding.py", "return not isnan(self.hardware.usd_per_hour)", "return True"),),
    ),
    Mutant(
        "the replica's clock: a minute is not the server's",
        "tests/integration/test_ledger_clocks.py",
        (
            ("policies/lua/common.lua", "redis.call('TIME')", "{ KEYS[3], '0' }"),
            (
                "policies/ledger.py",
                'f"lease:{lease}")]',
                'f"lease:{lease}"), str(int(__import__("time").time()))]',
            ),
        ),
    ),
    Mutant(
        "classifier compared with what is not live any more",
        "tests/integration/test_live_model_store.py::test_of_two_operators_at_once_one_is_told_to_compare_again",
        (
            (
                "router/model_publishing.py",
                "if not force and state.current not in (rival, packed.version):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "classifier compared on prompts that it was trained on",
        "tests/unit/test_rivals.py::test_prompts_that_either_has_seen_are_left_out",
        (
            (
                "classifier/evaluation/rivals.py",
                "np.flatnonzero(~known)",
                "np.flatnonzero(known >= 0)",
            ),
        ),
    ),
    Mutant(
        "classifier's seals are those of policies",
        "tests/contract/test_versions_contract.py::test_what_is_sealed_for_one_shelf_means_nothing_on_another",
        (("policies/redis_versions.py", "Seal(secret, shelf.context)", 'Seal(secret, b"")'),),
    ),
    Mutant(
        "classifier for other arms is taken",
        "tests/unit/test_live_model.py::test_a_bad_one_is_told_once_counted_once_and_the_last_good_stays",
        (("router/live_model.py", "        check_arms(artifact, await self._arms())\n", ""),),
    ),
)


def main(only: str = "") -> None:
    """`--only WORD` runs the mutants whose name has that word."""
    chosen = [mutant for mutant in MUTANTS if only in mutant.name]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=NOT_COPIED)
            else:
                shutil.copy(source, copy / name)
        console.print("unchanged: all named tests pass?", end=" ")
        if _fails(copy, sorted({mutant.test for mutant in chosen})):
            console.print("[red]no[/]: mend that first")
            sys.exit(1)
        console.print("yes")
        for mutant in chosen:
            began = time.monotonic()
            killed = _killed(copy, mutant)
            survivors += not killed
            said = "[green]killed[/]" if killed else "[red]SURVIVED[/]"
            console.print(
                f"{said}  {mutant.name}\n        by {mutant.test} ({time.monotonic() - began:.0f} s)"
            )
    console.print(f"{len(chosen) - survivors} of {len(chosen)} mutants were noticed")
    sys.exit(1 if survivors else 0)


def _killed(copy: Path, mutant: Mutant) -> bool:
    before = {file: (copy / file).read_text("utf-8") for file, _, _ in mutant.edits}
    try:
        for file, line, instead in mutant.edits:
            text = (copy / file).read_text("utf-8")
            if line not in text:
                raise SystemExit(f"{file} has changed: the mutant {mutant.name!r} does not fit any more")
            (copy / file).write_text(text.replace(line, instead), "utf-8")
        return _fails(copy, [mutant.test])
    finally:
        for file, text in before.items():
            (copy / file).write_text(text, "utf-8")


def _fails(copy: Path, tests: list[str]) -> bool:
    """Do the tests fail (exit code 1)? Anything else that is not a pass is an error of the check itself."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    run = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if run.returncode not in (0, 1):
        raise SystemExit(f"pytest did not run: {run.stdout[-1000:]}{run.stderr[-1000:]}")
    return run.returncode == 1


if __name__ == "__main__":
    typer.run(main)
