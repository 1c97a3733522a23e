"""Which prompts are averaged together: those with equally many samples, or of one family or difficulty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.compute.table import Ints, Recording

SIZES = (1, 2, 4, 8, 16, 32, 40)  # votes are counted at these
FEWEST_PROMPTS = 20  # of a group whose averages are reported; a family may have fewer


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts (row numbers of the table) of which each has `depth` samples at least."""

    name: str
    prompts: Ints
    depth: int


def depth_groups(recording: Recording) -> list[Group]:
    """All prompts at the depth that 95 % of them have, and the deepest of them; [] without samples."""
    count = recording.pools.count
    voting = count[count > 0]
    if not voting.size:
        return []
    wide = max((k for k in SIZES if (voting >= k).mean() >= 0.95), default=1)
    deep = max((k for k in SIZES if (voting >= k).sum() >= FEWEST_PROMPTS), default=wide)
    return [_of_depth(recording, depth) for depth in dict.fromkeys((wide, max(wide, deep)))]


def searched_group(recording: Recording) -> Group | None:
    """The prompts that every search arm was recorded on, if these are not all."""
    columns = [recording.table.arms.index(arm) for arm in recording.searches]
    if not columns:
        return None
    scores = recording.table.scores[:, columns]
    prompts = np.flatnonzero(~np.isnan(scores).any(axis=1) & (recording.pools.count > 0))
    if prompts.size < FEWEST_PROMPTS or prompts.size == (recording.pools.count > 0).sum():
        return None
    depth = _shared_depth(recording, prompts)
    return Group(f"prompts with tree search, {depth} samples", prompts, depth)


def family_groups(recording: Recording) -> list[Group]:
    """The prompts of each family at each difficulty, at the depth that all with samples have."""
    kinds = np.array(recording.kinds)
    groups = []
    for family in sorted(set(recording.kinds)):
        prompts = np.flatnonzero((kinds == family) & (recording.pools.count > 0))
        if prompts.size:
            groups.append(Group(family, prompts, _shared_depth(recording, prompts)))
    return groups


def by_difficulty(recording: Recording, group: Group) -> list[Group]:
    """The group, and its parts by difficulty where the table tells it."""
    named = np.array([recording.kinds[int(i)].rpartition("/")[::2] for i in group.prompts])
    difficulty = np.where(named[:, 0] == "", "", named[:, 1])
    parts = [
        Group(str(name), group.prompts[difficulty == name], group.depth) for name in np.unique(difficulty)
    ]
    parts = [part for part in parts if part.name and part.prompts.size >= FEWEST_PROMPTS]
    return [Group("all", group.prompts, group.depth), *(parts if len(parts) > 1 else ())]


def _of_depth(recording: Recording, depth: int) -> Group:
    prompts = np.flatnonzero(recording.pools.count >= depth)
    return Group(f"{prompts.size} prompts, {depth} samples each", prompts, depth)


def _shared_depth(recording: Recording, prompts: Ints) -> int:
    return max(k for k in SIZES if k <= recording.pools.count[prompts].min())
