"""What is simulated in detail: region numbers, layers, checkpoints; with random models and an independent count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempim.engines.llama.plan import Layout, Restore, choose_layers, choose_passes, plan_layers
from gempim.quantity import DataError


def test_regions_are_numbered_as_the_guest_does() -> None:
    layout = Layout(3)
    labels = ["load"]
    for p in ("prefill", "decode 0", "decode 1"):
        labels += [f"{p} start", *(f"{p} layer {i}" for i in range(3)), f"{p} head"]
    assert [layout.label(i) for i in range(len(labels))] == labels
    assert [layout.region(*layout.place(i)) for i in range(1, len(labels))] == list(range(1, len(labels)))


@pytest.mark.parametrize(
    ("text", "tokens", "passes"),
    [
        ("last", 8, (7,)),
        ("prefill,last", 8, (0, 7)),
        ("last, first ,middle", 8, (1, 4, 7)),
        ("last", 2, (1,)),
        ("first,last", 1, (0,)),
        ("0,3", 4, (0, 3)),
    ],
)
def test_passes_by_name(text: str, tokens: int, passes: tuple[int, ...]) -> None:
    assert choose_passes(text, tokens) == passes


@pytest.mark.parametrize("text", ["", "lst", "4", "-1", "last,"])
def test_passes_that_there_are_not(text: str) -> None:
    with pytest.raises(DataError, match=r"expected prefill, first, middle, last or a number from 0 to 3"):
        choose_passes(text, 4)


def test_a_uniform_model_is_measured_at_its_ends_and_in_the_middle() -> None:
    assert choose_layers([0] * 32) == (0, 16, 31)
    assert choose_layers([0] * 2) == (0, 1)
    assert choose_layers([0]) == (0,)
    # Of a kind that is at none of these places, the layer nearest to the middle.
    assert choose_layers([0, 0, 1, 0, 0, 0, 1, 0, 0]) == (0, 2, 4, 8)


def test_the_plan_of_a_decode_pass() -> None:
    layout = Layout(30)
    plan = plan_layers([0] * 30, [2], sample="layers", warmup=1)
    at = layout.region(2, 0)
    assert plan.restores == (
        # The start is warmed up by the head of the pass before, the first layer by the start.
        Restore(at - 1, (at, at + 1)),
        Restore(at + 15, (at + 16,)),
        Restore(at + 29, (at + 30, at + 31)),
    )


def test_neighbours_share_a_run_and_the_load_warms_nothing_up() -> None:
    plan = plan_layers([0] * 2, [0, 1], sample="layers", warmup=1)
    # One a pass: from one pass to the next, the weights of a small file stay in the LLC.
    assert plan.restores == (Restore(1, (1, 2, 3, 4)), Restore(4, (5, 6, 7, 8)))
    # A group that begins where the other's warm-up would be: the region between is measured, too.
    assert [r.measured for r in plan_layers([0] * 4, [1], sample="layers", warmup=1).restores] == [
        (7, 8, 9, 10, 11, 12)
    ]
    assert len(plan_layers([0] * 4, [1], sample="layers", warmup=0).restores) == 2


@given(
    kinds=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    passes=st.sets(st.integers(0, 6), min_size=1, max_size=4),
    warmup=st.integers(0, 4),
    sample=st.sampled_from(["layers", "all"]),
)
def test_every_plan_measures_what_an_estimate_needs(
    kinds: list[int], passes: set[int], warmup: int, sample: str
) -> None:
    plan = plan_layers(kinds, sorted(passes), sample=sample, warmup=warmup)
    regions = [n for r in plan.restores for n in r.measured]
    assert regions == sorted(set(regions)), "in order, none twice"
    size = len(kinds) + 2
    for p in passes:
        first = 1 + p * size
        assert {first, first + size - 1} <= set(regions), "start and head"
        layers = [n - first - 1 for n in regions if first < n < first + size - 1]
        assert {kinds[i] for i in layers} == set(kinds), "a layer of every kind"
        if sample == "all":
            assert layers == list(range(len(kinds)))
    for r in plan.restores:
        assert list(r.measured) == list(range(r.measured[0], r.last + 1)), "one after the other"
        assert r.first == max(1, r.measured[0] - warmup), "warm-up, but not by the load"
        assert len({(n - 1) // size for n in r.measured}) == 1, "of one pass"
    for a, b in zip(plan.restores, plan.restores[1:], strict=False):
        if (a.last - 1) // size == (b.last - 1) // size:
            assert b.first > a.last + 1, "runs of a pass that touch are one"
