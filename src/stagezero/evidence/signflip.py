"""The sign-flip e-process, for paired differences that are symmetric but far from normal.

Let each difference D_i, given the earlier ones, be symmetric about a point that is at most d. Then

    E_k = Σ_c w_c ∏_i exp(λ_c x_i) / cosh(λ_c x_i),        x_i = D_i − d,  λ_c = c / scale,

is a nonnegative supermartingale with initial value 1: exp(z) / cosh(z) = 1 + tanh(z), and tanh is
odd and increasing, so each tanh(λ_c x_i) has an expectation of at most 0. By Ville's inequality E
ever reaches 1/α with probability at most α, for tails of any weight. The denominator is the mean
of the numerator over all 2^k sign flips, so E_k ≤ 2^k: a threshold of 2,000 needs at least eleven
pairs. The symmetry assumption fails under rare collapse.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]
_BETS = np.geomspace(0.25, 32.0, 15)
"""The values c of the mixture, in units of 1/scale. All weights are equal."""


def log_sign_flip_e_values(differences: Floats, margin: float, scale: Floats) -> Floats:
    """Return the log e-process for H0: centre of symmetry ≤ ``margin``, after every pair.

    Args:
        differences: paired differences, shape (trials, pairs).
        margin: d, registered in advance.
        scale: size of a typical difference, positive, shape (trials,). Any value is valid that is
            fixed before the differences are observed; a poor choice reduces the power only. A
            trial uses the pooled A/A standard deviation. The control builds of its first pairs
            contribute to that value. The resulting dependence is slight, and the guarantee does
            not cover it.

    Returns:
        Shape (trials, pairs).

    Raises:
        ValueError: a scale is not positive.
    """
    if not (scale > 0).all():
        raise ValueError(f"scale: expected positive numbers, got {scale}")
    x = (differences - margin) / scale[:, None]
    z = _BETS[:, None, None] * x[None, :, :]
    # log cosh z, in a form that does not overflow.
    log_cosh = np.abs(z) + np.log1p(np.exp(-2.0 * np.abs(z))) - math.log(2.0)
    return np.asarray(logsumexp((z - log_cosh).cumsum(axis=2), axis=0) - math.log(len(_BETS)))
