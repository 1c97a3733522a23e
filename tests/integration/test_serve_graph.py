"""The whole graph on a real Ray Serve with scripted engines: one stack, in a process of its own.

Ray reads its environment when it is imported, so the stack cannot live in the test process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, OpenAI, RateLimitError
from redis import Redis

import policies
from router.leftovers import processes_of
from router.state import RunRecord, StateDir

START_TIMEOUT_S = 150.0
SLOW_TOKENS = 250
SLOW_S = SLOW_TOKENS * 0.02

TENANTS = """
  limited:
    keys: []
    limits: {requests_per_minute: 1}
  poor:
    keys: []
    budgets: {minute: 40}
    on_low_budget: deny
"""


def stack_config(policy: Path) -> dict[str, Any]:
    slow = " ".join(f"word{number}" for number in range(SLOW_TOKENS))
    answers = {"slow": [{"text": slow}], "": [{"text": "The answer is simple.\nAnswer: 4"}]}

    def tier(**engine: Any) -> dict[str, Any]:
        return {
            "engine": {"kind": "fake", "token_delay_s": 0.02, "answers": answers, **engine},
            "hardware": "CPU",
            "shape": "SmolLM2-135M-Instruct",
            "num_cpus": 0.4,
            "graceful_shutdown_timeout_s": 5,
        }

    return {
        "policy": str(policy),
        # One sequence at a time on the direct tier: whoever is not cancelled is in the way.
        "tiers": {
            "direct": tier(parallel=1),
            "consistency": tier(fail={"kind": "unavailable"}),
            "search": tier(),
        },
        "classifier": {"placement": "deployment", "num_cpus": 0.1, "graceful_shutdown_timeout_s": 5},
        "ingress": {"num_cpus": 0.1, "graceful_shutdown_timeout_s": 5},
    }


class Service:
    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.folder = folder
        self.record = record
        self.url = record.base_url

    def key(self, tenant: str = "demo") -> str:
        return StateDir(self.folder / ".acr").key_file(tenant).read_text().strip()

    def client(self, tenant: str = "demo") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key(tenant), max_retries=0, timeout=60)

    def http(self, tenant: str = "demo") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key(tenant)}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def pids(self, title: str = "") -> list[int]:
        return [pid for pid in processes_of(self.record.stack_id) if title in command_of(pid)]

    def used_and_held(self) -> tuple[int, int]:
        """Tokens of the tenant demo this day, as the ledger counts them."""
        with self.http() as http:
            gauges = http.post("/v1/explain", json=ask()).json()["budgets"]
        [day] = [gauge for gauge in gauges if gauge["window"] == "day"]
        return day["used"], day["held"]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def eventually(true: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("stack")
    policy = folder / "policy.yaml"
    policy.write_text((Path(policies.__file__).parent / "default.yaml").read_text() + TENANTS)
    (folder / "app.json").write_text(json.dumps(stack_config(policy)))
    environment = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "CACHE_REDIS_URL")}
    environment["ACR_STATE_DIR"] = str(folder / ".acr")
    command = [sys.executable, "-m", "router.cli.main", "serve", "--port", "0", "--config", "app.json"]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        ready = eventually(
            lambda: process.poll() is not None or "Ctrl-C stops" in log.read_text(), START_TIMEOUT_S
        )
        assert ready, log.read_text()
        assert process.poll() is None, log.read_text()
        record = StateDir(folder / ".acr").read_record()
        assert record is not None
        yield Service(folder, record)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


QUICK: Any = [{"role": "user", "content": "What is 2 + 2?"}]


def slow(number: int) -> Any:
    """Another one each time: equal requests at temperature 0 are answered from the cache."""
    return [{"role": "user", "content": f"slow, number {number}"}]


def ask(messages: Any = QUICK, **changes: Any) -> dict[str, Any]:
    return {"model": "direct", "messages": messages, "max_completion_tokens": 500, "temperature": 0} | changes


# -- the openai client


def test_an_answer(service: Service) -> None:
    with service.client() as client:
        reply = client.chat.completions.create(**ask())
    assert reply.choices[0].message.content == "The answer is simple.\nAnswer: 4"
    assert reply.usage is not None
    assert reply.usage.model_dump()["compute"]["tier"] == "direct"


def test_the_router_decides_with_the_classifier_on_its_own_deployment(service: Service) -> None:
    with service.client() as client:
        reply = client.chat.completions.create(**ask(model="auto", reasoning_effort="none"))
    assert reply.usage is not None
    compute = reply.usage.model_dump()["compute"]
    assert compute["classifier_version"]
    assert compute["arms_tried"]
    assert service.pids("tier-direct")
    assert service.pids("classifier")


def test_a_stream(service: Service) -> None:
    with service.client() as client:
        stream = client.chat.completions.create(
            **ask(slow(1), stream=True, stream_options={"include_usage": True})
        )
        began, first_s, text, usage = time.monotonic(), None, "", None
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                first_s = first_s or time.monotonic() - began
                text += chunk.choices[0].delta.content
            usage = chunk.usage or usage
        total_s = time.monotonic() - began
    assert text.split() == [f"word{number}" for number in range(SLOW_TOKENS)]
    assert usage is not None
    assert usage.completion_tokens >= SLOW_TOKENS
    assert first_s is not None
    assert first_s < total_s / 4  # it comes as it is generated, through every layer


# -- leaving


def test_leaving_a_stream_frees_the_tier_and_settles(service: Service) -> None:
    with (
        service.http() as http,
        http.stream("POST", "/v1/chat/completions", json=ask(slow(2), stream=True)) as r,
    ):
        next(r.iter_text())
    began = time.monotonic()
    with service.client() as client:
        client.chat.completions.create(**ask(temperature=0.5))  # the tier answers one at a time
    assert time.monotonic() - began < SLOW_S / 2
    assert eventually(lambda: service.used_and_held()[1] == 0, 8)


def test_leaving_while_waiting_frees_the_tier_and_charges_what_was_spent(service: Service) -> None:
    before, _ = service.used_and_held()
    with service.http() as http, pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json=ask(slow(3)), timeout=1.0)
    began = time.monotonic()
    with service.client() as client:
        reply = client.chat.completions.create(**ask(temperature=0.5))
    assert time.monotonic() - began < SLOW_S / 2
    assert reply.usage is not None
    assert eventually(lambda: service.used_and_held()[1] == 0, 8)
    spent = service.used_and_held()[0] - before - reply.usage.total_tokens
    assert 0 < spent < SLOW_TOKENS


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_a_run_that_has_a_key_does_not_end_it(service: Service, stream: bool) -> None:
    """Serve cancels what a request has called when its client leaves; a key's run is not the request's."""
    before, _ = service.used_and_held()
    body = ask(slow(7 + stream), stream=stream)
    once = {"idempotency-key": f"leaving-{stream}"}
    with service.http() as http:
        if stream:
            with http.stream("POST", "/v1/chat/completions", json=body, headers=once) as left:
                next(left.iter_text())
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/chat/completions", json=body, headers=once, timeout=1.0)
        assert http.post("/v1/chat/completions", json=body, headers=once).status_code == 409
        replies: list[httpx.Response] = []

        def answered() -> bool:
            replies.append(http.post("/v1/chat/completions", json=body, headers=once))
            return replies[-1].status_code != 409

        assert eventually(answered, SLOW_S * 6)
        assert replies[-1].status_code == 200
        assert replies[-1].headers["idempotent-replayed"] == "true"
        assert f"word{SLOW_TOKENS - 1}" in replies[-1].text
    assert eventually(lambda: service.used_and_held()[1] == 0, 8)
    assert SLOW_TOKENS <= service.used_and_held()[0] - before < 2 * SLOW_TOKENS


# -- errors, through HAProxy and Serve


def refused(service: Service, tenant: str = "demo", **changes: Any) -> httpx.Response:
    with service.http(tenant) as http:
        return http.post("/v1/chat/completions", json=ask(**changes))


def test_a_broken_engine_is_our_503_with_its_headers(service: Service) -> None:
    reply = refused(service, model="consistency", reasoning_effort="high")
    assert reply.status_code == 503
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-should-retry"] == "true"
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.json()["error"]["code"] == "tier_unavailable"


def test_a_rate_limit_is_our_429_with_its_headers(service: Service) -> None:
    with service.client("limited") as client:
        client.chat.completions.create(**ask())
        with pytest.raises(RateLimitError) as caught:
            client.chat.completions.create(**ask())
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert caught.value.response.headers["x-should-retry"] == "true"


def test_a_spent_budget_is_our_429_and_not_to_be_retried(service: Service) -> None:
    reply = refused(service, "poor")
    assert reply.status_code == 429
    assert reply.json()["error"]["type"] == "insufficient_quota"
    assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"model": "gpt-9"}, 404, "model_not_found"),
        ({"logit_bias": {}}, 400, "unsupported_parameter"),
        ({"temprature": 1}, 400, "unknown_parameter"),
        ({"n": 0}, 400, "invalid_value"),
    ],
)
def test_bad_requests(service: Service, changes: dict[str, Any], status: int, code: str) -> None:
    with service.client() as client, pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(**ask(extra_body=changes))
    assert caught.value.status_code == status
    assert caught.value.code == code


def test_what_is_too_large_is_refused_by_us(service: Service) -> None:
    body = refused(service, messages=[{"role": "user", "content": "x" * (1 << 20)}])
    with service.http() as http:
        headers = http.post("/v1/chat/completions", json=ask(), headers={"x-large": "x" * 40_000})
    assert (body.status_code, headers.status_code) == (413, 431)
    assert body.json()["error"]["message"]
    assert headers.json()["error"]["message"]


def test_the_request_id_comes_back_once(service: Service) -> None:
    with service.http() as http:

        def ids(path: str, **headers: str) -> list[str]:
            return http.get(path, headers=headers).headers.get_list("x-request-id")

        mine = {"x-request-id": "mine-1"}
        assert ids("/v1/models", **mine) == ids("/v1/nothing", **mine) == ["mine-1"]
        assert len(ids("/v1/models")) == 1
        assert ids("/v1/models", **{"x-request-id": "two words"}) != ["two words"]
        chat = http.post("/v1/chat/completions", json=ask(), headers=mine)
    assert chat.headers.get_list("x-request-id") == ["mine-1"]


def test_a_caller_cannot_set_serve_s_timeout(service: Service) -> None:
    with service.http() as http:
        headers = {"x-request-timeout-seconds": "0.01"}
        assert http.post("/v1/chat/completions", json=ask(), headers=headers).status_code == 200


def test_serve_s_own_pages_tell_nothing_of_tenants(service: Service) -> None:
    with httpx.Client(base_url=service.url, trust_env=False) as http:
        assert http.get("/-/healthz").text == "success"
        assert http.get("/v1/models").status_code == 401


# -- what others can reach


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses, in /proc's hexadecimal, and ports that a process listens on."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(descriptor))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_nothing_listens_beyond_loopback(service: Service) -> None:
    pids = [service.record.pid, *service.pids()]
    assert len(pids) > 10
    for pid in pids:
        assert {address for address, _ in listening(pid)} <= LOOPBACK, command_of(pid)


def test_a_replica_refuses_calls_without_the_token(service: Service) -> None:
    """Its port unpickles what it is sent, so this is who may run code here."""
    proof = service.folder / "ran"
    code = f"""
