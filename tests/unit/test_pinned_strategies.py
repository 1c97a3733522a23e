"""Every strategy by its name in a request: run by its own arm, within its lease, charged what it spent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends.verifiers.base import VerifySpec
from policies.arm_spec import STRATEGIES
from router import errors as told
from tests.service import ACME, HARD, request, start_service
from tests.tasks import says

DEFAULT = (Path(__file__).parents[2] / "policies" / "default.yaml").read_text(encoding="utf-8")
POLICY = DEFAULT.replace("\n  demo:\n", "\n  acme:\n", 1)
TEXTS = (("I add.\nThe answer is 7.", 3.0), ("I add.\nI carry.\nThe answer is 8.", 1.0), "The answer is 9.")


@pytest.mark.parametrize("p", [HARD, {}], ids=["predicted", "unpredicted"])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_strategy_is_run_by_its_name(strategy: str, p: dict[str, float]) -> None:
    service = await start_service(says(*TEXTS, delay_s=0.0001), p=p, policy=POLICY)
    # Most answers fail it, so that refinement has something to mend.
    check = VerifySpec("number", minimum=9) if strategy == "refine" else None
    asked = request(strategy=strategy, effort="medium", verify=check)
    receipt = (await service.pipeline.complete(ACME, asked)).receipt
    assert receipt.strategy == strategy
    assert [service.policy.arms[arm].strategy for arm in receipt.arms_tried] == [strategy]
    assert not receipt.degraded
    async with asyncio.timeout(5):
        while (minute := (await service.gauges())["minute"]).held:
            await asyncio.sleep(0.01)
    assert minute.used == receipt.charged_tokens == receipt.spend.total > 0


async def test_a_strategy_that_the_engine_cannot_run_is_refused_unspent() -> None:
    service = await start_service(says("x", continues_prefix=False), policy=POLICY)
    for strategy in ("beam", "rebase", "mcts"):
        with pytest.raises(told.InvalidRequest, match="continues a prefix") as refused:
            await service.pipeline.complete(ACME, request(strategy=strategy))
        assert (refused.value.param, refused.value.code) == ("compute.strategy", "unsupported_parameter")
    assert not service.engine.calls
