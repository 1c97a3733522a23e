"""Which arms a tier can run, as the strategies themselves say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends.engines.base import EngineInfo
from backends.verifiers.http_reward import HttpRewardModel, RewardConfig
from policies.arm_spec import STRATEGIES, ArmSpec
from router.abilities import lacking

ABLE = EngineInfo("m", 4096, top_logprobs=20)


def arm(strategy: str, **fields: Any) -> ArmSpec:
    return ArmSpec.model_validate({"tier": "search", "strategy": strategy, **fields})


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_an_able_engine_runs_everything(strategy: str) -> None:
    assert await lacking(arm(strategy), ABLE) is None


@pytest.mark.parametrize(
    ("spec", "lacks", "said"),
    [
        (arm("beam"), {"continues_prefix": False}, "continues a prefix"),
        (arm("rebase"), {"continues_prefix": False}, "continues a prefix"),
        (arm("mcts"), {"continues_prefix": False}, "continues a prefix"),
        (arm("beam"), {"tells_stop": False}, "which stop string"),
        (arm("best_of_n", max_samples=4), {"logprobs": False}, "log-probabilities"),
        (arm("mcts", scorer="p_true"), {"logprobs": False}, "log-probabilities"),
        (arm("best_of_n", max_samples=4, scorer="self_certainty"), {"top_logprobs": 0}, "alternative tokens"),
        (arm("best_of_n", max_samples=4, scorer="reward"), {}, "reward"),
        (arm("refine", scorer="reward"), {}, "reward"),
        (arm("self_consistency", max_samples=4, weighted=True), {"logprobs": False}, "log-probabilities"),
    ],
)
async def test_what_is_lacking_is_named(spec: ArmSpec, lacks: dict[str, Any], said: str) -> None:
    assert said in (await lacking(spec, replace(ABLE, **lacks)) or "")


@pytest.mark.parametrize("strategy", ["direct", "cot", "self_consistency", "refine"])
async def test_plain_strategies_need_nothing(strategy: str) -> None:
    poor = EngineInfo("m", 4096, continues_prefix=False, logprobs=False, seeds=False, tells_stop=False)
    assert await lacking(arm(strategy), poor) is None


async def test_a_reward_model_beside_the_engine_is_enough_and_is_not_asked() -> None:
    reward = HttpRewardModel(RewardConfig(base_url="http://127.0.0.1:9", model="r"))
    assert await lacking(arm("best_of_n", max_samples=4, scorer="reward"), ABLE, reward) is None