import os, pickle, sys
import grpc
from ray.serve.generated import serve_pb2, serve_pb2_grpc
class Run:
    def __reduce__(self):
        return (os.mkdir, ({str(proof)!r},))
for port in sys.argv[1:]:
    with grpc.insecure_channel("127.0.0.1:" + port) as channel:
        try:
            message = serve_pb2.ASGIRequest(pickled_request_metadata=pickle.dumps(Run()))
            serve_pb2_grpc.ASGIServiceStub(channel).HandleRequest(message, timeout=10)
            print("answered")
        except grpc.RpcError as error:
            print(error.code().name)
"""
    ports = [str(port) for pid in service.pids("ServeReplica") for _, port in listening(pid)]
    assert ports
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_AUTH_MODE"] = "disabled"
    done = subprocess.run(
        [sys.executable, "-c", code, *ports], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("UNAUTHENTICATED") >= 5  # one a replica
    assert "answered" not in done.stdout
    assert not proof.exists()


def test_both_stores_are_embedded(service: Service) -> None:
    budgets, cache = Redis.from_url(service.record.redis_url), Redis.from_url(service.record.cache_redis_url)
    assert budgets.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    assert budgets.config_get("appendonly")["appendonly"] == "yes"
    assert cache.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"
    assert cache.config_get("maxmemory")["maxmemory"] == str(64 << 20)


# -- dying (last: it takes replicas away)


def told_tokens(store: Redis, lease: str) -> int:
    """Of a checkpoint, "tokens,gpu_ms,micro_usd"."""
    return int((store.hget(lease, "checkpoint") or "0").partition(",")[0])


def open_leases(store: Redis) -> list[str]:
    """Keys of the leases of the tenant demo that are not settled."""
    keys = store.scan_iter("acr:{demo}:lease:*", count=1000)
    return [key for key in keys if store.hget(key, "state") == "open"]


def test_a_run_whose_tier_is_killed_is_charged_what_it_had_told(service: Service) -> None:
    store = Redis.from_url(service.record.redis_url, decode_responses=True)
    assert eventually(lambda: not open_leases(store), 8)
    before, _ = service.used_and_held()
    [pid] = service.pids("tier-direct")
    with (
        service.http() as http,
        http.stream("POST", "/v1/chat/completions", json=ask(slow(5), stream=True)) as reply,
    ):
        lines = reply.iter_lines()
        [lease] = open_leases(store)
        assert eventually(lambda: told_tokens(store, lease) > 0, 10)
        os.kill(pid, signal.SIGKILL)
        rest = [line for line in lines if line.startswith("data: ")]
    assert "error" in json.loads(rest[-1].removeprefix("data: "))
    assert eventually(lambda: service.used_and_held()[1] == 0, 8)  # long before the lease would expire
    told = told_tokens(store, lease)
    assert store.hget(lease, "state") == "settled"
    assert service.used_and_held()[0] - before == told > 0
    assert sum(line.count("word") for line in rest) < SLOW_TOKENS

    def answers() -> bool:
        return refused(service, temperature=0.5).status_code == 200

    assert eventually(answers, 60)


def test_a_tier_that_dies_is_said_so_and_comes_back(service: Service) -> None:
    [pid] = service.pids("tier-search")
    with service.http() as http:
        with http.stream(
            "POST", "/v1/chat/completions", json=ask(slow(4), model="search", stream=True)
        ) as reply:
            lines = reply.iter_lines()
            assert reply.status_code == 200
            os.kill(pid, signal.SIGKILL)
            rest = [line for line in lines if line.startswith("data: ")]
        assert "error" in json.loads(rest[-1].removeprefix("data: "))

        def answers() -> bool:
            reply = http.post("/v1/chat/completions", json=ask(model="search"))
            assert reply.headers["content-type"] == "application/json"
            assert reply.status_code in (200, 503), reply.text
            return reply.status_code == 200

        assert eventually(answers, 60)
