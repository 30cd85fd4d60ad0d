"""The sign-flip e-value: the second choice, for differences that are symmetric but far from normal.

If D is symmetric about a point at most d, then given every |D_i − d| each sign is a fair coin or worse, and

    E_k = Σ_c w_c ∏_i exp(λ_c x_i) / cosh(λ_c x_i),        x_i = D_i − d,  λ_c = c / scale,

is a test supermartingale: tanh is increasing, so a symmetric x with a centre below 0 gains nothing on average. The chance
that it ever reaches 1/α is at most α, whatever the tails. The denominator is the mean of the numerator over all 2^k sign
flips, so E_k ≤ 2^k: eleven pairs at the least for a threshold of 2,000. Symmetry fails under rare collapse.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]
_BETS = np.geomspace(0.25, 32.0, 15)
"""The mixture over bets, in units of 1/scale; equal weights."""


def log_sign_flip_e_values(differences: Floats, margin: float, scale: Floats) -> Floats:
    """log E_k after every pair.

    Args:
        differences: (trials, pairs).
        margin: d, registered beforehand.
        scale: (trials,), positive; the size of a typical difference. Any value is valid as long as it was fixed before the differences
            were seen; a poor one costs power only. A trial uses the pooled A/A standard deviation, which the control builds of its
            first pairs have a part in; that dependence is slight and is not part of the statement.

    Returns:
        (trials, pairs).

    Raises:
        ValueError: a scale is not positive.
    """
    if not (scale > 0).all():
        raise ValueError(f"scale: expected positive numbers, got {scale}")
    x = (differences - margin) / scale[:, None]
    z = _BETS[:, None, None] * x[None, :, :]
    # log cosh z, without overflow.
    log_cosh = np.abs(z) + np.log1p(np.exp(-2.0 * np.abs(z))) - math.log(2.0)
    return np.asarray(logsumexp((z - log_cosh).cumsum(axis=2), axis=0) - math.log(len(_BETS)))
