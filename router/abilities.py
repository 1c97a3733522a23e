"""Which arms a configuration can run, known before anything is spent: the strategies themselves are asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from backends.engines.base import Chunk, Completion, EngineInfo, Generation, Message, Sampling
from backends.engines.build import build_engine
from backends.errors import BackendError, EngineUnavailable, StrategyUnsupported
from backends.strategies import STRATEGIES
from backends.strategies.base import Run
from backends.task import StrategyParams, TierTask
from backends.verifiers.base import RewardModel
from backends.verifiers.http_reward import HttpRewardModel
from policies.arm_spec import ArmSpec
from policies.arms import Candidate
from policies.errors import PolicyFileError
from policies.schema import Policy
from router.config import AppConfig

NOTHING_RUNS = "nothing runs here"


class _Described:
    """An engine that is what another says it is, and refuses every call."""

    def __init__(self, info: EngineInfo) -> None:
        self.info = info

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    async def healthy(self) -> bool:
        return False

    async def count_prompt_tokens(self, messages: Sequence[Message], prefix: str = "") -> int:
        raise EngineUnavailable(NOTHING_RUNS)

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk | Completion, None]:
        raise EngineUnavailable(NOTHING_RUNS)
        yield


async def lacking(spec: ArmSpec, info: EngineInfo, reward: RewardModel | None = None) -> str | None:
    """What an engine (with a reward model beside it) lacks for an arm; None if it can run it.

    Strategies look for what they need before their first call (StrategyUnsupported); that call fails here.
    """
    params = StrategyParams(**Candidate("", spec, spec.replies).params())  # type: ignore[arg-type]
    task = TierTask(
        lease_id="",
        strategy=spec.strategy,
        messages=(Message("user", "?"),),
        sampling=Sampling(max_tokens=16),
        params=params,
        budget_tokens=1_000_000,
        timeout_s=60.0,
    )
    deadline = asyncio.get_running_loop().time() + task.timeout_s
    run = Run(_Described(info), task, deadline=deadline, emit=lambda _: None, reward=reward)
    try:
        await STRATEGIES[spec.strategy](run)
    except StrategyUnsupported as unsupported:
        return str(unsupported)
    except BackendError:
        return None
    return None


async def shortcomings(policy: Policy, config: AppConfig) -> Mapping[str, str]:
    """The arms that the configured tiers cannot run, each with what its tier lacks."""
    found = {}
    able = {
        name: (build_engine(tier.engine).info, HttpRewardModel(tier.reward) if tier.reward else None)
        for name, tier in config.tiers.items()
    }
    for name, spec in policy.arms.items():
        await asyncio.sleep(0)  # a service that reads a new policy answers requests meanwhile
        if spec.tier not in able:
            found[name] = f"there is no tier {spec.tier} in the app config"
            continue
        problem = await lacking(spec, *able[spec.tier])
        if problem is not None:
            found[name] = problem
    return found


async def runnable(policy: Policy, config: AppConfig) -> tuple[Policy, Mapping[str, str]]:
    """The policy without the arms that their tier cannot run, and what those lack.

    Arms of a tier that is not there stay: whoever asks for that tier is told that it is unavailable. Raises
    PolicyFileError where no arm is left.
    """
    lacks = await shortcomings(policy, config)
    if len(lacks) == len(policy.arms):
        problem = f"no tier can run any of them: {'; '.join(lacks)}"
        raise PolicyFileError(policy.source, 1, "arms", problem)
    return policy.without([arm for arm in lacks if policy.arms[arm].tier in config.tiers]), lacks
