"""An outcome table with its samples, as far as the arms of a policy can draw them again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from classifier.files import read_rows
from classifier.rows import Row
from classifier.tables import OutcomeTable, build_table
from policies.arm_spec import ONE_SAMPLE, ArmSpec
from policies.schema import Policy
from router.replay.errors import NothingToReplay

VOTES = frozenset({"self_consistency", "best_of_n"})
_MOST = 1e12


@dataclass(frozen=True, slots=True)
class Drawn:
    """One recorded sample. `key` stands for its text, which tables do not keep: arm and place.

    `score` in [0, 1]; `mean_logprob` is None where the engine told none; `cut` at its length.
    """

    key: str
    answer: str | None
    score: float
    completion_tokens: int
    mean_logprob: float | None
    cut: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """What one arm made of one prompt.

    `charged_tokens` count prompts of all calls and completions; where the table does not tell, one prompt is
    counted. `pool` are the samples that the arm can draw again in launch order, empty where it cannot: then
    its recorded score and tokens stand as they are, and nothing is known of its confidence.
    """

    score: float
    prompt_tokens: int
    completion_tokens: int
    charged_tokens: int
    pool: tuple[Drawn, ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """A table under the arms of one policy: `cells[i]` maps arm to `Cell` for `table.items[i]`.

    `table` has the policy's arms alone. `left_out` are arms of the table that the policy has not, `unknown`
    arms of the policy that the table has not.
    """

    table: OutcomeTable
    cells: tuple[Mapping[str, Cell], ...]
    left_out: tuple[str, ...]
    unknown: tuple[str, ...]


def read_recording(path: str | Path, policy: Policy, names: Mapping[str, str] | None = None) -> Recording:
    """Read a table (JSON lines, packed or not, or Parquet) to be replayed under `policy`.

    `names` maps arms of the table to arms of the policy, where they are called otherwise. Raises TableError,
    and NothingToReplay where table and policy have no arm in common.
    """
    rows, digest = read_rows(path)
    return recording([_renamed(row, names or {}) for row in rows], policy, digest)


def recording(rows: Iterable[Row], policy: Policy, sha256: str = "") -> Recording:
    """From rows in any order. Raises as `read_recording`."""
    kept = list(rows)
    table = build_table(kept, sha256)
    common = [arm for arm in table.arms if arm in policy.arms]
    if not common:
        raise NothingToReplay(
            f"the table has the arms {', '.join(table.arms)} and the policy {', '.join(policy.arms)}: "
            "none is in both; say which is which with --arm POLICY_ARM=TABLE_ARM, or name another policy"
        )
    told: dict[str, dict[str, _Told]] = {}
    for row in kept:
        told.setdefault(row.text("prompt_id"), {})[row.text("arm")] = _told(row)
    part = table.only_arms(common)
    return Recording(
        table=part,
        cells=tuple(_cells(told[item.prompt_id], policy) for item in part.items),
        left_out=tuple(arm for arm in table.arms if arm not in policy.arms),
        unknown=tuple(arm for arm in policy.arms if arm not in table.arms),
    )


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    arm = row.column("arm")
    return row.with_column("arm", names[arm]) if isinstance(arm, str) and arm in names else row


@dataclass(frozen=True, slots=True)
class _Told:
    """A row as it stands, with all the samples that it lists."""

    cell: Cell
    samples: tuple[Drawn, ...]


def _told(row: Row) -> _Told:
    samples = _samples(row)
    prompt = round(row.number("prompt_tokens", maximum=_MOST, default=0.0))
    completion = round(row.number("completion_tokens", maximum=_MOST))
    paid = row.number("charged_tokens", maximum=_MOST, default=float(prompt + completion))
    return _Told(Cell(row.number("score", maximum=1.0), prompt, completion, round(paid)), samples)


def _cells(told: Mapping[str, _Told], policy: Policy) -> Mapping[str, Cell]:
    return {
        arm: replace(told[arm].cell, pool=_pool(arm, spec, told, policy))
        for arm, spec in policy.arms.items()
        if arm in told
    }


def _pool(arm: str, spec: ArmSpec, told: Mapping[str, _Told], policy: Policy) -> tuple[Drawn, ...]:
    """One sample for an arm that draws one; for votes the longest list of samples that were drawn alike."""
    if spec.strategy in ONE_SAMPLE:
        own = told[arm].samples
        return own if len(own) == 1 else ()
    if spec.strategy not in VOTES or spec.scorer != "logprob":
        return ()
    lists = [told[name].samples for name in told if _drawn_alike(name, spec, policy)]
    pool = max(lists, key=len, default=())
    ranked = spec.weighted or spec.strategy == "best_of_n"
    usable = len(pool) > 1 and not (ranked and any(s.mean_logprob is None for s in pool))
    return pool if usable else ()


def _drawn_alike(name: str, spec: ArmSpec, policy: Policy) -> bool:
    """Whether the samples of an arm are what `spec` would draw: same tier, temperature and instruction."""
    other = policy.arms.get(name)
    if other is None:
        return name.partition("/")[0] == spec.tier and spec.strategy == "self_consistency"
    alike = (other.tier, other.temperature, other.think) == (spec.tier, spec.temperature, spec.think)
    return alike and other.strategy in VOTES


def _samples(row: Row) -> tuple[Drawn, ...]:
    """The samples that a row lists; empty where they do not tell score and tokens."""
    listed = row.column("samples") or ()
    if not isinstance(listed, list | tuple):
        row.fail("samples", "must be a list")
    if any(not isinstance(s, dict) for s in listed):
        row.fail("samples", "must hold objects {answer, score, completion_tokens, mean_logprob}")
    arm = row.text("arm")
    if any(s.get("score") is None or s.get("completion_tokens") is None for s in listed):
        return ()
    return tuple(_drawn(row, f"{arm}#{index}", sample) for index, sample in enumerate(listed))


def _drawn(row: Row, key: str, sample: Mapping[str, Any]) -> Drawn:
    answer, logprob = sample.get("answer"), sample.get("mean_logprob")
    if not isinstance(answer, str | None):
        row.fail("samples", "an answer must be a string or null")
    if logprob is not None:
        logprob = _number(row, sample, "mean_logprob", -_MOST, _MOST)
    return Drawn(
        key=key,
        answer=answer,
        score=_number(row, sample, "score", 0.0, 1.0),
        completion_tokens=round(_number(row, sample, "completion_tokens", 0.0, _MOST)),
        mean_logprob=logprob,
        cut=sample.get("finish") == "length",
    )


def _number(row: Row, sample: Mapping[str, Any], name: str, least: float, most: float) -> float:
    value = sample[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        row.fail("samples", f"{name} must be a number")
    number = float(value) if abs(value) <= most else math.inf
    if not least <= number <= most:
        row.fail("samples", f"{name} must lie in [{least:g}, {most:g}], not {str(value)[:20]}")
    return number


def arms_named(pairs: Sequence[str]) -> dict[str, str]:
    """`POLICY_ARM=TABLE_ARM` options as a mapping from the table's names. Raises NothingToReplay."""
    found: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise NothingToReplay(f"--arm {pair!r}: write POLICY_ARM=TABLE_ARM, as in direct/direct=small")
        found[theirs] = ours
    return found
