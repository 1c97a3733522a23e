"""What differs between two policies, field by field: what they mean, not how they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from policies.schema import Policy, PolicyDocument

Change = Literal["changed", "added", "removed"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One field, by its dotted path. A whole arm or tenant that comes or goes is one difference.

    `also` names the tenants that inherit a changed default.
    """

    field: str
    change: Change
    before: Any = None
    after: Any = None
    also: tuple[str, ...] = ()


def differences(before: Policy, after: Policy) -> list[Difference]:
    """In the order of the document; none for policies that mean the same."""
    old, new = _plain(before.document), _plain(after.document)
    found: list[Difference] = []
    for section in new:
        by_name = section in ("arms", "efforts", "organisations", "tenants")
        found += _named(section, old, new) if by_name else _fields((section,), old[section], new[section])
    return _folded(found)


def _plain(document: PolicyDocument) -> dict[str, Any]:
    """As JSON; a tenant's name is its key already."""
    plain = document.model_dump(mode="json")
    for tenant in plain["tenants"].values():
        tenant.pop("name", None)
    return plain


def _named(section: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    """Arms, tenants and the like: by their names. A tenant says itself what is not as in the defaults."""
    defaults = [each["defaults"] if section == "tenants" else {} for each in (old, new)]
    yield from _members((section,), old[section], new[section], *defaults)


def _members(
    path: tuple[str, ...], was: Mapping[str, Any], now: Mapping[str, Any], old_base: Any, new_base: Any
) -> Iterator[Difference]:
    """Those that come and go as a whole, and the fields of those that stay."""
    for name in {**was, **now}:
        whole = ".".join((*path, name))
        if name not in was:
            own = {each.field: each.after for each in _fields((), new_base, now[name])}
            yield Difference(whole, "added", after=own)
        elif name not in now:
            own = {each.field: each.after for each in _fields((), old_base, was[name])}
            yield Difference(whole, "removed", before=own)
        else:
            yield from _fields((*path, name), was[name], now[name])


def _fields(path: tuple[str, ...], was: Any, now: Any) -> Iterator[Difference]:
    if path[-1:] == ("keys",):
        yield from _members(path, _by_id(was), _by_id(now), {}, {})
        return
    mappings = isinstance(was, Mapping), isinstance(now, Mapping)
    if any(mappings) and (all(mappings) or None in (was, now)):
        for name in {**(was or {}), **(now or {})}:
            yield from _fields((*path, name), (was or {}).get(name), (now or {}).get(name))
    elif was != now:
        yield Difference(".".join(path), "changed", was, now)


def _by_id(keys: Any) -> dict[str, Any]:
    """Keys by their ids, so that one that comes or goes is no change of all behind it."""
    return {each["id"]: {k: v for k, v in each.items() if k != "id"} for each in keys or []}


def _folded(found: list[Difference]) -> list[Difference]:
    """A default that changes is told once, with the tenants that change with it."""
    tenants: dict[tuple[str, str, str], list[str]] = {}
    for each in found:
        section, _, rest = each.field.partition(".")
        name, _, field = rest.partition(".")
        if section == "tenants" and field:
            tenants.setdefault((field, repr(each.before), repr(each.after)), []).append(name)
    kept, folded = [], set[str]()
    for each in found:
        section, _, field = each.field.partition(".")
        if section == "defaults":
            also = tenants.get((field, repr(each.before), repr(each.after)), [])
            folded.update(f"tenants.{name}.{field}" for name in also)
            each = replace(each, also=tuple(also))
        kept.append(each)
    return [each for each in kept if each.field not in folded]
