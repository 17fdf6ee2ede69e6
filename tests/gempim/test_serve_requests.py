"""Requests of serving: are lengths and arrivals what they say, and the same for the same seed?"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gempim.serve.requests import Lengths, poisson, progress

PS = 10**12


def _lengths(seed: int = 0, deviation: float = 0.1) -> Lengths:
    return Lengths(1024, 256, deviation, seed)


def test_lengths_are_gaussian_around_their_means() -> None:
    drawn = np.array(list(itertools.islice(_lengths().draw(), 20_000)))
    for column, mean in ((0, 1024), (1, 256)):
        values = drawn[:, column]
        # Four standard errors.
        assert abs(values.mean() - mean) < 4 * 0.1 * mean / math.sqrt(len(values))
        assert values.std() == pytest.approx(0.1 * mean, rel=0.03)
        within = np.mean(np.abs(values - mean) < 0.1 * mean)
        assert within == pytest.approx(0.6827, abs=0.02)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03


def test_a_length_is_at_least_one_and_exact_without_deviation() -> None:
    wild = list(itertools.islice(_lengths(deviation=1.0).draw(), 5000))
    assert min(min(pair) for pair in wild) == 1
    assert set(itertools.islice(_lengths(deviation=0.0).draw(), 100)) == {(1024, 256)}


@pytest.mark.parametrize("rate", [0.5, 9.0, 400.0])
def test_arrivals_are_poisson(rate: float) -> None:
    """Mean and variance of gaps, and of counts in windows: those of a Poisson process."""
    requests = poisson(_lengths(), rate, 20_000)
    at = np.array([r.arrival_ps for r in requests]) / PS
    assert [r.id for r in requests] == list(range(20_000))
    gaps = np.diff(at)
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1 / rate, rel=0.04)
    assert gaps.std() == pytest.approx(1 / rate, rel=0.04)
    counts = np.bincount((at * rate / 5).astype(int))[:-1]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.15)


def test_seeds() -> None:
    """The same seed repeats; lengths do not depend on the rate, so that a sweep serves the same requests faster."""
    slow, fast = poisson(_lengths(7), 1.0, 50), poisson(_lengths(7), 10.0, 50)
    assert poisson(_lengths(7), 1.0, 50) == slow
    assert [(r.prompt, r.output) for r in slow] == [(r.prompt, r.output) for r in fast]
    ratio = np.array([r.arrival_ps for r in slow]) / np.array([r.arrival_ps for r in fast])
    assert ratio == pytest.approx(10.0)
    assert poisson(_lengths(8), 1.0, 50) != slow


def test_progress_is_spread_over_the_answer() -> None:
    outputs = np.full(20_000, 200)
    made = progress(3, outputs)
    assert made.min() == 1
    assert made.max() == 200
    assert made.mean() == pytest.approx(100.5, rel=0.02)
    assert (progress(3, outputs) == made).all()
    assert (progress(4, outputs) != made).any()
