"""What a tier's reward model is reached by: cold configuration, checked when the service starts."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backends.verifiers.base import Aggregate

Seconds = Annotated[float, Field(gt=0)]


class RewardConfig(BaseModel):
    """A reward model behind vLLM's `POST {base_url}/pooling` (`vllm serve --runner pooling`).

    `task` is the one that the server runs (`--pooler-config.task`). classify: a score for the whole reply.
    token_classify: scores of tokens, a process reward model; `step_token` is put after every line of a reply
    and its scores are the steps'. Without it every row that the server sends is a step, as from a server that
    picks them itself (`tok_pooling_type` STEP). `label` indexes a row's scores, -1 the last. `aggregate`
    makes one score of the steps'. `api_key_env` names the environment variable that holds the key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    base_url: str = Field(pattern=r"^https?://\S+$")
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    task: Literal["classify", "token_classify"] = "classify"
    step_token: str | None = Field(default=None, min_length=1)
    label: int = -1
    aggregate: Aggregate = "last"
    parallel: int = Field(default=8, ge=1)
    connect_timeout_s: Seconds = 5.0
    timeout_s: Seconds = 30.0

    @model_validator(mode="after")
    def _steps_need_tokens(self) -> Self:
        if self.task == "classify" and self.step_token is not None:
            raise ValueError("step_token is for token_classify: a classify server scores whole replies")
        return self
