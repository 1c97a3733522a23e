"""How accuracy grows with samples: unbiased estimates and the curves fitted to them."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from benchmarks.compute.table import Floats, Ints

_FALLS = np.linspace(-3.0, -0.01, 300)  # exponents that a fit is looked for among


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted to r curves at once: parameters (r, ...) each and the root mean square residual (r,)."""

    names: tuple[str, ...]
    parameters: tuple[Floats, ...]
    residual: Floats


def coverage(right: Ints, drawn: Ints, depth: int) -> Floats:
    """P(k of the samples hold a right one), k = 1..depth: 1 - C(n-c, k) / C(n, k), (prompts, depth).

    The unbiased pass@k of arXiv 2107.03374; `right` (c) and `drawn` (n) are a number a prompt, n >= depth.
    """
    values = np.empty((len(right), depth))
    for at, (c, n) in enumerate(zip(right.tolist(), drawn.tolist(), strict=True)):
        values[at] = [1.0 - comb(n - c, k) / comb(n, k) for k in range(1, depth + 1)]
    return values


def spread(depth: int) -> Ints:
    """Sizes 1..depth, about equally far apart in logarithms: what fits look at."""
    return np.unique(np.round(np.geomspace(1, depth, 12)).astype(np.int64))


def fit_coverage(k: Ints, curves: Floats) -> Fit:
    """c(k) = exp(a k^b) with a, b < 0 (arXiv 2407.21787), least squares of ln c; curves are (r, k).

    A curve that is 0 anywhere gives NaN: nothing was ever right.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(curves)
    log[~np.isfinite(log).all(axis=1)] = np.nan
    powers = k[None, :] ** _FALLS[:, None]  # (exponents, k)
    a = log @ powers.T / (powers**2).sum(axis=1)  # (r, exponents)
    left = ((log[:, None, :] - a[:, :, None] * powers) ** 2).sum(axis=2)
    best = np.where(np.isnan(left), np.inf, left).argmin(axis=1)
    a_best = np.take_along_axis(a, best[:, None], axis=1)[:, 0]
    b = np.where(np.isnan(a_best), np.nan, _FALLS[best])
    return Fit(("a", "b"), (a_best, b), _residual(coverage_curve(k, a_best, b) - curves))


def coverage_curve(k: Floats | Ints, a: Floats, b: Floats) -> Floats:
    """(r, k) values of the exponentiated power law."""
    return np.asarray(np.exp(a[:, None] * np.asarray(k, float)[None, :] ** b[:, None]))


def fit_majority(k: Ints, curves: Floats) -> Fit:
    """m(k) = m_inf - d k^-e with m_inf in [0, 1], least squares; d < 0 where voting hurts. Curves (r, k)."""
    powers = k[None, :] ** _FALLS[:, None]
    centred = powers - powers.mean(axis=1, keepdims=True)
    middle = curves.mean(axis=1, keepdims=True)
    slope = (curves - middle) @ centred.T / (centred**2).sum(axis=1)  # (r, exponents)
    ceiling = middle - slope * powers.mean(axis=1)
    # where the least squares want a ceiling that is no accuracy, the best line through a legal one
    legal = ceiling.clip(0.0, 1.0)
    through = (curves[:, None, :] - legal[:, :, None]) * powers
    slope = np.where(legal == ceiling, slope, through.sum(axis=2) / (powers**2).sum(axis=1))
    left = ((legal[:, :, None] + slope[:, :, None] * powers - curves[:, None, :]) ** 2).sum(axis=2)
    best = left.argmin(axis=1)[:, None]
    m_inf, d = (np.take_along_axis(x, best, axis=1)[:, 0] for x in (legal, -slope))
    e = -_FALLS[best[:, 0]]
    return Fit(("m_inf", "d", "e"), (m_inf, d, e), _residual(majority_curve(k, m_inf, d, e) - curves))


def majority_curve(k: Floats | Ints, m_inf: Floats, d: Floats, e: Floats) -> Floats:
    """(r, k) values of the saturating power law."""
    powers = np.asarray(k, float)[None, :] ** -e[:, None]
    return np.asarray(m_inf[:, None] - d[:, None] * powers)


def _residual(left: Floats) -> Floats:
    return np.asarray(np.sqrt((left**2).mean(axis=1)))
