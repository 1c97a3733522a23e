"""The arm classifier: a scikit-learn estimator of p(success | prompt, arm) for all arms at once."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.model_selection import GroupKFold
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from classifier.calibration import Method, choose_calibrator
from classifier.design import Design
from classifier.distrust import Held, kind_folds, kinds_of, learn_distrust
from classifier.encoded import apart
from classifier.errors import OneClassOnly, TooFewItems
from classifier.features import COUNT, WIDTH
from classifier.forward import Head, Weights
from classifier.ladders import contradicted, ladders_from_names
from classifier.logistic import Linear, Rotated, fit_arms
from classifier.meaning_fit import fit_meaning
from classifier.novelty import fit_novelty, rare_shares
from classifier.search import Fold, Grid, log_loss, search
from classifier.stacking import fit_stack
from classifier.tokens import fit_tokens
from classifier.wording import fit_words, inverse_frequencies, words_logits

Matrix = NDArray[np.float64]

_MANY = 5_000


class ArmClassifier(BaseEstimator):  # type: ignore[misc]
    """Calibrated p(success) of every arm, from raw features `X` (n, COUNT + WIDTH) of `feature_matrix`.

    Vectors of a sentence encoder may stand beside them (`meaning.Encoded`): a third opinion.

    Parameters: `arms` names the columns of y (default "0", "1", ...). `groups` are ladders of arm names
    that must not lose by drawing more samples: "names" reads them off the names, None has none.
    `rank` bounds the directions kept of the hashed words. `cs`, `pulls`, `lexical_scales` are the grids
    of the grouped cross-validation over `folds`; `word_cs` is that of the words' own opinion (of many
    prompts only its last is tried). `calibration` is a method or "auto". `prior_rows` is how
    many rows the base rate is worth against an arm's own fit. `distrust` in [0, 1] is how far p goes back to
    the base rate on prompts unlike any other; "learn" leaves kinds of prompts out to see how far, and from
    where on. `one_class` says what an arm that is always right or wrong does: "raise" OneClassOnly, or fall
    back on its smoothed base "rate".

    Fitted: `arms_`, `strength_`, `design_`, `linear_`, `words_`, `words_c_`, `stack_`, `meaning_`, `head_`,
    `token_linear_`, `token_head_`, `novelty_`, `typical_tokens_`, `cv_loss_` (out-of-fold log loss a
    candidate tried).
    """

    def __init__(
        self,
        arms: Sequence[str] | None = None,
        groups: Sequence[Sequence[str]] | Literal["names"] | None = "names",
        rank: int = 64,
        cs: Sequence[float] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
        pulls: Sequence[float] = (10.0, 1.0, 0.1),
        lexical_scales: Sequence[float] = (1.0, 0.3, 3.0),
        word_cs: Sequence[float] = (0.1, 0.3),
        folds: int = 4,
        calibration: Method | Literal["auto"] = "auto",
        prior_rows: float = 5.0,
        distrust: float | Literal["learn"] = "learn",
        one_class: Literal["raise", "rate"] = "raise",
        random_state: int = 0,
    ) -> None:
        self.arms = arms
        self.groups = groups
        self.rank = rank
        self.cs = cs
        self.pulls = pulls
        self.lexical_scales = lexical_scales
        self.word_cs = word_cs
        self.folds = folds
        self.calibration = calibration
        self.prior_rows = prior_rows
        self.distrust = distrust
        self.one_class = one_class
        self.random_state = random_state

    def fit(
        self,
        X: sparse.csr_matrix,
        y: Matrix,
        tokens: Matrix | None = None,
        item_groups: NDArray[np.intp] | None = None,
        families: Sequence[str] | None = None,
    ) -> ArmClassifier:
        """Fit scores y (n, arms) in [0, 1] and completion tokens (n, arms); NaN where missing.

        `item_groups` (n,) keeps rows of one group in one fold. `families` (n,) name kinds of prompts; with
        fewer than three, clusters stand in for them. Raises ValueError for wrong shapes or values,
        TooFewItems below two groups, OneClassOnly as `one_class` says.
        """
        x = _checked(X)
        scores = np.asarray(y, dtype=np.float64)
        self._check_scores(x, scores)
        names = tuple(self.arms) if self.arms is not None else tuple(map(str, range(scores.shape[1])))
        if len(names) != scores.shape[1]:
            raise ValueError(f"{len(names)} arm names for {scores.shape[1]} columns of scores")
        self.arms_ = names
        if self.one_class == "raise":
            _refuse_one_class(names, scores)
        counts = np.full(scores.shape, 1.0) if tokens is None else np.asarray(tokens, dtype=np.float64)
        groups = np.arange(len(scores)) if item_groups is None else np.asarray(item_groups)
        # One thread: these products are too thin to share, and the result is the same on any machine.
        with threadpool_limits(limits=1):
            kinds = None if families is None else _numbered(families)
            self._fit(x, scores, counts, groups, kinds, apart(X)[1])
        return self

    def predict_proba(self, X: sparse.csr_matrix) -> Matrix:
        """(n, arms) calibrated p(success)."""
        check_is_fitted(self)
        x = _checked(X)
        logits = self._logits(x)
        if self.meaning_ is not None:
            logits = self.meaning_.blend(logits, apart(X)[1])
        return self.head_.probabilities(logits, self.novelty(x))

    def predict_tokens(self, X: sparse.csr_matrix) -> tuple[Matrix, Matrix]:
        """(n, arms) expected completion tokens, and their 95 % quantile."""
        check_is_fitted(self)
        z = self.design_.transform(_checked(X), self.strength_.lexical)
        return self.token_head_.tokens(self.token_linear_.logits(z))

    def novelty(self, X: sparse.csr_matrix) -> Matrix:
        """(n,) out-of-distribution scores in [0, 1]."""
        check_is_fitted(self)
        x = _checked(X)
        return self.novelty_.score(x[:, :COUNT].toarray(), rare_shares(x, self.novelty_.rare))

    def doubting_as(self, other: ArmClassifier) -> ArmClassifier:
        """The same fit, which calls prompts unlike its own from where `other` does."""
        check_is_fitted(self)
        found, ramps = copy(self), other.novelty_
        found.novelty_ = replace(
            self.novelty_, known=ramps.known, unknown=ramps.unknown, rare_to=ramps.rare_to
        )
        return found

    def export(self) -> Weights:
        """The fitted classifier as plain arrays on raw features, for `Predictor`."""
        check_is_fitted(self)
        maps = [
            self.design_.unfold(linear.weights, linear.intercept, self.strength_.lexical)
            for linear in (self.linear_, self.token_linear_)
        ]
        stack, words = self.stack_, self.words_
        structural, lexical, intercept = maps[0]
        # both opinions are linear in the same features, so their blend is one linear map
        maps[0] = (
            stack.blend(structural, np.zeros_like(structural)),
            stack.blend(lexical, words.weights),
            stack.blend(intercept[None], words.intercept[None])[0] + stack.offset,
        )
        meaning = None
        if self.meaning_ is not None:
            maps[0], meaning = self.meaning_.export(*maps[0])
        return Weights(
            mean=self.design_.mean,
            inverse=self.design_.inverse,
            structural=np.hstack([structural for structural, _, _ in maps]),
            lexical=np.hstack([lexical for _, lexical, _ in maps]).astype(np.float32),
            intercept=np.concatenate([intercept for _, _, intercept in maps]),
            typical_tokens=self.typical_tokens_,
            head=self.head_,
            token_head=self.token_head_,
            novelty=self.novelty_,
            meaning=meaning,
        )

    def _fit(
        self,
        x: sparse.csr_matrix,
        scores: Matrix,
        tokens: Matrix,
        groups: NDArray[np.intp],
        families: NDArray[np.intp] | None,
        vectors: Matrix | None,
    ) -> None:
        folds = self._split(groups)
        self.design_ = Design.fit(x, self.rank, self.random_state)
        grid = Grid(self.cs, self.pulls, self.lexical_scales)
        self.strength_, out_of_fold, self.cv_loss_ = search(self.design_, x, scores, folds, grid)
        z = self.design_.transform(x, self.strength_.lexical)
        self.linear_ = fit_arms(Rotated.of(z), scores, self.strength_.c, self.strength_.pull)
        self.words_, self.words_c_, by_words = self._fit_words(x, scores, folds)
        self.stack_ = fit_stack(out_of_fold, by_words, scores)
        out_of_fold = self.stack_.blend(out_of_fold, by_words) + self.stack_.offset
        self.meaning_ = None
        if vectors is not None:
            self.meaning_, out_of_fold = fit_meaning(out_of_fold, vectors, scores, folds)
        self.head_ = self._fit_head(out_of_fold, scores, folds)
        self.token_linear_, self.token_head_ = fit_tokens(z, tokens, folds)
        self.typical_tokens_ = np.nan_to_num(_column_means(tokens))
        self.novelty_ = fit_novelty(x, self.random_state)
        if self.distrust == "learn":
            kinds = kinds_of(x, self.novelty_, families)
            held = self._held(x, z, scores, out_of_fold, folds, kind_folds(kinds, groups, self.random_state))
            if held:
                self.novelty_, distrust = learn_distrust(self.novelty_, held, named=kinds is families)
                self.head_ = replace(self.head_, distrust=distrust)

    def _held(
        self,
        x: sparse.csr_matrix,
        z: Matrix,
        scores: Matrix,
        out_of_fold: Matrix,
        folds: list[Fold],
        kind_parts: list[Fold],
    ) -> list[Held]:
        """What fits without them make of prompts of known kinds (the folds) and of kinds left out.

        The latter without an encoder's opinion, which has seen all kinds.
        """
        if not kind_parts:
            return []
        calm = replace(self.head_, distrust=0.0)
        weight = inverse_frequencies(x)

        def told(kept: NDArray[np.intp], out: NDArray[np.intp], logits: Matrix) -> Held:
            p = calm.probabilities(logits, np.zeros(out.size))
            novelty = fit_novelty(x[kept], self.random_state)
            return Held.of(novelty, x[out], p, _rates(scores[kept], calm.base), scores[out])

        held = [told(kept, out, out_of_fold[out]) for kept, out in folds]
        for kept, out in kind_parts:
            linear = fit_arms(Rotated.of(z[kept]), scores[kept], self.strength_.c, self.strength_.pull, 1e-6)
            words = fit_words(x[kept], scores[kept], weight, self.words_c_)
            logits = self.stack_.blend(linear.logits(z[out]), words_logits(x[out], words))
            held.append(told(kept, out, logits + self.stack_.offset))
        return held

    def _fit_words(
        self, x: sparse.csr_matrix, scores: Matrix, folds: list[Fold]
    ) -> tuple[Linear, float, Matrix]:
        """The opinion of the words, its C, and its out-of-fold logits (n, arms)."""
        weight = inverse_frequencies(x)
        best, best_loss, best_logits = 0.0, np.inf, np.empty(scores.shape)
        for c in self.word_cs if x.shape[0] <= _MANY else self.word_cs[-1:]:
            logits = np.empty(scores.shape)
            for kept, out in folds:
                logits[out] = words_logits(x[out], fit_words(x[kept], scores[kept], weight, c))
            if (loss := log_loss(logits, scores)) < best_loss:
                best, best_loss, best_logits = c, loss, logits
        return fit_words(x, scores, weight, best), best, best_logits

    def _logits(self, x: sparse.csr_matrix) -> Matrix:
        z = self.design_.transform(x, self.strength_.lexical)
        by_words = words_logits(x, self.words_)
        return self.stack_.blend(self.linear_.logits(z), by_words) + self.stack_.offset

    def _fit_head(self, logits: Matrix, scores: Matrix, folds: list[Fold]) -> Head:
        known = ~np.isnan(scores)
        rows = known.sum(axis=0)
        overall = float(np.nanmean(scores))
        fold_of = np.zeros(len(scores), dtype=np.intp)
        for number, (_, out) in enumerate(folds):
            fold_of[out] = number
        calibrators = tuple(
            choose_calibrator(
                logits[known[:, arm], arm],
                scores[known[:, arm], arm],
                fold_of[known[:, arm]],
                self.calibration,
            )
            for arm in range(scores.shape[1])
        )
        # two pseudo-rows at the rate of all arms keep an empty arm's base rate inside (0, 1)
        base = (np.nansum(scores, axis=0) + 2.0 * overall) / (rows + 2.0)
        floor = 1.0 / (rows + 2.0)
        return Head(
            calibrators=calibrators,
            base=np.clip(base, np.minimum(floor, 0.25), 1.0 - np.minimum(floor, 0.25)),
            trust=rows / (rows + self.prior_rows),
            floor=np.minimum(floor, 0.25),
            distrust=1.0 if self.distrust == "learn" else float(self.distrust),
            ladders=self._ladders(scores),
        )

    def _ladders(self, scores: Matrix) -> tuple[tuple[int, ...], ...]:
        """Ladders as column indices; those read off names yield where the scores say otherwise."""
        if self.groups is None:
            return ()
        if self.groups == "names":
            return tuple(g for g in ladders_from_names(self.arms_) if not contradicted(g, scores))
        unknown = {name for group in self.groups for name in group} - set(self.arms_)
        if unknown:
            raise ValueError(f"groups name arms that the table lacks: {', '.join(sorted(unknown))}")
        return tuple(tuple(self.arms_.index(name) for name in group) for group in self.groups)

    def _split(self, groups: NDArray[np.intp]) -> list[Fold]:
        distinct = len(np.unique(groups))
        if distinct < 2:
            raise TooFewItems("cross-validation needs at least two different prompts; record more")
        splitter = GroupKFold(min(self.folds, distinct), shuffle=True, random_state=self.random_state)
        return list(splitter.split(groups, groups=groups))

    @staticmethod
    def _check_scores(x: sparse.csr_matrix, scores: Matrix) -> None:
        if scores.ndim != 2 or len(scores) != x.shape[0] or not scores.shape[1]:
            raise ValueError(f"scores must be (n, arms) with n = {x.shape[0]}, got shape {scores.shape}")
        known = scores[~np.isnan(scores)]
        if not known.size or known.min() < 0.0 or known.max() > 1.0:
            raise ValueError("scores must lie in [0, 1], with NaN only where an arm was not recorded")


def _checked(x: sparse.csr_matrix) -> sparse.csr_matrix:
    """The raw features, without the vectors beside them."""
    if x.ndim != 2 or x.shape[1] < COUNT + WIDTH:
        raise ValueError(f"X must be (n, {COUNT + WIDTH}) from feature_matrix, got shape {x.shape}")
    return apart(sparse.csr_matrix(x))[0]


def _refuse_one_class(names: Sequence[str], scores: Matrix) -> None:
    for name, column in zip(names, scores.T, strict=True):
        known = column[~np.isnan(column)]
        if not known.size or known.max() == 0.0 or known.min() == 1.0:
            raise OneClassOnly(f"arm {name!r} has one class only: record prompts where it succeeds and fails")


def _rates(scores: Matrix, base: Matrix) -> Matrix:
    """(arms,) mean scores, two pseudo-rows at `base` among them."""
    rows = (~np.isnan(scores)).sum(axis=0)
    return np.asarray((np.nansum(scores, axis=0) + 2.0 * base) / (rows + 2.0))


def _numbered(names: Sequence[str]) -> NDArray[np.intp]:
    return np.asarray(np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)[1], dtype=np.intp)


def _column_means(values: Matrix) -> Matrix:
    known = ~np.isnan(values)
    return np.asarray(np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
