"""Hundreds of broken files: each is refused in one line that names file, line and field; nothing is taken."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos.broken_policies import broken_policies
from policies.errors import PolicyFileError
from policies.loader import load_policy, parse_policy
from policies.publishing import Publisher
from tests.unit.test_live_policy import A, Replica, Store

DEFAULT = Path(__file__).parents[2] / "policies" / "default.yaml"
GOOD = DEFAULT.read_text()
BROKEN = list(broken_policies(GOOD))


def test_there_are_three_hundred_and_all_are_different() -> None:
    assert len({data for _, data in BROKEN}) == 300
    assert len({name.rpartition(" ")[0] for name, _ in BROKEN}) >= 19


@pytest.mark.parametrize("kind", sorted({name.rpartition(" ")[0] for name, _ in BROKEN}))
def test_every_broken_file_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    for name, data in BROKEN:
        if name.rpartition(" ")[0] != kind:
            continue
        file.write_bytes(data)
        began_s = time.process_time()
        with pytest.raises(PolicyFileError) as caught:
            load_policy(file)
        error = caught.value
        said = str(error)
        assert re.match(rf"{re.escape(str(file))}:[0-9]+: ", said), name
        assert said.isprintable(), name
        assert len(said) < 700, name
        assert 1 <= error.line <= data.count(b"\n") + data.count(b"\r") + 2, name
        assert time.process_time() - began_s < 5, name


async def test_a_service_that_is_given_them_all_keeps_the_last_good_one() -> None:
    replica = Replica(Store())
    publisher = Publisher(replica.store, "ann")
    await publisher.push(A)
    await replica.look()
    number = replica.store.opened(await replica.store.raw_state())
    for index, (name, data) in enumerate(BROKEN):
        if name.startswith(("not UTF-8", "UTF-16")):
            continue  # no text, so nobody can have published it
        version = f"{index:012x}"
        replica.store.break_document(version, data.decode("utf-8", "replace"))
        state = number.pushed(version).dated(number.number + 1 + index, number.at_ms + 1 + index)
        replica.store.turn_back(state.model_dump_json().encode())
        ruling = await replica.look()
        assert ruling.policy.version == A.version, name
        assert f"policy {version}:" in str(replica.live.trouble), name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\ufeff" + GOOD, "U+FEFF"),
        (GOOD.replace("# Check", "# Check\u2028evil: 1 #"), "U+2028"),
        (GOOD.replace("# Check", "# Check\revil: 1 #"), "U+000D"),
        (GOOD.replace("name: default", "name: default # \u202e"), "U+202E"),
        ("%YAML 1.1\n---\n" + GOOD, "directives are refused"),
        ("%TAG ! tag:evil,2000:\n---\n" + GOOD, "directives are refused"),
        (GOOD.replace("tenants:\n", "tenants:\n  <<: {demo: {}}\n", 1), "tenants.<<: "),
        ('"\\e[31mred": 1\n' + GOOD, "?[31mred: unknown field"),
        ('"' + "k" * 1000 + '": 1\n' + GOOD, "k..."),
        (GOOD.replace("  demo:", "  demo: x\n  more:"), "it should be a mapping"),
        (GOOD.replace("keys: []", "keys: x"), "it should be a list"),
    ],
)
def test_what_was_found_by_attack(text: str, said: str) -> None:
    with pytest.raises(PolicyFileError) as caught:
        parse_policy(text, "policy.yaml")
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_windows_line_ends_and_yaml_1_1_words_are_fine() -> None:
    assert parse_policy(GOOD.replace("\n", "\r\n"), "x").version == load_policy(DEFAULT).version
    named = parse_policy(GOOD.replace("  batch:", "  no:"), "x")
    assert "no" in named.tenants


@given(st.binary(max_size=300), st.integers(0, len(GOOD)))
def test_any_bytes_are_refused_in_one_line_or_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(GOOD.encode()[:at] + data)
    try:
        load_policy(file)
    except PolicyFileError as error:
        assert str(error).isprintable()
