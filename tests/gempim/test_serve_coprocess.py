"""Expert co-processing: the best that each algorithm may choose, and two units that slow each other down."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gempim.serve.coprocess import (
    by_group,
    code_split,
    groups_of_code,
    paper_split,
    single,
    spaces_one_by_one,
    together,
)

Ints = npt.NDArray[np.int64]
counts = st.lists(st.integers(0, 60), min_size=1, max_size=8)


def _xpu(n: int) -> int:
    """Time of an expert by the paper's facts, in arbitrary units: a weight read is 1000 on the xPU, 250 on the PIM."""
    return 0 if n == 0 else round(1000 * max(1.0, n / 295))


def _pim(n: int) -> int:
    return 0 if n == 0 else round(250 * max(1.0, n / 8))


def _makespan(tokens: list[int], on_pim: tuple[bool, ...]) -> int:
    return max(
        sum(_xpu(n) for n, p in zip(tokens, on_pim, strict=True) if not p),
        sum(_pim(n) for n, p in zip(tokens, on_pim, strict=True) if p),
    )


def _paper(tokens: list[int]) -> npt.NDArray[np.bool_]:
    array = np.array([tokens])
    return paper_split(array, np.array([[_xpu(n) for n in tokens]]), np.array([[_pim(n) for n in tokens]]))[0]


@given(counts)
def test_paper_is_the_best_of_moving_experts_one_after_another(tokens: list[int]) -> None:
    """Walked as the paper words it: all on the xPU, the fewest tokens first, the best combination."""
    order = sorted(range(len(tokens)), key=lambda e: tokens[e])
    best = None
    for moved in range(len(tokens) + 1):
        on_pim = tuple(e in order[:moved] for e in range(len(tokens)))
        value = _makespan(tokens, on_pim)
        if best is None or value < best[0]:
            best = (value, on_pim)
    assert best is not None
    assert tuple(bool(v) for v in _paper(tokens)) == best[1]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=7))
def test_paper_against_every_assignment(tokens: list[int]) -> None:
    """How far the greedy order is from the optimum over all assignments: never better, and here within a half more."""
    every = min(_makespan(tokens, c) for c in itertools.product((False, True), repeat=len(tokens)))
    found = _makespan(tokens, tuple(bool(v) for v in _paper(tokens)))
    assert every <= found <= 1.5 * every


def _code(tokens: list[int], groups: list[Ints], turn: float = 295.0) -> set[int]:
    """The public code's loop, group by group: the groups that stay on the PIM."""

    def xpu(n: int) -> float:
        return max(1.0, n / (turn / 0.75)) if n else 0.0

    def pim(n: int) -> float:
        return max(1.0, 0.75 * n / 8) / 4 if n else 0.0

    left = sorted(range(len(groups)), key=lambda g: -sum(tokens[e] for e in groups[g]))
    high, low = 0.0, sum(pim(tokens[e]) for g in groups for e in g)
    stay = set(range(len(groups)))
    for g in left:
        new_high = high + sum(xpu(tokens[e]) for e in groups[g])
        new_low = low - sum(pim(tokens[e]) for e in groups[g])
        if not max(new_high, new_low) < max(high, low) - 1e-12:
            break
        high, low = new_high, new_low
        stay.discard(g)
    return stay


@given(st.lists(st.integers(0, 200), min_size=1, max_size=16))
def test_code_moves_the_heaviest_until_it_stops_helping(tokens: list[int]) -> None:
    groups = groups_of_code(len(tokens))
    padded = np.full((1, len(groups), max(len(g) for g in groups)), -1, dtype=np.int64)
    for i, g in enumerate(groups):
        padded[0, i, : len(g)] = np.array(tokens)[g]
    found = code_split(padded, 295.0)[0]
    assert {i for i, p in enumerate(found) if p} == _code(tokens, groups)


def test_the_directions_differ() -> None:
    """The paper starts with all on the xPU, the code with all on the PIM: what is equal stays where it started."""
    nobody = np.zeros((1, 4), dtype=np.int64)
    assert not paper_split(nobody, nobody, nobody).any()
    assert code_split(nobody[..., None], 295.0).all()
    # Light experts: the paper moves the lightest to the PIM, the code the heaviest to the xPU; here both end alike.
    tokens = [40, 3, 2, 1]
    assert list(_paper(tokens)) == [False, True, True, True]
    assert _code(tokens, groups_of_code(4)) == {1, 2, 3}


def test_all_layers_at_once_are_each_layer_alone() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, size=(40, 8))
    x, p = np.vectorize(_xpu)(tokens), np.vectorize(_pim)(tokens)
    together_ = paper_split(tokens, x, p)
    for layer in range(40):
        alone = paper_split(tokens[layer : layer + 1], x[layer : layer + 1], p[layer : layer + 1])
        assert (together_[layer] == alone[0]).all()


@pytest.mark.parametrize("experts", [1, 2, 3, 4, 8, 9, 16])
def test_groups_hold_every_expert_once(experts: int) -> None:
    for groups in (spaces_one_by_one(experts, 4), groups_of_code(experts), single(experts)):
        assert sorted(int(e) for g in groups for e in g) == list(range(experts))
    assert [g.tolist() for g in spaces_one_by_one(6, 4)] == [[0, 4], [1, 5], [2], [3]]
    assert [g.tolist() for g in groups_of_code(8)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_sums_by_group() -> None:
    values = np.arange(12).reshape(2, 6)
    assert by_group(values, spaces_one_by_one(6, 4)).tolist() == [[4, 6, 2, 3], [16, 18, 8, 9]]


def _walk(alone: int, slow: int, other: int, other_slow: int) -> tuple[float, float]:
    """Two units in small steps of time: each does its share of work at its slow rate while the other is at work."""
    left = [1.0, 1.0]
    rates = [(1 / alone if alone else 0, 1 / slow if slow else 0), (1 / other if other else 0, 1 / other_slow)]
    ends = [0.0, 0.0]
    for i, work in enumerate((alone, other)):
        if not work:
            left[i] = 0.0
    now, step = 0.0, max(slow, other_slow) / 20_000
    while any(v > 0 for v in left):
        both = all(v > 0 for v in left)
        now += step
        for i in (0, 1):
            if left[i] > 0:
                left[i] -= rates[i][1 if both else 0] * step
                ends[i] = now
    return ends[0], ends[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(1000, 10**6), st.floats(1, 3), st.integers(1000, 10**6), st.floats(1, 3))
def test_two_units_that_slow_each_other(alone: int, a: float, other: int, b: float) -> None:
    slow, other_slow = round(alone * a), round(other * b)
    found = together(*(np.array([v]) for v in (alone, slow, other, other_slow)))
    walked = _walk(alone, slow, other, other_slow)
    for end, expected in zip(found, walked, strict=True):
        assert int(end[0]) == pytest.approx(expected, rel=2e-3, abs=200)


def test_nothing_beside_is_no_slower() -> None:
    found = together(*(np.array([v]) for v in (500, 900, 0, 0)))
    assert (int(found[0][0]), int(found[1][0])) == (500, 0)
