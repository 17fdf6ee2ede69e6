"""The gate: does every stage get as many tokens per expert as independent tokens would give it?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gempim.lowering.routing import inclusion
from gempim.quantity import DataError
from gempim.serve.gate import Gate


@pytest.mark.parametrize(("experts", "used"), [(8, 1), (8, 2), (64, 2), (16, 4), (8, 8)])
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_every_token_takes_its_experts(experts: int, used: int, tokens: int) -> None:
    counts = Gate(experts, used, 5, 0.5, 0).draw(tokens)
    assert counts.shape == (5, experts)
    assert (counts.sum(axis=1) == tokens * used).all()
    assert counts.max() <= tokens  # never the same expert twice
    assert counts.min() >= 0


@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize(("experts", "used"), [(8, 2), (8, 1), (6, 3)])
@pytest.mark.parametrize("tokens", [3, 200])  # below and above the number of pairs: two ways to draw
def test_shares_are_those_of_the_routing_model(experts: int, used: int, exponent: float, tokens: int) -> None:
    """Against the closed form of gempim.lowering.routing, which is computed by integration and not by drawing."""
    gate = Gate(experts, used, 16, exponent, 1)
    draws = 60_000 // (16 * tokens) + 1
    total = sum(gate.draw(tokens).sum(axis=0) for _ in range(draws))
    share = total / (draws * 16 * tokens)
    assert share == pytest.approx(inclusion(exponent, experts, used), abs=0.012)


def test_few_and_many_tokens_have_the_same_variance() -> None:
    """Tokens are independent: the variance of an expert's count is that of a binomial, in both ways to draw."""
    for tokens in (20, 100):
        counts = np.concatenate([Gate(8, 2, 64, 0.0, seed).draw(tokens) for seed in range(60)]).ravel()
        assert counts.var() == pytest.approx(tokens * 0.25 * 0.75, rel=0.06)


def test_seeds() -> None:
    one, two = Gate(8, 2, 4, 0.0, 5), Gate(8, 2, 4, 0.0, 5)
    first = [one.draw(9) for _ in range(3)]
    assert all((a == b).all() for a, b in zip(first, [two.draw(9) for _ in range(3)], strict=True))
    assert any((a != b).any() for a, b in itertools.pairwise(first))  # every stage is a new draw


def test_more_experts_than_there_are() -> None:
    with pytest.raises(DataError, match="9 experts per token"):
        Gate(8, 9, 1, 0.0, 0)
