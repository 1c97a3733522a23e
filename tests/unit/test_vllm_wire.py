"""What is said to vLLM, and what its outputs become."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.engines.base import Chunk, Sampling
from backends.engines.config import SpeculativeDecoding, VLLMConfig
from backends.engines.vllm_wire import (
    CollectedOutput,
    cache_salt,
    engine_args,
    engine_info,
    likeliest,
    sampling_fields,
)
from backends.errors import EngineProtocolError, EngineUnavailable
from tests.fakes_vllm import PROMPT, output, place


def config(**fields: Any) -> VLLMConfig:
    return VLLMConfig(**{"model": "/models/small", "context_tokens": 512, **fields})


@given(st.text())
def test_a_salt_is_one_that_vllm_takes(scope: str) -> None:
    salt = cache_salt(scope)
    if not scope:
        assert salt is None
    else:
        assert salt is not None
        assert 1 <= len(salt) <= 128
        assert not set(salt) & set("@/\\\0")


@given(st.sets(st.text(min_size=1), min_size=2, max_size=8))
def test_scopes_do_not_share_a_salt(scopes: set[str]) -> None:
    assert len({cache_salt(scope) for scope in scopes}) == len(scopes)


def test_the_configuration_is_passed_on_in_vllms_words() -> None:
    assert engine_args(config(parallel=8, dtype="bfloat16", quantization="fp8", tensor_parallel_size=2)) == {
        "model": "/models/small",
        "max_model_len": 512,
        "max_num_seqs": 8,
        "dtype": "bfloat16",
        "quantization": "fp8",
        "tensor_parallel_size": 2,
        "enable_prefix_caching": True,
        "gpu_memory_utilization": 0.9,
        "enforce_eager": False,
        "max_logprobs": 20,
        "disable_log_stats": True,
    }


def test_speculation_and_blocks_are_said_where_they_are_set() -> None:
    draft = SpeculativeDecoding(method="ngram", num_speculative_tokens=4, prompt_lookup_max=3)
    args = engine_args(config(speculative=draft, block_tokens=32, enable_prefix_caching=False))
    assert args["speculative_config"] == {
        "method": "ngram",
        "num_speculative_tokens": 4,
        "prompt_lookup_max": 3,
    }
    assert args["block_size"] == 32
    assert args["enable_prefix_caching"] is False


@pytest.mark.parametrize(
    "mistake",
    [
        {"model": ""},
        {"context_tokens": 1},
        {"dtype": "int3"},
        {"quantization": "Not A Name"},
        {"tensor_parallel_size": 0},
        {"gpu_memory_utilization": 1.5},
        {"trust_remote_code": True},
        {"parallel": 0},
        {"speculative": {"method": "magic", "num_speculative_tokens": 2}},
        {"speculative": {"method": "ngram", "num_speculative_tokens": 0}},
        {"speculative": {"method": "ngram", "num_speculative_tokens": 2, "model": "draft"}},
        {"speculative": {"method": "eagle", "num_speculative_tokens": 2}},
        {"speculative": {"method": "mtp", "num_speculative_tokens": 2, "prompt_lookup_max": 2}},
        {"speculative": {"method": "ngram", "num_speculative_tokens": 2, "worker_cls": "x"}},
    ],
)
def test_mistakes_are_refused(mistake: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**mistake)


def test_operators_see_how_the_model_runs() -> None:
    plain = engine_info(config())
    assert plain.settings == {
        "dtype": "auto",
        "quantization": "as the model is stored",
        "tensor_parallel_size": "1",
        "speculative_decoding": "off",
        "prefix_caching": "on",
    }
    draft = SpeculativeDecoding(method="eagle3", num_speculative_tokens=3, model="org/draft")
    fast = engine_info(config(quantization="awq", speculative=draft, enable_prefix_caching=False))
    assert fast.settings["speculative_decoding"] == "eagle3, 3 tokens"
    assert fast.settings["quantization"] == "awq"
    assert fast.settings["prefix_caching"] == "off"


@pytest.mark.parametrize(
    ("model", "served", "name"),
    [
        ("/data/models/small", None, "small"),
        ("./small/", None, "small"),
        ("org/small", None, "org/small"),
        ("/data/models/small", "Small", "Small"),
    ],
)
def test_a_model_is_named_without_the_way_to_it(model: str, served: str | None, name: str) -> None:
    assert engine_info(config(model=model, served_model_name=served)).model == name


def test_without_logprobs_there_are_no_alternatives_either() -> None:
    info = engine_info(config(logprobs=False))
    assert (info.logprobs, info.top_logprobs) == (False, 0)
    assert sampling_fields(Sampling(4, top_logprobs=3), 99, config(logprobs=False))["logprobs"] is None


def test_sampling_is_bounded_by_the_context_and_by_what_the_engine_tells() -> None:
    sampling = Sampling(64, 0.7, 0.9, seed=5, stop=("\n",), top_logprobs=50)
    assert sampling_fields(sampling, 10, config(top_logprobs=8)) == {
        "max_tokens": 10,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 5,
        "stop": ["\n"],
        "logprobs": 8,
    }
    assert sampling_fields(Sampling(4), 10, config())["logprobs"] == 0


@given(st.lists(st.tuples(st.floats(-50, 0), st.text(max_size=3)), max_size=8), st.integers(1, 5))
def test_the_likeliest_are_the_largest_in_falling_order(every: list[tuple[float, str]], most: int) -> None:
    logprobs, texts = likeliest(iter(every), most)
    assert list(logprobs) == sorted((logprob for logprob, _ in every), reverse=True)[:most]
    assert all(pair in every for pair in zip(logprobs, texts, strict=True))


def test_deltas_add_up() -> None:
    collected = CollectedOutput(stop=("END",), top_logprobs=2)
    steps = [
        output("Two", (7,), logprobs=[place((7, -4.0, "Two"), (8, -0.1, "A"), (9, -2.0, "B"))], cached=3),
        output("", (8,), logprobs=[place((8, -0.2, ""), (9, -3.0, "x"))]),
        output(
            " plus", (9, 5), "stop", "END", [place((9, -0.3, " plus"), (1, -1.0, "y")), place((5, -0.4, "E"))]
        ),
    ]
    assert [collected.take(step) for step in steps] == [Chunk("Two", 1), None, Chunk(" plus", 4)]
    done = collected.completion()
    assert (done.text, done.finish, done.stop_string) == ("Two plus", "stop", "END")
    assert (done.prompt_tokens, done.cached_tokens, done.completion_tokens) == (len(PROMPT), 3, 4)
    assert done.logprobs == (-4.0, -0.2, -0.3, -0.4)
    assert done.top_logprobs == ((-0.1, -2.0), (-0.2, -3.0), (-0.3, -1.0), (-0.4,))
    assert done.top_tokens == (("A", "B"), ("", "x"), (" plus", "y"), ("E",))


def test_logprobs_that_miss_a_token_are_dropped() -> None:
    collected = CollectedOutput(stop=(), top_logprobs=1)
    collected.take(output("a", (7,), logprobs=[place((7, -1.0, "a"))]))
    collected.take(output("b", (8,), "length"))
    done = collected.completion()
    assert (done.logprobs, done.top_logprobs, done.top_tokens) == ((), (), ())


@pytest.mark.parametrize("reason", [None, 2, "</s>", "other"])
def test_an_end_that_the_caller_did_not_name_is_the_models_own(reason: int | str | None) -> None:
    collected = CollectedOutput(stop=("END",))
    collected.take(output("a", (7,), "stop", reason))
    assert collected.completion().stop_string is None


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_completion_that_vllm_gave_up_is_unavailable(reason: str) -> None:
    collected = CollectedOutput(stop=())
    collected.take(output("half", (7,), reason))
    with pytest.raises(EngineUnavailable, match="gave the completion up"):
        collected.completion()


@pytest.mark.parametrize(
    "end", [output("a", (7,)), output("a", (7,), "repetition"), output("", (), "stop")], ids=str
)
def test_an_end_of_another_kind_is_a_protocol_error(end: Any) -> None:
    collected = CollectedOutput(stop=())
    collected.take(end)
    with pytest.raises(EngineProtocolError):
        collected.completion()


@pytest.mark.parametrize(
    "broken",
    [
        SimpleNamespace(outputs=[], prompt_token_ids=PROMPT, num_cached_tokens=0),
        SimpleNamespace(prompt_token_ids=PROMPT),
        output("a", (7,), logprobs=[place((8, -1.0, "another token's"))]),
        SimpleNamespace(**{**vars(output("a")), "prompt_token_ids": None}),
    ],
    ids=["empty", "no outputs", "other logprobs", "no prompt"],
)
def test_an_output_of_another_form_is_a_protocol_error(broken: Any) -> None:
    with pytest.raises(EngineProtocolError, match="form"):
        CollectedOutput(stop=()).take(broken)
