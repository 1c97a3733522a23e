"""How one published state follows from another, whatever is done in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pydantic import ValidationError

from policies.errors import PublicationRefused
from policies.published import MAX_BEFORE, Canary, Published

VERSIONS = [f"{number:012x}" for number in range(30)]
A, B, C = VERSIONS[:3]

version = st.sampled_from(VERSIONS)


class Publishing(RuleBasedStateMachine):
    """Against a plain list of what was current, newest last."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Published()
        self.past: list[str | None] = [None]

    @rule(version=version)
    def push(self, version: str) -> None:
        self.state = self.state.pushed(version)
        if self.past[-1] != version:
            self.past.append(version)
            assert self.state.canary is None

    @rule(version=version, percent=st.floats(0.1, 100))
    def canary(self, version: str, percent: float) -> None:
        canary = Canary(version=version, percent=percent)
        if version == self.state.current:
            with pytest.raises(PublicationRefused):
                self.state.with_canary(canary)
        else:
            self.state = self.state.with_canary(canary)

    @rule(version=version)
    def shadow(self, version: str) -> None:
        if version == self.state.current:
            with pytest.raises(PublicationRefused):
                self.state.with_shadow(version)
        else:
            self.state = self.state.with_shadow(version)

    @rule()
    def promote(self) -> None:
        if self.state.canary is None:
            with pytest.raises(PublicationRefused):
                self.state.promoted()
        else:
            self.past.append(self.state.canary.version)
            self.state = self.state.promoted()

    @rule()
    def undo(self) -> None:
        if self.state.canary is not None:
            current = self.state.current
            self.state = self.state.undone()
            assert self.state.current == current
        elif not self.state.before:
            with pytest.raises(PublicationRefused):
                self.state.undone()
        else:
            self.past.pop()
            self.state = self.state.undone()

    @rule(version=st.none() | version)
    def roll_back(self, version: str | None) -> None:
        if version in self.state.before and version != self.state.current:
            while self.past[-1] != version:
                self.past.pop()
        elif version != self.state.current:
            self.past.append(version)
        self.state = self.state.rolled_back(version)

    @invariant()
    def holds(self) -> None:
        state = self.state
        assert state.current == self.past[-1]
        assert list(state.before) == self.past[-2::-1][:MAX_BEFORE]
        assert state.canary is None or state.canary.version != state.current
        assert state.shadow is None or state.shadow != state.current
        assert Published.model_validate_json(state.model_dump_json()) == state
        assert {state.current, state.shadow, *state.before} - {None} <= state.versions()


class TestPublishing(Publishing.TestCase):
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_rollback_skips_what_it_went_back_from() -> None:
    state = Published().pushed(A).pushed(B).pushed(C)
    state = state.undone().undone()
    assert (state.current, state.before) == (A, (None,))


def test_what_is_pushed_twice_changes_nothing_and_keeps_the_canary() -> None:
    state = Published().pushed(A).with_canary(Canary(version=B, percent=5))
    assert state.pushed(A) is state
    assert state.same(state.dated(7, 8))
    assert not state.same(state.pushed(B))


@pytest.mark.parametrize(
    "text",
    [
        '{"current": "x"}',
        '{"current": "ABCDEF012345"}',
        '{"number": -1}',
        '{"number": 1.5}',
        '{"at_ms": 9007199254740992}',
        '{"canary": {"version": "000000000000", "percent": 0}}',
        '{"canary": {"version": "000000000000", "percent": 101}}',
        '{"canary": {"version": "000000000000", "percent": 5, "tenant": "Not One"}}',
        '{"more": 1}',
        "[]",
        "",
    ],
)
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Published.model_validate_json(text)
