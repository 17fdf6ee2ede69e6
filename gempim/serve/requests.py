"""Requests: when they arrive and how long they are. The same seed gives the same requests on every system.

Lengths are Gaussian around their means (Duplex paper, section VI; its width is not given), rounded, at least one token.
Arrivals are Poisson at a rate, or a closed loop: a fixed number of clients, each sending its next request when the last
one is done (the paper: "a finished request is replaced in the next stage").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PS = 1_000_000_000_000

# Streams of one seed: lengths do not change when the arrivals do, nor the other way round.
_LENGTHS, _ARRIVALS, _PROGRESS = 1, 2, 3
_BLOCK = 1024


@dataclass(frozen=True)
class Request:
    """One request: `prompt` tokens in, `output` tokens out (the first comes from the prefill), and when it arrives."""

    id: int
    prompt: int
    output: int
    arrival_ps: int = 0

    @property
    def tokens(self) -> int:
        """KV cache that it needs in the end [tokens]."""
        return self.prompt + self.output


@dataclass(frozen=True)
class Lengths:
    """Mean lengths [tokens] and their standard deviation as a share of the mean."""

    input_mean: int
    output_mean: int
    deviation: float
    seed: int

    def draw(self) -> Iterator[tuple[int, int]]:
        """Prompt and output lengths of request 0, 1, 2, ... without end."""
        block = 0
        while True:
            rng = np.random.default_rng([self.seed, _LENGTHS, block])
            normal = rng.standard_normal((_BLOCK, 2))
            means = np.array([self.input_mean, self.output_mean])
            rounded = np.maximum(1, np.rint(means * (1 + self.deviation * normal))).astype(np.int64)
            for prompt, output in rounded:
                yield int(prompt), int(output)
            block += 1


def poisson(lengths: Lengths, per_s: float, count: int) -> list[Request]:
    """`count` requests with independent exponential gaps, `per_s` a second on average, in order of arrival."""
    rng = np.random.default_rng([lengths.seed, _ARRIVALS])
    arrivals = np.cumsum(rng.exponential(1 / per_s, size=count))
    return [
        Request(i, prompt, output, round(float(at) * PS))
        for i, (at, (prompt, output)) in enumerate(zip(arrivals, lengths.draw(), strict=False))
    ]


def progress(seed: int, outputs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Tokens that requests of these output lengths have made in the middle of a long run: 1 to output, evenly.

    Used to start a closed loop in its steady state, instead of with all clients in step.
    """
    rng = np.random.default_rng([seed, _PROGRESS])
    made: npt.NDArray[np.int64] = 1 + (rng.random(len(outputs)) * outputs).astype(np.int64)
    return np.minimum(made, outputs)
