"""The whole benchmark on tables whose truth is known, and on tables that are no good."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks.compute.__main__ import main
from benchmarks.compute.figures import accuracy, order, scaling, search, stopping
from benchmarks.compute.groups import by_difficulty, depth_groups, family_groups, searched_group
from benchmarks.compute.luck import shared_luck
from benchmarks.compute.replay import launched, shuffled, strategies
from benchmarks.compute.table import read_recording
from classifier.errors import InvalidRow, TableError

pytestmark = pytest.mark.unit

Draw = Callable[[np.random.Generator, int], Sequence[Mapping[str, Any]]]


def sample(answer: str | None, *, tokens: float = 10, logprob: float | None = -0.5) -> dict[str, Any]:
    """A sample that is right where it says "right"."""
    score = float(answer == "right")
    return {"answer": answer, "score": score, "completion_tokens": tokens, "mean_logprob": logprob}


def table(
    path: Path,
    draw: Draw,
    *,
    prompts: int = 40,
    count: int = 16,
    family: Callable[[int], str] = lambda i: "sums",
    difficulty: Callable[[int], object] = lambda i: "",
    search: Mapping[str, Any] | None = None,
) -> Path:
    """`count` samples of each prompt as `draw` has them, direct/direct, and search/beam as `search` says."""
    rng = np.random.default_rng(5)
    rows = []
    for i in range(prompts):
        told = {
            "prompt_id": f"q{i}",
            "family": family(i),
            "difficulty": difficulty(i),
            "messages": [{"role": "user", "content": f"question {i}"}],
            "prompt_tokens": 50,
        }
        drawn = list(draw(rng, count))
        vote = {"score": drawn[0]["score"], "completion_tokens": 1}
        rows.append({**told, "arm": "consistency/sc4", **vote})
        rows.append({**told, "arm": f"consistency/sc{count}", **vote, "samples": drawn})
        rows.append(
            {**told, "arm": "direct/direct", "score": 1.0, "completion_tokens": 7, "samples": drawn[:1]}
        )
        if search is not None:
            rows.append({**told, "arm": "search/beam", **search})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def coin(p: float, tokens: Mapping[bool, float] | None = None, wrong: int = 4) -> Draw:
    """Right with chance p, else one of `wrong` wrong answers; `tokens` by whether it is right."""
    lengths = tokens or {True: 10.0, False: 10.0}

    def draw(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
        right = rng.random(count) < p
        told = ["right" if r else f"wrong{rng.integers(wrong)}" for r in right]
        return [
            sample(answer, tokens=round(lengths[bool(r)] * (0.5 + float(rng.random())), 1))
            for answer, r in zip(told, right, strict=True)
        ]

    return draw


def unanimous(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    return [sample("right") for _ in range(count)]


# -- reading


def test_the_largest_vote_is_the_pool_and_counts_may_differ(tmp_path: Path) -> None:
    first = table(tmp_path / "a.jsonl", unanimous, prompts=30, count=40).read_text()
    second = table(tmp_path / "b.jsonl", unanimous, prompts=30, count=16).read_text().replace('"q', '"r')
    (tmp_path / "both.jsonl").write_text(first + second)
    recording = read_recording(tmp_path / "both.jsonl")
    assert recording.pools.count.tolist() == [40] * 30 + [16] * 30
    assert [(g.prompts.size, g.depth) for g in depth_groups(recording)] == [(60, 16), (30, 40)]
    assert recording.recorded == ("direct/direct",)


def test_answers_are_told_apart_and_none_is_no_vote(tmp_path: Path) -> None:
    drawn = [sample("a"), sample(None, logprob=None), sample("b"), sample("a"), sample("c")]
    pools = read_recording(table(tmp_path / "t.jsonl", lambda *_: drawn, prompts=1, count=5)).pools
    assert pools.answers.tolist() == [[0, -1, 1, 0, 2]]
    assert pools.logprobs[0].tolist() == [-0.5, -np.inf, -0.5, -0.5, -0.5]


def test_charged_tokens_are_as_told_or_the_least_they_can_be(tmp_path: Path) -> None:
    told = {"score": 1.0, "completion_tokens": 30, "charged_tokens": 900}
    known = read_recording(table(tmp_path / "known.jsonl", unanimous, search=told))
    column = known.table.arms.index("search/beam")
    assert known.charged[:, column].tolist() == [900.0] * 40
    assert known.charged_known[:, column].all()
    del told["charged_tokens"]
    least = read_recording(
        table(tmp_path / "least.jsonl", unanimous, search={**told, "samples": [sample("x")] * 3})
    )
    assert least.charged[:, column].tolist() == [30.0 + 3 * 50] * 40
    assert not least.charged_known[:, column].any()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("word", "sample 0 must be an object"),
        ({**sample("a"), "answer": 3}, "answer of sample 0"),
        ({**sample("a"), "score": 2}, "score of sample 0"),
        ({**sample("a"), "score": None}, "score of sample 0"),
        ({**sample("a"), "completion_tokens": -1}, "completion_tokens of sample 0"),
        ({**sample("a"), "mean_logprob": "low"}, "mean_logprob of sample 0"),
    ],
)
def test_a_broken_sample_is_named(tmp_path: Path, broken: Any, said: str) -> None:
    row = {
        "prompt_id": "q",
        "messages": [{"role": "user", "content": "?"}],
        "arm": "consistency/sc16",
        "score": 1,
        "completion_tokens": 1,
        "samples": [broken, sample("a")],
    }
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InvalidRow, match=said):
        read_recording(tmp_path / "t.jsonl")


def test_a_difficulty_is_a_word(tmp_path: Path) -> None:
    with pytest.raises(InvalidRow, match="difficulty"):
        read_recording(table(tmp_path / "t.jsonl", unanimous, difficulty=lambda i: 3))


# -- figures


def test_unanimous_votes_stop_at_four(tmp_path: Path) -> None:
    """Beta at 0.95 stops at 4 equal votes, the lossless rule at 9 of 16: ratios of 4 and 16/9, no loss."""
    recording = read_recording(table(tmp_path / "t.jsonl", unanimous))
    (savings,) = stopping.measure(recording, depth_groups(recording))
    both, lossless = savings.of(stopping.BOTH), savings.of("lossless alone")
    assert (both.samples.value, both.tokens.value) == (4.0, 4.0)
    assert lossless.samples.value == pytest.approx(16 / 9)
    assert lossless.launched.value == 1.0  # the ninth is in the last wave, and all of that have equal lengths
    assert both.difference == stopping.mean(np.zeros(40))
    said = stopping.figure([savings], [], None).words[0]
    assert "is reached" in said
    assert "4.00 [4.00, 4.00] times fewer" in said


def test_spread_answers_miss_the_aim_and_the_words_say_so(tmp_path: Path) -> None:
    recording = read_recording(table(tmp_path / "t.jsonl", coin(0.25)))
    (savings,) = stopping.measure(recording, depth_groups(recording))
    assert 1.0 < savings.of(stopping.BOTH).samples.value < 2.0
    assert "is missed" in stopping.figure([savings], [], None).words[0]


def test_bolder_thresholds_save_more_and_the_words_name_the_furthest(tmp_path: Path) -> None:
    """Of 16 equal votes both stops take 4 at 0.95, 3 at 0.9 and 2 below: P is 0.969, 0.938 and 0.875."""
    recording = read_recording(table(tmp_path / "t.jsonl", unanimous))
    (savings,) = stopping.measure(recording, depth_groups(recording))
    drawn = {c: savings.of(stopping.bolder(c)).samples.value for c in stopping.BOLDER}
    assert drawn == {0.9: pytest.approx(16 / 3), 0.85: 8.0, 0.8: 8.0, 0.77: 8.0}
    furthest = stopping.figure([savings], [], None).words[1]
    assert "both, Beta at 0.85 draws the fewest at a difference whose interval includes 0 (8.00" in furthest
    assert "of all (" not in furthest


def test_where_boldness_costs_accuracy_both_the_free_and_the_boldest_are_named(tmp_path: Path) -> None:
    recording = read_recording(table(tmp_path / "t.jsonl", coin(0.6)))
    (savings,) = stopping.measure(recording, depth_groups(recording))
    boldest = savings.of(stopping.bolder(0.77))
    assert not boldest.difference.holds(0.0)
    furthest = stopping.figure([savings], [], None).words[1]
    assert "both, Beta at 0.77 draws the fewest of all" in furthest


def test_voteless_replies_end_the_services_run_after_three(tmp_path: Path) -> None:
    recording = read_recording(table(tmp_path / "t.jsonl", lambda *_: [sample(None)] * 16))
    (savings,) = stopping.measure(recording, depth_groups(recording))
    assert savings.of(stopping.BOTH).samples.value == 1.0
    assert savings.of(stopping.SERVICE).samples.value == pytest.approx(16 / 3)


def test_one_sample_and_the_majority_are_what_chance_says(tmp_path: Path) -> None:
    recording = read_recording(table(tmp_path / "t.jsonl", coin(0.6), prompts=300))
    (group,) = depth_groups(recording)
    told = {outcome.name: outcome for outcome in strategies(recording, group)}
    pool = recording.pools.scores.mean()
    assert told["one sample"].accuracy.mean() == pytest.approx(pool, abs=0.01)
    assert told["majority of 16"].accuracy.mean() > 0.95
    assert told["majority of 8"].tokens.mean() == pytest.approx(8 * recording.pools.tokens.mean(), rel=0.01)
    assert told["direct/direct"].tokens.tolist() == [7.0] * 300
    assert "search/beam" not in told


def test_likelihood_that_tells_the_truth_is_worth_following(tmp_path: Path) -> None:
    def draw(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
        right = rng.random(count) < 0.3
        return [sample("right", logprob=-0.1) if r else sample("wrong", logprob=-3.0) for r in right]

    recording = read_recording(table(tmp_path / "t.jsonl", draw))
    told = {o.name: o.accuracy.mean() for o in strategies(recording, depth_groups(recording)[0])}
    assert told["best of 16"] > told["weighted by likelihood, 16"] > told["majority of 16"]


def test_coverage_and_its_parts_by_difficulty(tmp_path: Path) -> None:
    path = table(tmp_path / "t.jsonl", coin(0.3), prompts=400, difficulty=lambda i: ("easy", "hard")[i % 2])
    recording = read_recording(path)
    assert [group.name for group in family_groups(recording)] == ["sums/easy", "sums/hard"]
    growths = scaling.measure(recording)
    assert [growth.part for growth in growths[::2]] == ["all", "easy", "hard"]
    covered = growths[0].curve
    assert covered == pytest.approx(1 - 0.7 ** np.arange(1, 17), abs=0.03)
    assert growths[0].fitted.residual[0] < 0.05
    (group,) = depth_groups(recording)
    assert [part.prompts.size for part in by_difficulty(recording, group)] == [400, 200, 200]


def test_arrivals_favour_what_is_short_and_launch_order_does_not(tmp_path: Path) -> None:
    """Wrong answers are short, right ones long: counting arrivals must lose, launch order must not."""
    draw = coin(0.65, {True: 100.0, False: 10.0}, wrong=1)
    recording = read_recording(table(tmp_path / "t.jsonl", draw, prompts=150))
    (orders,) = order.measure(recording)
    told = {counting.order: counting for counting in orders.countings}
    assert told[order.ARRIVAL].difference.high < 0.0
    assert told[order.ARRIVAL].length.high < 0.9
    assert told[order.LAUNCH].difference.holds(0.0)
    assert min(orders.p_length, orders.p_accuracy) > 0.05
    assert told[order.WAVES].samples.value >= told[order.FREE].samples.value
    words = order.figure([orders], None).words
    assert any("counting arrivals is worse" in said for said in words)
    assert any("launch order shows no bias" in said for said in words)


def test_seeds_shared_by_all_prompts_are_noticed(tmp_path: Path) -> None:
    """Place i of every prompt has one length: the places differ far more than independent draws do."""
    lengths = np.random.default_rng(9).integers(5, 200, 16).tolist()
    shared = table(tmp_path / "s.jsonl", lambda *_: [sample("right", tokens=n) for n in lengths])
    own = table(tmp_path / "o.jsonl", coin(0.5, {True: 100.0, False: 40.0}))
    for path, noticed in ((shared, True), (own, False)):
        recording = read_recording(path)
        luck = shared_luck(recording.pools, depth_groups(recording)[0])
        assert (luck.p < order.SURPRISING, luck.spread > 5) == (noticed, noticed)
    words = order.figure(order.measure(read_recording(shared)), None).words
    assert any("alike in all prompts" in said for said in words)


@pytest.mark.parametrize(("score", "verdict"), [(0.0, "search is worse"), (1.0, "search is better")])
def test_search_is_compared_at_its_tokens(tmp_path: Path, score: float, verdict: str) -> None:
    beam = {"score": score, "completion_tokens": 40.0, "charged_tokens": 240.0}
    recording = read_recording(table(tmp_path / "t.jsonl", coin(0.5), search=beam, prompts=60))
    (duel,) = search.measure(recording)
    match = duel.match(search.MAJORITY, search.COMPLETION)
    fixed = duel.curves[0]
    at = np.interp(40.0, fixed.tokens[search.COMPLETION].mean(axis=0), fixed.accuracy.mean(axis=0))
    assert match.difference.value == pytest.approx(score - at)
    # four samples of ten tokens, four prompts of fifty: the same size by either count
    assert match.other.value == pytest.approx(
        duel.match(search.MAJORITY, search.CHARGED).other.value, abs=0.01
    )
    assert not duel.least
    assert all(verdict in said for said in search.figure(recording, [duel], None).words)


def test_search_beyond_the_samples_is_marked(tmp_path: Path) -> None:
    beam = {"score": 1.0, "completion_tokens": 9000.0}
    recording = read_recording(table(tmp_path / "t.jsonl", coin(0.5), search=beam))
    figure = search.figure(recording, search.measure(recording), None)
    assert figure.grids[0].rows[0][3] == "9000 *"
    assert any("(*)" in said for said in figure.words)
    assert any("the least it can be" in said for said in figure.words)
    assert searched_group(recording) is None  # every prompt has it: no group of its own


def test_orders_hold_every_sample_once(tmp_path: Path) -> None:
    lengths = list(range(1, 17))
    path = table(tmp_path / "t.jsonl", lambda *_: [sample("right", tokens=n) for n in lengths], prompts=20)
    recording = read_recording(path)
    (group,) = depth_groups(recording)
    draws = shuffled(recording.pools, group)
    assert (np.sort(draws.tokens, axis=1) == lengths).all()
    assert (launched(recording.pools, group).tokens == lengths).all()
    assert draws.per_prompt(draws.tokens[:, 0]).shape == (20,)


# -- the command


def run(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_and_writes_everything(tmp_path: Path) -> None:
    beam = {"score": 1.0, "completion_tokens": 40.0}
    path = table(
        tmp_path / "t.jsonl", coin(0.6), prompts=48, family=lambda i: ("a/easy", "a/hard")[i % 2], search=beam
    )
    out = tmp_path / "docs"
    result = run(path, "--out", out)
    assert result.exit_code == 0, result.output
    page = (out / "compute.md").read_text()
    names = {"accuracy", "families", "scaling", "stopping", "order", "search"}
    assert {plot.name for plot in out.glob("*.png")} == {f"compute-{name}.png" for name in names}
    assert all(f"(compute-{name}.png)" in page for name in names)
    assert "$" not in page
    assert f"python -m benchmarks.compute {path} --out {out}" in page
    assert "cores" in result.output
    tables = [
        line for line in result.output.splitlines() if not line.startswith(("Recorded", "Command", "written"))
    ]
    assert max(map(len, tables)) <= 100


def test_the_same_table_gives_the_same_page(tmp_path: Path) -> None:
    path, out = table(tmp_path / "t.jsonl", coin(0.6), prompts=20), tmp_path / "docs"
    run(path, "--out", out)
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    run(path, "--out", out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == first


def test_too_little_for_a_figure_is_said(tmp_path: Path) -> None:
    rows = [
        {
            "prompt_id": f"q{i}",
            "messages": [{"role": "user", "content": "?"}],
            "arm": arm,
            "score": 1.0,
            "completion_tokens": 5,
        }
        for i in range(3)
        for arm in ("direct/direct", "search/beam")
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(path, "--out", tmp_path / "docs")
    assert result.exit_code == 0, result.output
    assert "no samples of a self-consistency arm" in " ".join(result.output.split())
    assert "no curve to fit" in result.output
    assert "not compared" in result.output
    assert not list((tmp_path / "docs").glob("*.png"))


def test_few_prompts_and_few_samples_are_no_error(tmp_path: Path) -> None:
    path = table(tmp_path / "t.jsonl", coin(0.5), prompts=2, count=3)
    result = run(path, "--out", tmp_path / "docs")
    assert result.exit_code == 0, result.output
    assert family_groups(read_recording(path))[0].depth == 2


@pytest.mark.parametrize("text", ["", "{}\n", "no json\n", '{"prompt_id": "q"'])
def test_a_bad_table_is_one_line_and_exit_2(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    result = run(tmp_path / "t.jsonl", "--out", tmp_path / "docs")
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "docs").exists()


def test_a_missing_table_and_a_file_in_the_way(tmp_path: Path) -> None:
    assert run(tmp_path / "none.jsonl").exit_code == 2
    with pytest.raises(TableError, match="cannot be read"):
        read_recording(tmp_path / "none.jsonl")
    path = table(tmp_path / "t.jsonl", unanimous, prompts=2)
    result = run(path, "--out", path)
    assert result.exit_code == 2
    assert "cannot be written to" in result.output


def test_measures_of_no_samples_are_empty(tmp_path: Path) -> None:
    row = {"prompt_id": "q", "messages": [{"role": "user", "content": "?"}], "arm": "direct/direct"}
    (tmp_path / "t.jsonl").write_text(json.dumps({**row, "score": 0.5, "completion_tokens": 3}) + "\n")
    recording = read_recording(tmp_path / "t.jsonl")
    assert (accuracy.measure(recording), scaling.measure(recording)) == (([], []), [])
    assert (order.measure(recording), search.measure(recording)) == ([], [])
