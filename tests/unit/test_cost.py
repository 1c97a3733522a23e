"""Costs, worked by hand from the published shapes and data sheets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.cost import Cost, cost, decode_step_s, flops_per_token, mean_overlap
from backends.hardware import (
    CPU,
    H100,
    H200,
    HARDWARE,
    L4,
    LLAMA3_8B,
    LLAMA3_70B,
    MODEL_SHAPES,
    SMOLLM2_135M,
)
from backends.task import Spend

ONE_CALL = Spend(prompt_computed=1000, completion_kept=200, calls=1)


@pytest.mark.parametrize(
    ("model", "weights", "attention_at_1000", "kv_bytes"),
    [
        # 2 x 134515008; 4 x 30 layers x 576 x 1000; 2 x 30 x 3 heads x 64 x 2 bytes
        (SMOLLM2_135M, 269_030_016, 69_120_000, 23_040),
        # 2 x 8030261248; 4 x 32 x 4096 x 1000; 2 x 32 x 8 x 128 x 2
        (LLAMA3_8B, 16_060_522_496, 524_288_000, 131_072),
        # 2 x 70553706496; 4 x 80 x 8192 x 1000; 2 x 80 x 8 x 128 x 2
        (LLAMA3_70B, 141_107_412_992, 2_621_440_000, 327_680),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_flops_and_kv_of_one_token(model, weights: int, attention_at_1000: int, kv_bytes: int) -> None:
    assert flops_per_token(model, 0) == weights
    assert flops_per_token(model, 1000) == weights + attention_at_1000
    assert model.kv_bytes_per_token == kv_bytes


def test_an_8b_call_on_an_h100_by_hand() -> None:
    # Prefill: 1000 tokens at a mean context of 500.5: 1000 x (16060522496 + 524288 x 500.5) FLOPs,
    # 16.5 ms at 989 TFLOPS, more than the 6.0 ms that reading the weights takes.
    # Decode: 200 tokens at a mean context of 1100.5: (16060522496 + 131072 x 1100.5) bytes a step over
    # 0.8 x 3.35 TB/s is 6.0466 ms, far more than its FLOPs.
    bill = cost(ONE_CALL, LLAMA3_8B, H100)
    assert bill.flops == 16_322_928_640_000 + 3_327_500_288_000
    assert bill.kv_bytes == 1200 * 131_072
    assert bill.gpu_seconds == pytest.approx(0.0165045 + 200 * 0.0060465, rel=1e-4)
    assert bill.usd == pytest.approx(bill.gpu_seconds / 3600 * 3.00)


def test_a_70b_call_on_an_h200_by_hand() -> None:
    # Prefill: 1000 x (141107412992 + 2621440 x 500.5) FLOPs is 144 ms; decode: 70.55e9 + 327680 x 1100.5
    # bytes over 3.84 TB/s is 18.467 ms a step.
    bill = cost(ONE_CALL, LLAMA3_70B, H200)
    assert bill.flops == pytest.approx(1.424194e14 + 200 * 1.439923e11, rel=1e-6)
    assert bill.kv_bytes == 1200 * 327_680
    assert bill.gpu_seconds == pytest.approx(0.144003 + 200 * 0.0184672, rel=1e-4)


def test_an_8b_call_on_an_l4_by_hand() -> None:
    # Prefill: the same 1.632e13 FLOPs at 121 TFLOPS, 134.9 ms, more than the 66.9 ms of reading the weights.
    # Decode: 16.2047656e9 bytes a step over 0.8 x 300 GB/s is 67.520 ms.
    bill = cost(ONE_CALL, LLAMA3_8B, L4)
    assert bill.gpu_seconds == pytest.approx(0.134900 + 200 * 0.0675199, rel=1e-4)
    assert bill.usd == pytest.approx(13.63888 / 3600 * 0.80, rel=1e-4)


def test_a_135m_call_on_an_h100_by_hand() -> None:
    # Prefill: 1000 x (269030016 + 69120 x 500.5) is 3.0362e11 FLOPs, 0.307 ms; its weights take 0.0367 ms.
    # Decode: 98362432 + 23040 x 1100.5 bytes over 2.68 TB/s is 46.163 us a step.
    bill = cost(ONE_CALL, SMOLLM2_135M, H100)
    assert bill.flops == pytest.approx(3.0362458e11 + 200 * 3.4509658e8, rel=1e-6)
    assert bill.kv_bytes == 1200 * 23_040
    assert bill.gpu_seconds == pytest.approx(0.000307002 + 200 * 4.61634e-5, rel=1e-4)


def test_a_135m_call_on_a_cpu_by_hand() -> None:
    # Prefill: 3.0362e11 FLOPs at 0.07 TFLOPS, 4.3375 s. Decode: 123717952 bytes at 8 GB/s, 15.465 ms a step.
    bill = cost(ONE_CALL, SMOLLM2_135M, CPU)
    assert bill.gpu_seconds == pytest.approx(4.337494 + 200 * 0.01546474, rel=1e-4)
    assert bill.usd == pytest.approx(7.430442 / 3600 * 0.10, rel=1e-4)


def test_a_70b_vote_of_eight_on_an_h200_by_hand() -> None:
    """One prefill of 400 tokens, seven cached; 8 replies of 250 tokens, decoded together."""
    spend = Spend(400, 2800, completion_kept=250, completion_discarded=1750, calls=8)
    # The mean call: 50 tokens computed at positions 351 to 400: 50 x (141107412992 + 2621440 x 375.5) FLOPs,
    # 7.184 ms, less than the 18.373 ms of reading 70.55 GB at 3.84 TB/s. Decode: a step reads the weights and
    # 8 contexts of 525.5 tokens, 327680 bytes each: 71.93129e9 bytes, 18.73211 ms, shared by 8.
    bill = cost(spend, LLAMA3_70B, H200, batch=8)
    assert bill.kv_bytes == (400 + 2000) * 327_680
    assert bill.gpu_seconds == pytest.approx(8 * (0.0183734 + 250 * 0.01873211 / 8), rel=1e-4)
    assert bill.usd == pytest.approx(4.830015 / 3600 * 4.00, rel=1e-4)
    assert cost(spend, LLAMA3_70B, H200).gpu_seconds == pytest.approx(
        8 * (0.0183734 + 250 * 0.01841826), rel=1e-4
    )


def test_keys_and_values_of_a_reply_by_hand() -> None:
    """2 x layers x heads x head size x 2 bytes: 22.5 KiB, 128 KiB and 320 KiB a token; 4,096 of them."""
    sizes = {shape.name: 4096 * shape.kv_bytes_per_token for shape in MODEL_SHAPES.values()}
    assert sizes["SmolLM2-135M-Instruct"] == 90 * 2**20
    assert sizes["Llama-3-8B"] == 512 * 2**20
    assert sizes["Llama-3-70B"] == 1280 * 2**20
    assert replace(LLAMA3_8B, kv_bytes_each=1).kv_bytes_per_token == 64 * 1024


def test_on_a_cpu_a_batch_saves_nothing() -> None:
    assert cost(ONE_CALL, SMOLLM2_135M, CPU, batch=8) == cost(ONE_CALL, SMOLLM2_135M, CPU)


@pytest.mark.parametrize(
    ("spans", "together"),
    [
        ([], 1.0),
        ([(1.0, 1.0), (2.0, 2.0)], 1.0),
        ([(0.0, 2.0)], 1.0),
        ([(0.0, 2.0), (5.0, 7.0)], 1.0),  # one after the other, with a pause
        ([(0.0, 2.0), (0.0, 2.0), (0.0, 2.0)], 3.0),
        ([(0.0, 4.0), (1.0, 2.0)], 1.25),
        ([(3.0, 6.0), (0.0, 2.0), (1.0, 4.0)], 8 / 6),
    ],
)
def test_how_many_run_together(spans: list[tuple[float, float]], together: float) -> None:
    assert mean_overlap(spans) == pytest.approx(together)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12))
def test_together_is_the_mean_over_the_moments_at_which_any_runs(given_spans: list[tuple[int, int]]) -> None:
    spans = [(float(start), float(start + length)) for start, length in given_spans]
    counts = [sum(start <= t < end for start, end in spans) for t in range(80)]
    busy = [count for count in counts if count]
    expected = sum(busy) / len(busy) if busy else 1.0
    assert mean_overlap(spans) == pytest.approx(expected)


def test_smollm_on_this_kind_of_cpu_decodes_at_the_measured_rate() -> None:
    # 98 MB of weights over 8 GB/s: 12.4 ms a token at a short context, about 80 tokens/s.
    bill = cost(Spend(prompt_computed=40, completion_kept=100, calls=1), SMOLLM2_135M, CPU)
    decode_s = bill.gpu_seconds - 40 * flops_per_token(SMOLLM2_135M, 20.5) / 0.07e12
    assert 65 < 100 / decode_s < 85


def test_eight_sequences_on_an_idle_h200_cost_about_six_percent_more_time() -> None:
    ratio = decode_step_s(LLAMA3_8B, H200, 1024, batch=8) / decode_step_s(LLAMA3_8B, H200, 1024)
    assert ratio == pytest.approx(1.058, abs=0.001)


def test_a_large_batch_becomes_compute_bound() -> None:
    step = decode_step_s(SMOLLM2_135M, H200, 1, batch=4096)
    assert step == pytest.approx(4096 * flops_per_token(SMOLLM2_135M, 1) / 989e12)


def test_batched_decoding_is_shared_and_prefill_is_not() -> None:
    alone, together = cost(ONE_CALL, LLAMA3_8B, H200), cost(ONE_CALL, LLAMA3_8B, H200, batch=8)
    assert together.flops == alone.flops
    assert alone.gpu_seconds / 8 < together.gpu_seconds < alone.gpu_seconds / 4
    prefill = Spend(prompt_computed=1000, calls=1)
    assert cost(prefill, LLAMA3_8B, H200, batch=8) == cost(prefill, LLAMA3_8B, H200)


def test_cached_prompt_is_not_billed_but_attended_to() -> None:
    cold = cost(ONE_CALL, LLAMA3_8B, H100)
    warm = cost(Spend(prompt_computed=1, prompt_cached=999, completion_kept=200, calls=1), LLAMA3_8B, H100)
    # The one computed token stands at position 1000; the decode is the same.
    assert cold.flops - warm.flops == pytest.approx(16_322_928_640_000 - (16_060_522_496 + 524_288 * 1000))
    assert warm.kv_bytes == 201 * 131_072
    assert warm.gpu_seconds < cold.gpu_seconds


def test_every_kind_of_completion_token_costs_the_same() -> None:
    spends = [
        Spend(prompt_computed=10, completion_kept=30, calls=1),
        Spend(prompt_computed=10, completion_discarded=30, calls=1),
        Spend(prompt_computed=10, verifier=30, calls=1),
        Spend(prompt_computed=10, completion_kept=10, completion_discarded=10, verifier=10, calls=1),
    ]
    assert len({cost(spend, LLAMA3_8B, L4) for spend in spends}) == 1


def test_equal_calls_add_up() -> None:
    four = Spend(prompt_computed=4000, completion_kept=200, completion_discarded=600, calls=4)
    one = cost(ONE_CALL, LLAMA3_8B, H100)
    assert cost(four, LLAMA3_8B, H100).flops == pytest.approx(4 * one.flops)
    total = one + one + one + one
    assert cost(four, LLAMA3_8B, H100).usd == pytest.approx(total.usd)
    assert cost(four, LLAMA3_8B, H100).kv_bytes == total.kv_bytes
    assert total.gpu_seconds == pytest.approx(4 * one.gpu_seconds)


def test_prices_are_settable_both_ways() -> None:
    base = cost(ONE_CALL, LLAMA3_8B, H100)
    assert cost(ONE_CALL, LLAMA3_8B, H100, 6.00).usd == pytest.approx(2 * base.usd)
    assert cost(ONE_CALL, LLAMA3_8B, replace(H100, usd_per_hour=6.00)).usd == pytest.approx(2 * base.usd)
    assert cost(ONE_CALL, LLAMA3_8B, H100, 0.0).usd == 0


def test_nothing_costs_nothing_and_a_batch_is_at_least_one() -> None:
    assert cost(Spend(), LLAMA3_8B, H100) == Cost()
    with pytest.raises(ValueError, match="at least one"):
        cost(ONE_CALL, LLAMA3_8B, H100, batch=0)


def test_data_sheets_are_found_by_name_and_models_fit_where_they_should() -> None:
    assert set(HARDWARE) == {"L4", "H100", "H200", "CPU"}
    assert set(MODEL_SHAPES) == {"SmolLM2-135M-Instruct", "Llama-3-8B", "Llama-3-70B"}
    assert HARDWARE["H200"].memory_bytes == 141e9
    assert LLAMA3_8B.weight_bytes < L4.memory_bytes
    assert L4.memory_bytes < LLAMA3_70B.weight_bytes < H100.memory_bytes
    with pytest.raises(TypeError):
        HARDWARE["H300"] = H200  # type: ignore[index]


tokens = st.integers(0, 100_000)


@given(tokens, tokens, tokens, st.integers(1, 64), st.sampled_from(list(HARDWARE.values())))
def test_more_work_never_costs_less(computed: int, cached: int, kept: int, calls: int, hardware) -> None:
    spend = Spend(prompt_computed=computed + calls, prompt_cached=cached, completion_kept=kept, calls=calls)
    bill = cost(spend, LLAMA3_8B, hardware)
    more = cost(spend + Spend(completion_discarded=calls), LLAMA3_8B, hardware)
    assert 0 < bill.flops < more.flops
    assert 0 < bill.gpu_seconds < more.gpu_seconds
    assert bill.usd <= more.usd
    # No hardware does the work faster than its peak.
    assert bill.gpu_seconds >= bill.flops / hardware.peak_flops_per_s * 0.999
