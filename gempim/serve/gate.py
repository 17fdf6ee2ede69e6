"""The gate of MoE layers: how many tokens each expert gets in one stage, for all MoE layers at once.

Tokens choose their experts as in `gempim.lowering.routing` (Zipf weights, without replacement); the Duplex paper's
experts are uniform. Unlike there, every stage is a new draw.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from gempim.lowering.routing import zipf_weights
from gempim.quantity import DataError

_GATE = 4
_CHUNK = 4096


class Gate:
    """Draws tokens per expert. One generator for the whole run, so that the sequence of stages decides the draws."""

    def __init__(self, experts: int, used: int, layers: int, exponent: float, seed: int) -> None:
        if not 1 <= used <= experts:
            raise DataError(f"routing: {used} experts per token, expected 1 to {experts}")
        self.experts, self.used, self.layers = experts, used, layers
        self._weights = zipf_weights(exponent, experts)
        self._rng = np.random.default_rng([seed, _GATE])
        self._sets: npt.NDArray[np.int64] | None = None
        self._chances: npt.NDArray[np.float64] | None = None
        if used <= 2:
            self._sets, self._chances = _subsets(self._weights, used)
        # The last one is left out: rounding must not put a number beyond it.
        self._ends = np.cumsum(self._chances)[:-1] if self._chances is not None else None

    def draw(self, tokens: int) -> npt.NDArray[np.int64]:
        """Tokens of each expert in each MoE layer: shape [layers, experts], each row sums to tokens * used."""
        if self._sets is None or self._chances is None or self._ends is None:
            return self._race(tokens)
        row = self.experts * np.arange(self.layers)[:, None]
        if tokens > len(self._chances):
            chosen = self._rng.multinomial(tokens, self._chances, size=self.layers)
            counts = np.zeros(self.layers * self.experts, dtype=np.int64)
            for members in self._sets.T:
                np.add.at(counts, (row + members).ravel(), chosen.ravel())
        else:
            # Few tokens: one uniform number each is cheaper than a binomial for every pair of experts.
            at = np.searchsorted(self._ends, self._rng.random((self.layers, tokens)), side="right")
            flat = row[..., None] + self._sets[at]
            counts = np.bincount(flat.ravel(), minlength=self.layers * self.experts)
        return counts.reshape(self.layers, self.experts)

    def _race(self, tokens: int) -> npt.NDArray[np.int64]:
        counts = np.zeros((self.layers, self.experts), dtype=np.int64)
        for layer in range(self.layers):
            for first in range(0, tokens, _CHUNK):
                rows = min(_CHUNK, tokens - first)
                # Experts arrive at exponential times with their weight as rate: the first `used` are a draw.
                arrivals = self._rng.standard_exponential((rows, self.experts)) / self._weights
                chosen = np.argpartition(arrivals, self.used - 1, axis=1)[:, : self.used]
                counts[layer] += np.bincount(chosen.ravel(), minlength=self.experts)
        return counts


def _subsets(weights: npt.NDArray[np.float64], used: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Every set of one or two experts, [sets, used], and its chance."""
    experts = len(weights)
    if used == 1:
        return np.arange(experts)[:, None], weights
    pairs = np.array(list(itertools.combinations(range(experts), 2)), dtype=np.int64)
    a, b = weights[pairs[:, 0]], weights[pairs[:, 1]]
    # First a, then b out of what is left; or the other way round.
    chances = a * b * (1 / (1 - a) + 1 / (1 - b))
    return pairs, chances / chances.sum()
