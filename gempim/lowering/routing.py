"""Which experts the tokens of one pass go to.

Scores follow a Zipf law over the experts: expert of rank r (1, 2, ...) has weight r^-s, with s = 0 for uniform routing.
A token takes `n_used` different experts, drawn one after another in proportion to the weights that are left
(the Plackett-Luce model, which is what top-k gating does when independent Gumbel noise is on the log-weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gempim.quantity import DataError, suggest

MODES = ("sampled", "balanced")


@dataclass(frozen=True)
class Routing:
    """How tokens choose experts.

    * ``mode = "sampled"``: each token of each layer draws its experts; `seed` makes it repeatable. The default, since
      it is what independent tokens do: with few tokens several share an expert while others have none.
    * ``mode = "balanced"``: every layer gets the expected number of tokens per expert, rounded to whole tokens (largest
      remainder). No randomness, but also no chance collisions: with few tokens more experts are touched than in
      reality, so it is the worst case for weight traffic.

    `exponent` is the Zipf exponent s, 0 to 10.
    """

    mode: str = "sampled"
    exponent: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise DataError(f"routing.mode: unknown {self.mode!r}{suggest(self.mode, MODES)} ({', '.join(MODES)})")
        if not 0 <= self.exponent <= 10:
            raise DataError(f"routing.exponent: {self.exponent!r} is outside 0 (uniform) to 10")
        if self.seed < 0:
            raise DataError(f"routing.seed: {self.seed!r} is negative")

    def weights(self, n_experts: int) -> npt.NDArray[np.float64]:
        """The share of each expert in a single draw, largest first; sums to 1. Shape [n_experts]."""
        return zipf_weights(self.exponent, n_experts)

    def tokens_per_expert(self, tokens: int, n_experts: int, n_used: int, layer: int) -> list[int]:
        """Tokens that each expert of one MoE layer gets in one pass: `n_experts` numbers that sum to tokens * n_used.

        Raises DataError when n_used is not within 1..n_experts or tokens is below 1.
        """
        if not 1 <= n_used <= n_experts:
            raise DataError(f"routing: {n_used} experts per token, expected 1 to {n_experts}")
        if tokens < 1:
            raise DataError(f"routing: {tokens} tokens, expected at least 1")
        if self.mode == "balanced":
            return _whole(tokens * inclusion(self.exponent, n_experts, n_used), tokens * n_used)
        generator = np.random.default_rng([self.seed, layer])
        # Experts arrive at independent exponential times with their weight as rate: the first n_used to arrive are a
        # draw without replacement.
        counts: npt.NDArray[np.int64] = np.zeros(n_experts, dtype=np.int64)
        delays = (1.0 / self.weights(n_experts)).astype(np.float32)
        for first in range(0, tokens, _CHUNK):
            rows = min(_CHUNK, tokens - first)
            arrivals = generator.standard_exponential(size=(rows, n_experts), dtype=np.float32) * delays
            for _ in range(n_used):
                chosen = np.argmin(arrivals, axis=1)
                counts += np.bincount(chosen, minlength=n_experts)
                arrivals[np.arange(rows), chosen] = np.inf
        return [int(count) for count in counts]


# Tokens drawn at a time; bounds the memory of a long prefill to a few MiB.
_CHUNK = 4096

# Step in log time of the integral in `inclusion`; 0.1 gives 1e-13 (tested against the closed form for two of n).
_STEP = 0.1


def zipf_weights(exponent: float, n_experts: int) -> npt.NDArray[np.float64]:
    """r^-exponent for ranks 1 to n_experts, scaled to sum 1. Shape [n_experts]."""
    weights: npt.NDArray[np.float64] = np.arange(1, n_experts + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


@lru_cache(maxsize=64)
def inclusion(exponent: float, n_experts: int, n_used: int) -> npt.NDArray[np.float64]:
    """The probability of each expert to be among the `n_used` of a token. Shape [n_experts], sums to n_used.

    With arrival times as in `Routing.tokens_per_expert`, P(e) is the integral over e's arrival time t of
    P(at most n_used - 1 others have arrived by t). Over x = log t the integrand is smooth and falls off at both ends,
    where the trapezoidal rule converges exponentially.
    """
    weights = zipf_weights(exponent, n_experts)
    if n_used >= n_experts:
        return np.ones(n_experts)
    # Before the first node an arrival has probability 1e-18 at most; after the last, all have arrived but for e^-60.
    x = np.arange(np.log(1e-18), np.log(60 / weights.min()), _STEP)
    hazard = weights[:, None] * np.exp(x)
    waiting = np.exp(-hazard)
    result = np.empty(n_experts)
    for expert in range(n_experts):
        arrived = np.zeros((n_used, x.size))
        arrived[0] = 1.0
        for other in range(n_experts):
            if other != expert:
                # Poisson-binomial recurrence over the number that has arrived, cut off at n_used - 1.
                arrived[1:] = arrived[1:] * waiting[other] + arrived[:-1] * (1 - waiting[other])
                arrived[0] *= waiting[other]
        result[expert] = _STEP * np.sum(hazard[expert] * waiting[expert] * arrived.sum(axis=0))
    return result * (n_used / result.sum())


def _whole(expected: npt.NDArray[np.float64], total: int) -> list[int]:
    """Whole numbers within 1 of `expected` that sum to `total`, its sum (largest remainder, ties to the first)."""
    # The small term keeps 15.999999999 of a rounding error from losing a whole token.
    counts = np.floor(expected + 1e-9).astype(np.int64)
    order = np.argsort(counts - expected, kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return [int(count) for count in counts]


def histogram(counts: Sequence[int]) -> list[tuple[int, int]]:
    """(tokens, number of experts that have so many), for experts with at least one token; most tokens first."""
    found: dict[int, int] = {}
    for count in counts:
        if count:
            found[count] = found.get(count, 0) + 1
    return sorted(found.items(), reverse=True)
