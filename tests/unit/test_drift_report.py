"""`acr drift`: logs of decisions in, windows with verdicts out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from classifier.artifact import load, save
from classifier.drift.tally import Seen
from classifier.features import extract
from classifier.predictor import DEFAULT_ARTIFACT, Predictor
from classifier.tables import read_table
from policies.plan import ArmEstimate
from router.cli.main import app
from router.decisions.files import write_decisions
from router.decisions.record import Decision, Rung
from router.drift.errors import DriftError
from router.drift.report import advice, as_plain, found_now, notes
from router.drift.seen import first_reward, seen_of
from router.drift.windows import Cut, Past, past
from tests.decisions import plain

TABLE = Path(__file__).parents[2] / "benchmarks/data/smollm2_135m.jsonl"
DAY_MS = 86_400_000
START_MS = 20_000 * DAY_MS
ARM = "direct/direct"


def rung(**over: Any) -> Rung:
    known: dict[str, Any] = {
        "arm": ARM,
        "spec": "01234567",
        "tier": "direct",
        "strategy": "direct",
        "stop_reason": "end",
    }
    return Rung(**(known | {"completion_tokens": 40, "tokens": 90} | over))


@cache
def decided() -> tuple[Decision, ...]:
    """One decision a prompt of the recorded table, with the shipped classifier's predictions."""
    table, predictor = read_table(TABLE), Predictor.load()
    column = table.arms.index(ARM)
    found = []
    for row, item in enumerate(table.items):
        told = predictor.predict(item.messages)
        right = bool(table.scores[row, column] >= 0.5)
        found.append(
            plain(
                decision_id=f"dec-{row}",
                classifier_version=predictor.version,
                structural=tuple(extract(item.messages).structural.tolist()),
                ood=told.ood,
                arms={a: ArmEstimate(told.p[a], told.tokens[a], told.tokens_high[a]) for a in told.p},
                plan=(ARM,),
                starts={ARM: 1.0},
                rungs=(rung(verified=right, completion_tokens=int(table.tokens[row, column])),),
                verified=right,
            )
        )
    return tuple(found)


