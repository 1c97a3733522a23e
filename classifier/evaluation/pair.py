"""Two arms as RouteLLM (arXiv 2406.18665) has them: APGR and CPT.

PGR(c), the performance gap recovered when a share c of the prompts goes to the large arm, is
(accuracy - small's) / (large's - small's). APGR is its mean over c in [0, 1]: RouteLLM adds up ten
thresholds, here every threshold counts. CPT(x) is the least share c of calls with PGR(c) >= x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """`apgr`, and `cpt50`, `cpt80` as shares of calls in [0, 1]; all None where large is not better.

    A router that knows nothing has apgr 0.5, cpt50 0.5, cpt80 0.8.
    """

    apgr: float | None
    cpt50: float | None
    cpt80: float | None


def recovered(worth: Vector, small: Vector, large: Vector) -> tuple[Vector, Vector] | None:
    """Shares of calls c and PGR(c), ascending in c, sending the prompts of most `worth` (n,) to large first.

    Prompts of equal worth go together, a part of them drawn at random. None where large is not better.
    """
    gap = float(large.sum() - small.sum())
    if gap <= 0.0:
        return None
    order = np.argsort(-worth, kind="stable")
    ranked = worth[order]
    gained = np.cumsum(large[order] - small[order]) / gap
    last = np.append(np.flatnonzero(np.diff(ranked) != 0.0), len(ranked) - 1)
    share = np.concatenate([[0.0], (last + 1) / len(ranked)])
    return share, np.concatenate([[0.0], gained[last]])


def pair(worth: Vector, small: Vector, large: Vector) -> Pair:
    """Of predicted worth and recorded scores (n,) of both arms."""
    curve = recovered(worth, small, large)
    if curve is None:
        return Pair(None, None, None)
    share, pgr = curve
    apgr = float(np.sum((share[1:] - share[:-1]) * (pgr[1:] + pgr[:-1]) / 2.0))
    return Pair(apgr, _calls(share, pgr, 0.5), _calls(share, pgr, 0.8))


def _calls(share: Vector, pgr: Vector, wanted: float) -> float:
    first = int(np.flatnonzero(pgr >= wanted - 1e-12)[0])
    rise = pgr[first] - pgr[first - 1]
    return float(share[first - 1] + (share[first] - share[first - 1]) * (wanted - pgr[first - 1]) / rise)
