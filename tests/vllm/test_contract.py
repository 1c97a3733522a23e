"""The contract of every engine, held by vLLM in this process and by its server behind the OpenAI protocol."""

from __future__ import annotations

import pytest

from tests.contract.test_engine_contract import *  # noqa: F403  the suite itself
from tests.engine_subjects import Subject
from tests.vllm.subjects import http_subject, native_subject

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="session", params=["openai_http", "vllm"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "vllm":
        return native_subject(request.getfixturevalue("native_engine"))
    return http_subject(request.getfixturevalue("http_engine"), request.getfixturevalue("server"))