def days(count: int, rows: int = 150, seed: int = 0, **over: Any) -> list[Decision]:
    """So many days of traffic like the training's; `over` from the last day but one on."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(decided()))
    found = []
    for day in range(count):
        for number in range(rows):
            decision = decided()[int(order[(day * rows + number) % len(order)])]
            at_ms = START_MS + day * DAY_MS + number * 1_000
            changed = over if day >= count - 2 else {}
            found.append(replace(decision, at_ms=at_ms, **changed))
    return found


def told(decisions: Iterable[Decision], window: str = "1d", tenant: str | None = None) -> Past:
    return past(decisions, load(DEFAULT_ARTIFACT), Cut.parse(window), tenant)


WRONG = {"rungs": (rung(verified=False),), "verified": False}


# -- windows


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("1d", Cut(ms=DAY_MS)),
        ("30m", Cut(ms=1_800_000)),
        ("6h", Cut(ms=21_600_000)),
        ("500", Cut(rows=500)),
    ],
)
def test_windows_are_times_or_counts(text: str, cut: Cut) -> None:
    assert Cut.parse(text) == cut


@pytest.mark.parametrize("text", ["", "0", "0d", "-1d", "1y", "d", "1.5h", "99999999d", "1d2"])
def test_other_windows_are_refused(text: str) -> None:
    with pytest.raises(DriftError, match="--window"):
        Cut.parse(text)


def test_days_are_cut_at_midnight_and_counts_by_rows() -> None:
    found = told(days(3))
    assert [each.look.rows for each in found.windows] == [150, 150, 150]
    assert [each.from_ms for each in found.windows] == [START_MS + n * DAY_MS for n in range(3)]
    assert [each.look.rows for each in told(days(3), "200").windows] == [200, 200, 50]


def test_rows_in_any_order_fall_into_the_same_days() -> None:
    rows = days(3)
    back = told(reversed(rows))
    assert [each.look.psi for each in back.windows] == [each.look.psi for each in told(rows).windows]


# -- verdicts


def test_traffic_like_the_trainings_is_ok() -> None:
    found = told(days(4))
    assert [each.look.verdict for each in found.windows] == ["ok"] * 4
    assert (found.since_ms, found_now(found), found.left_out) == ({}, (), {})
    assert found.labelled == 600


def test_an_engine_that_got_worse_is_found_with_its_day() -> None:
    found = told(days(4, **WRONG))
    assert found.newest.look.verdict == "drifted"
    assert found.since_ms[f"calibration {ARM}"] == START_MS + 2 * DAY_MS
    assert any("acr calibrate" in line for line in advice(found))


def test_a_thin_last_window_does_not_hide_the_one_before() -> None:
    rows = days(4, **WRONG)
    late = [replace(rows[-1], at_ms=START_MS + 4 * DAY_MS)] * 5
    found = told([*rows, *late])
    assert found.windows[-1].look.verdict == "too few"
    assert found.newest is found.windows[-2]
    assert found.newest.look.verdict == "drifted"


def test_what_has_passed_is_not_drift_now() -> None:
    bad, good = days(2, **WRONG), days(2, seed=1)
    found = told([*bad, *(replace(each, at_ms=each.at_ms + 2 * DAY_MS) for each in good)])
    assert [each.look.verdict for each in found.windows] == ["drifted", "drifted", "ok", "ok"]
    assert found.newest.look.verdict == "ok"
    assert found.since_ms == {}


def test_without_outcomes_it_says_that_calibration_is_unknown() -> None:
    found = told(days(2, verified=None, rungs=(rung(completion_tokens=0),)))
    assert found.labelled == 0
    assert found.newest.look.calibrations == {}
    assert any("whether predictions hold is not known" in line for line in advice(found))


def test_an_arm_with_two_settings_is_noted() -> None:
    changed = rung(spec="89abcdef", verified=True)
    found = told([*days(1), *days(1, rungs=(changed,), verified=True)])
    assert found.specs == {ARM: 2}
    assert any(ARM in line and "settings" in line for line in notes(found))


# -- rows that count, and rows that do not


def test_another_classifiers_rows_are_left_out_and_counted() -> None:
    old = [replace(each, classifier_version="0123456789ab") for each in days(1, rows=30)]
    found = told([*old, *days(1)])
    assert found.left_out == {"of another classifier": 30}
    assert found.windows[0].look.rows == 150
    with pytest.raises(DriftError, match=r"0123456789ab \(30 rows\).*--classifier"):
        told(old)


def test_cache_hits_and_other_tenants_are_left_out() -> None:
    hit = plain(cache="hit", at_ms=START_MS)
    other = replace(decided()[0], tenant="other", at_ms=START_MS)
    found = told([hit, other, *days(1)], tenant="acme")
    assert found.left_out == {"without a prediction (cache hits, refusals)": 1, "of other tenants": 1}
    with pytest.raises(DriftError, match="nobody"):
        told(days(1), tenant="nobody")


@pytest.mark.parametrize("rows", [[], [plain(cache="hit")]])
def test_a_log_without_predictions_is_refused(rows: list[Decision]) -> None:
    with pytest.raises(DriftError, match="no decision with a prediction"):
        told(rows)


def test_too_few_rows_for_any_window_are_refused_with_what_is_needed() -> None:
    with pytest.raises(DriftError, match=r"largest has 49 decisions, 50 are needed"):
        told(days(2, rows=49, verified=None, rungs=(rung(completion_tokens=0),)))
    assert len(told(days(2, rows=50, verified=None, rungs=(rung(completion_tokens=0),))).windows) == 2


def test_a_classifier_without_a_reference_is_refused() -> None:
    artifact = load(DEFAULT_ARTIFACT)
    bare = replace(artifact, weights=replace(artifact.weights, reference=None))
    with pytest.raises(DriftError, match=r"no drift reference.*acr train"):
        past(days(1), bare, Cut(rows=100))


def test_too_many_windows_are_refused() -> None:
    rows = [replace(decided()[0], at_ms=START_MS + n * 60_000) for n in range(1_002)]
    with pytest.raises(DriftError, match="longer ones"):
        told(rows, "1m")


# -- which outcome belongs to which prediction


@pytest.mark.parametrize(
    ("over", "reward"),
    [
        ({"rungs": (rung(verified=True),), "verified": True}, 1.0),
        ({"rungs": (rung(),), "verified": None, "score": 0.25}, 0.25),
        ({"rungs": (rung(verified=True),), "verified": True, "score": 0.0}, 0.0),
        ({"rungs": (rung(confidence=0.99),), "verified": None}, None),
        # it climbed: what the last arm's answer was worth says nothing of the first
        ({"plan": (ARM, "x"), "rungs": (rung(), rung(arm="x")), "verified": None, "score": 1.0}, None),
        ({"plan": (ARM, "x"), "rungs": (rung(verified=False), rung(arm="x")), "score": 1.0}, 0.0),
        # it could have climbed and was confident: right more often than predicted, by selection
        ({"plan": (ARM, "x"), "rungs": (rung(),), "verified": None, "score": 1.0}, None),
        ({"rungs": (), "score": 1.0}, None),
    ],
)
def test_only_the_first_arms_own_outcome_counts(over: dict[str, Any], reward: float | None) -> None:
    assert first_reward(replace(decided()[0], **over)) == reward


@pytest.mark.parametrize(
    ("over", "tokens"),
    [
        ({}, 40),
        ({"outcome": "failed"}, None),
        ({"ask": {"choices": 3}}, None),
        ({"ask": {"max_samples": 2}}, None),
        ({"ask": {"choices": 1, "prompt_tokens": 9}}, 40),
    ],
)
def test_tokens_count_where_nothing_cut_or_multiplied_them(over: dict[str, Any], tokens: int | None) -> None:
    seen = seen_of(replace(decided()[0], **({"rungs": (rung(),)} | over)))
    assert isinstance(seen, Seen)
    assert seen.tokens == tokens


def test_an_arm_that_was_not_predicted_tells_nothing_of_predictions() -> None:
    seen = seen_of(replace(decided()[0], plan=("pinned",), rungs=(rung(arm="pinned"),), starts={}))
    assert seen is not None
    assert (seen.arm, seen.reward, seen.tokens) == (None, None, None)


# -- the command


def run(*args: str | Path) -> Any:
    return CliRunner().invoke(app, ["drift", *map(str, args)])


def test_the_command_ends_with_zero_when_all_is_well(tmp_path: Path) -> None:
    write_decisions(tmp_path / "log.jsonl.gz", days(2))
    found = run("--log", tmp_path / "log.jsonl.gz", "--json")
    assert found.exit_code == 0
    told_of = json.loads(found.stdout)
    assert told_of["verdict"] == "ok"
    assert [each["rows"] for each in told_of["windows"]] == [150, 150]


def test_the_command_ends_with_one_when_it_drifted_and_draws(tmp_path: Path) -> None:
    write_decisions(tmp_path / "log.parquet", days(3, **WRONG))
    found = run("--log", tmp_path / "log.parquet", "--window", "1d", "--out", tmp_path / "report")
    assert found.exit_code == 1
    assert "calibration" in found.stdout
    assert (tmp_path / "report/drift.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "report/drift.json").read_text()) == as_plain(told(days(3, **WRONG)))


def test_bad_input_is_one_sentence_and_two(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_decisions(log, days(1))
    write_decisions(tmp_path / "few.jsonl.gz", days(1, rows=5))
    (tmp_path / "junk.jsonl").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "junk.parquet").write_bytes(b"PAR1" + bytes(range(256)))
    bare = tmp_path / "bare"
    artifact = load(DEFAULT_ARTIFACT)
    save(bare, artifact.arms, replace(artifact.weights, reference=None), {})
    (tmp_path / "broken.jsonl").write_text("{}\n")
    (tmp_path / "taken").write_text("")
    for args, words in (
        (("--log", log, "--window", "soon"), "--window"),
        (("--log", tmp_path / "none.jsonl"), "cannot be read"),
        (("--log", tmp_path / "broken.jsonl"), "outcome"),
        (("--log", tmp_path / "few.jsonl.gz"), "50 are needed"),
        (("--log", tmp_path / "junk.jsonl"), "not JSON"),
        (("--log", tmp_path / "empty.jsonl"), "no decision"),
        (("--log", tmp_path / "junk.parquet"), "as Parquet"),
        (("--log", tmp_path), "cannot be read"),
        (("--log", log, "--classifier", tmp_path / "nowhere"), "not a directory"),
        (("--log", log, "--classifier", bare), "no drift reference"),
        (("--log", log, "--out", tmp_path / "taken"), "cannot be written"),
    ):
        found = run(*args)
        assert found.exit_code == 2, args
        assert words in found.stderr
        assert len(found.stderr.strip().splitlines()) == 1
