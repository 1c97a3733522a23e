"""How far predictions are worth believing on prompts unlike those of training, learnt by leaving kinds out.

A prompt of a kind that the fit has seen and one of a kind that it has not are both predicted by fits that
have not seen the prompt. Between the two lies where p should go back to the base rate: the ramps of
`forward.Novelty` and `forward.Head.distrust` that leave the least squared error over both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.model_selection import GroupKFold

from classifier.features import COUNT
from classifier.forward import Novelty, nearest, standardise
from classifier.novelty import rare_shares
from classifier.search import Fold

Matrix = NDArray[np.float64]

# In radii, in radii more, and as a share of what words can show; the most trusting first.
_FROM = (2.5, 2.0, 1.5, 1.25, 1.0, 0.75)
_SPAN = (4.0, 2.0, 1.0, 0.5, 0.25)
_RARE = (1.0, 0.75, 0.5, 0.25)
_LEAST_KINDS = 3
_MOST_FOLDS = 5
# Above this many rows a fit takes seconds and each part holds thousands: three are enough.
_MANY, _FEWER_FOLDS = 10_000, 3


@dataclass(frozen=True, slots=True)
class Held:
    """Held-out rows: how unlike training they are, and what distrust would change.

    `shape` and `rare` (n,) are those of `Novelty.signs`. `pull` and `size` (n,) sum (base - p)(y - p) and
    (base - p)^2 over the arms with a score: moving p by a share t towards the base rate changes the squared
    error of the row by t^2 * size - 2 t * pull.
    """

    shape: Matrix
    rare: Matrix
    pull: Matrix
    size: Matrix

    @classmethod
    def of(cls, novelty: Novelty, x: sparse.csr_matrix, p: Matrix, base: Matrix, scores: Matrix) -> Held:
        """From (n, COUNT + WIDTH) raw features, (n, arms) p and scores (NaN where missing), (arms,) base."""
        shape, rare = novelty.signs(x[:, :COUNT].toarray(), rare_shares(x, novelty.rare))
        known = ~np.isnan(scores)
        away = np.where(known, base - p, 0.0)
        missed = np.where(known, scores - p, 0.0)
        return cls(shape, rare, (away * missed).sum(axis=1), (away * away).sum(axis=1))


def learn_distrust(novelty: Novelty, held: Iterable[Held], *, named: bool) -> tuple[Novelty, float]:
    """`novelty` with the ramps that serve best, and how far p then moves to the base rate, in [0, 1].

    `named`: kinds that were left out are families that somebody told apart. Clusters lie close to each
    other, so what is learnt from them holds near by: there only the ramps are learnt, and beyond them
    nothing is believed.
    """
    parts = list(held)
    shape, rare, pull, size = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("shape", "rare", "pull", "size")
    )
    best, best_loss, best_distrust = novelty, np.inf, 1.0
    for start, span, rare_to in product(_FROM, _SPAN, _RARE):
        candidate = replace(novelty, known=start, unknown=start + span, rare_to=rare_to)
        ood = candidate.ramp(shape, rare)
        gain, cost = float(ood @ pull), float((ood * ood) @ size)
        distrust = float(np.clip(gain / cost, 0.0, 1.0)) if named and cost > 0.0 else 1.0
        loss = distrust * distrust * cost - 2.0 * distrust * gain
        if loss < best_loss - 1e-9:
            best, best_loss, best_distrust = candidate, loss, distrust
    return best, best_distrust


def kinds_of(x: sparse.csr_matrix, novelty: Novelty, families: NDArray[np.intp] | None) -> NDArray[np.intp]:
    """(n,) kinds: the families if there are three or more, else the nearest prototypes."""
    if families is not None and len(np.unique(families)) >= _LEAST_KINDS:
        return families
    at, _ = nearest(standardise(x[:, :COUNT].toarray(), novelty.mean, novelty.inverse), novelty.prototypes)
    return at


def kind_folds(kinds: NDArray[np.intp], groups: NDArray[np.intp], random_state: int) -> list[Fold]:
    """(fitted on, left out) rows, kinds kept together; empty below three kinds.

    Copies of a left-out prompt (`groups`) are not fitted on, whatever their kind.
    """
    distinct = len(np.unique(kinds))
    if distinct < _LEAST_KINDS:
        return []
    most = _MOST_FOLDS if len(kinds) <= _MANY else _FEWER_FOLDS
    splitter = GroupKFold(min(distinct, most), shuffle=True, random_state=random_state)
    folds: Sequence[Fold] = list(splitter.split(kinds, groups=kinds))
    return [(kept[~np.isin(groups[kept], groups[out])], out) for kept, out in folds]
