"""The tests behind a verdict: quiet where nothing changed, loud where something did."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import chi2_contingency

from classifier.calibration import ece, ece_floor
from classifier.drift.look import ALPHA, MIN_ROWS, Look, look
from classifier.drift.outcomes import calibration, quick_floor, token_fit
from classifier.drift.reference import BINS, Reference, binned, signal_names, signal_rows
from classifier.drift.shift import holm, psi, shift_p
from classifier.drift.tally import Outcomes, Seen, Tally
from classifier.features import COUNT

ARMS = ("cheap", "dear")
SIGNALS = len(signal_names(ARMS))
CELLS = st.lists(st.integers(0, 400), min_size=BINS, max_size=BINS)


def counts(*cells: int) -> np.ndarray:
    return np.array([list(cells)], dtype=np.int64)


@given(CELLS)
def test_a_histogram_does_not_differ_from_itself(cells: list[int]) -> None:
    same = counts(*cells)
    assert psi(same, same)[0] == 0.0
    assert shift_p(same, same)[0] == pytest.approx(1.0)


@given(CELLS, CELLS)
def test_figures_are_always_within_their_bounds(a: list[int], b: list[int]) -> None:
    assert 0.0 <= shift_p(counts(*a), counts(*b))[0] <= 1.0
    found = psi(counts(*a), counts(*b))[0]
    assert np.isfinite(found)
    assert found >= 0.0


def test_psi_of_a_large_move_is_the_textbooks() -> None:
    was, now = counts(5_000, 5_000), counts(2_500, 7_500)
    expected = 0.25 * np.log(2) + 0.25 * np.log(1.5)
    assert psi(was, now)[0] == pytest.approx(expected, abs=0.002)


def test_the_p_value_is_that_of_scipy_where_no_bin_is_thin() -> None:
    was, now = counts(100, 200, 300), counts(60, 50, 90)
    assert shift_p(was, now)[0] == pytest.approx(chi2_contingency(np.vstack([was, now]))[1])


def test_thin_bins_are_pooled() -> None:
    assert shift_p(counts(300, 1, 0, 1), counts(99, 0, 1, 0))[0] > 0.2
    assert shift_p(counts(0, 0), counts(5, 5))[0] == 1.0
    assert shift_p(counts(300, 0), counts(300, 0))[0] == 1.0


def test_two_samples_of_one_population_have_no_psi_on_average_and_honest_p_values() -> None:
    rng = np.random.default_rng(1)
    shares = np.full(10, 0.1)
    was, now = rng.multinomial(620, shares, 2_000), rng.multinomial(200, shares, 2_000)
    assert np.mean(psi(was, now) >= 0.1) < 0.01
    p = shift_p(was, now)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.02)


@given(arrays.arrays(np.float64, st.integers(1, 30), elements=st.floats(0.0, 1.0)))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p: np.ndarray) -> None:
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= 1.0).all()
    assert adjusted.min() == pytest.approx(min(1.0, p.min() * p.size))
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0.0).all()


def test_a_calibrated_arm_is_at_its_noise_floor() -> None:
    rng = np.random.default_rng(2)
    p = rng.random(400)
    found = calibration(p, (rng.random(400) < p).astype(float))
    assert found.rows == 400
    assert found.low < 1.0 < found.high
    assert found.p_gap > 0.01
    assert found.p_ece > 0.01
    assert found.floor == pytest.approx(ece_floor(p, 10), rel=0.1)
    assert quick_floor(p) == pytest.approx(found.floor, rel=0.1)


def test_p_values_of_a_calibrated_arm_are_honest() -> None:
    rng = np.random.default_rng(3)
    p = rng.beta(2, 5, 200)
    found = [calibration(p, (rng.random(200) < p).astype(float)) for _ in range(400)]
    assert np.mean([each.p_gap < 0.05 for each in found]) == pytest.approx(0.05, abs=0.04)
    assert np.mean([each.p_ece < 0.05 for each in found]) == pytest.approx(0.05, abs=0.04)


def test_what_promises_too_much_is_found_with_its_size() -> None:
    rng = np.random.default_rng(4)
    p = rng.uniform(0.6, 0.9, 300)
    rewards = (rng.random(300) < p - 0.3).astype(float)
    found = calibration(p, rewards)
    assert found.gap == pytest.approx(-0.3, abs=0.08)
    assert found.high < 1.0
    assert found.p_gap < 1e-6
    assert found.ece == pytest.approx(ece(p, rewards, 10))
    assert found.excess > 0.1
    # the same gap is worth less where p was learnt from few rows itself
    assert calibration(p, rewards, trained_rows=20).p_gap > found.p_gap


def test_tokens_beyond_the_quantile_are_counted() -> None:
    expected, high = np.full(200, 100.0), np.full(200, 150.0)
    fine = token_fit(expected, high, np.where(np.arange(200) < 10, 160.0, 97.0))
    assert (fine.rows, fine.above) == (200, 0.05)
    assert fine.p_above > 0.3
    worse = token_fit(expected, high, np.where(np.arange(200) < 50, 160.0, 97.0))
    assert worse.above == 0.25
    assert worse.p_above < 1e-6
    assert token_fit(expected, high, np.full(200, 50.0)).p_above == 1.0


# -- windows


def traffic(
    rows: int, seed: int, *, length: float = 0.0, luck: float = 1.0, longer: float = 1.0
) -> list[Seen]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(rows):
        structural = rng.normal(size=COUNT)
        structural[0] += length
        p = float(rng.uniform(0.3, 0.9))
        expected = float(rng.uniform(50, 200))
        spent = expected * float(rng.lognormal(-0.02, 0.2)) * longer
        found.append(
            Seen(
                structural=structural.tolist(),
                ood=float(rng.random()),
                arms={"cheap": (p, expected, expected * 1.4), "dear": (p, 4 * expected, 6 * expected)},
                arm="cheap",
                reward=float(rng.random() < p * luck),
                tokens=int(spent),
            )
        )
    return found


@pytest.fixture(scope="module")
def reference() -> Reference:
    rows = traffic(600, 9)
    told = np.array([[seen.arms[arm] for arm in ARMS] for seen in rows])
    spent = np.array([[seen.tokens, np.nan] for seen in rows], dtype=np.float64)
    structural = np.array([seen.structural for seen in rows])
    ood = np.array([seen.ood for seen in rows])
    return Reference.of(signal_rows(structural, ood, told[:, :, 0], told[:, :, 1], spent), len(ARMS))


def looked(reference: Reference, rows: list[Seen]) -> Look:
    tally = Tally(reference, ARMS)
    for seen in rows:
        tally.add(seen)
    return look(reference, ARMS, tally.window())


def test_the_same_traffic_is_ok(reference: Reference) -> None:
    verdicts = [looked(reference, traffic(200, seed)).verdict for seed in range(40)]
    assert verdicts.count("ok") >= 38


@pytest.mark.parametrize(
    ("change", "name", "kind"),
    [
        ({"length": 2.0}, signal_names(ARMS)[0], "input"),
        ({"luck": 0.5}, "calibration cheap", "calibration"),
        ({"longer": 2.0}, "token ratio cheap", "tokens"),
    ],
)
def test_each_kind_of_change_is_found_and_named(
    reference: Reference, change: dict[str, float], name: str, kind: str
) -> None:
    found = looked(reference, traffic(200, 5, **change))
    assert found.verdict == "drifted"
    drifted = [each for each in found.findings if each.verdict == "drifted"]
    assert name in [each.name for each in drifted]
    assert {each.kind for each in drifted} == {kind}
    assert all(each.p < ALPHA for each in drifted)
    assert drifted[0] is found.findings[0]


def test_a_window_with_too_few_rows_says_so(reference: Reference) -> None:
    found = looked(reference, traffic(20, 5, length=9.0, luck=0.0))
    assert (found.verdict, found.findings, found.rows) == ("too few", (), 20)
    assert looked(reference, traffic(MIN_ROWS, 5)).verdict == "ok"
    assert looked(reference, []).verdict == "too few"


def test_a_tally_counts_what_was_added_one_by_one(reference: Reference) -> None:
    rows = traffic(150, 7)
    tally = Tally(reference, ARMS, Outcomes(most=100))
    for number, seen in enumerate(rows, start=1):
        tally.add(seen)
        assert tally.rows == number
    window = tally.window()
    assert (window.counts[: COUNT + 1].sum(axis=1) == 150).all()
    structural = np.full((150, SIGNALS), np.nan)
    structural[:, :COUNT] = [seen.structural for seen in rows]
    assert np.array_equal(window.counts[:COUNT], binned(reference.edges, structural)[:COUNT])
    p, rewards = window.labelled["cheap"]
    assert p.tolist() == [seen.arms["cheap"][0] for seen in rows[-100:]]
    assert rewards.tolist() == [seen.reward for seen in rows[-100:]]
    assert "dear" not in window.labelled


def test_arms_that_the_classifier_lacks_and_unknown_outcomes_are_passed_over(reference: Reference) -> None:
    blank = Seen(structural=[0.0] * COUNT, ood=0.0, arms={"cheap": (0.5, 10.0, 20.0)})
    tally = Tally(reference, ARMS)
    tally.add(blank)
    tally.add(Seen([0.0] * COUNT, 0.0, {"else": (0.5, 1.0, 2.0)}, arm="else", reward=1.0, tokens=3))
    window = tally.window()
    assert window.rows == 2
    assert (window.labelled, window.spent) == ({}, {})
    assert window.counts[signal_names(ARMS).index("p dear")].sum() == 0
    assert window.counts[signal_names(ARMS).index("p cheap")].sum() == 1
