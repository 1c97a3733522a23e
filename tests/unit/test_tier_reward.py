"""A tier's reward model: configured, opened and closed with it, and asked by the arms that score by it."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from backends.errors import EngineUnavailable
from backends.hardware import CPU, SMOLLM2_135M
from backends.runner import TierRunner
from backends.verifiers.fake import FakeRewardModel
from backends.verifiers.http_reward import HttpRewardModel
from router.config import AppConfig
from router.profiles import fake_config
from router.tier_factory import TierFactory
from tests.tasks import says, task

REWARD = {"base_url": "http://reward:8000", "model": "judge-1b", "api_key_env": "REWARD_KEY"}


class Noted(FakeRewardModel):
    """Remembers when it was opened and closed."""

    events: tuple[str, ...] = ()

    async def start(self) -> None:
        self.events += ("start",)

    async def aclose(self) -> None:
        self.events += ("aclose",)


def rewarded() -> AppConfig:
    config = fake_config()
    tiers = {name: tier.model_dump() | {"reward": REWARD} for name, tier in config.tiers.items()}
    return AppConfig.model_validate(config.model_dump() | {"tiers": tiers})


async def test_an_arm_that_scores_by_it_asks_it_and_pays_for_what_it_reads() -> None:
    model = Noted(lambda text: 1.0 if "9" in text else 0.1)
    engine = says(("Answer: 7", 3.0), ("Answer: 9", 2.0))
    runner = TierRunner(engine, tier="search", hardware=CPU, shape=SMOLLM2_135M, reward=model)
    await runner.start()
    asked = task(strategy="best_of_n", max_samples=6, scorer="reward", confidence=1.0, temperature=1.0)
    result = await runner.run(asked)
    assert {sample.answer for sample in result.samples} == {"7", "9"}
    assert result.answer == "9"
    drawn = await runner.run(replace(asked, params=replace(asked.params, scorer="logprob")))
    read = 2 * await model.count_tokens(asked.messages, "Answer: 9")
    assert result.spend.prompt - drawn.spend.prompt == read
    await runner.aclose()
    assert model.events == ("start", "aclose")


async def test_a_tier_whose_reward_model_cannot_be_opened_does_not_come_up() -> None:
    class Keyless(FakeRewardModel):
        async def start(self) -> None:
            raise EngineUnavailable("no key")

    engine = says("x")
    runner = TierRunner(
        engine, tier="search", hardware=CPU, shape=SMOLLM2_135M, reward=Keyless(lambda text: 1.0)
    )
    with pytest.raises(EngineUnavailable):
        await runner.start()
    assert not await engine.healthy()


async def test_the_configuration_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = rewarded()
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301  Serve does so
    assert AppConfig.model_validate_json(config.model_dump_json()) == config
    monkeypatch.setenv("REWARD_KEY", "secret")
    runner = await TierFactory("search", config)()
    assert isinstance(runner.reward, HttpRewardModel)
    assert runner.reward.config == config.tiers["search"].reward
    assert "secret" not in config.model_dump_json()
    await runner.start()
    await runner.aclose()
    assert (await TierFactory("search", fake_config())()).reward is None
