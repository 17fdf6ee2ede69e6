"""From measured regions to passes: models whose true cost is known, and how far off an estimate says it may be."""

from __future__ import annotations

import random

import pytest

from gempim.engines.llama.counters import Counts
from gempim.engines.llama.estimate import Shape, estimate_all, estimate_pass
from gempim.engines.llama.plan import Layout, choose_layers, plan_layers
from gempim.quantity import DataError


def cost(ps: float) -> Counts:
    return Counts(ps, 3 * ps, ps / 8, {"a": 2 * ps, "b": ps + 1})


def measured_of(times: list[float], layers: tuple[int, ...]) -> dict[int, Counts]:
    """Parts of a pass: start 50, the chosen layers, head 700."""
    return {0: cost(50), len(times) + 1: cost(700), **{i + 1: cost(times[i]) for i in layers}}


@pytest.mark.parametrize("seed", range(20))
def test_a_mixed_model_of_known_layer_times_comes_out_exactly(seed: int) -> None:
    """Layers of a kind cost the same but for the first and the last one: those are measured, so nothing is off."""
    rng = random.Random(seed)
    count = rng.randint(1, 40)
    kinds = [rng.randrange(3) for _ in range(count)]
    per_kind = [rng.randint(1000, 9000) for _ in range(3)]
    times: list[float] = [per_kind[k] for k in kinds]
    if seed % 2:
        times[0] += 333
        times[-1] -= 222
    shape = Shape(tuple(kinds), tuple(kinds))
    layers = choose_layers(kinds)
    inner = {kinds[i] for i in layers if 0 < i < count - 1}
    got = estimate_pass(shape, measured_of(times, layers), tokens=1)
    if set(kinds[1:-1]) <= inner:
        assert got.whole.sim_ps == pytest.approx(50 + sum(times) + 700)
        assert got.whole.events["a"] == pytest.approx(2 * got.whole.sim_ps)
        assert got.whole.pim_ps == pytest.approx(got.whole.sim_ps / 8)
    assert got.whole.events["b"] == pytest.approx(got.whole.sim_ps + count + 2), "one more for each region"
    assert (got.measured, got.estimated) == (len(layers) + 2, count - len(layers))
    assert got.whole.sim_ps == pytest.approx(sum(p.sim_ps for p in got.parts.values())), "the parts add up"


def test_the_error_is_the_spread_of_the_measured_layers() -> None:
    kinds = (0,) * 32
    times = [1000.0] * 32
    times[0], times[16], times[31] = 1100, 1000, 900
    got = estimate_pass(Shape(kinds, kinds), measured_of(times, (0, 16, 31)), tokens=1)
    assert got.whole.sim_ps == 50 + 700 + 1100 + 900 + 30 * 1000
    assert got.error == pytest.approx(29 * 100 / got.whole.sim_ps)
    exact = estimate_pass(Shape(kinds, kinds), measured_of(times, tuple(range(32))), tokens=1)
    assert (exact.error, exact.estimated) == (0.0, 0)
    # One layer says nothing of how far apart layers are.
    one = estimate_pass(Shape((0,) * 5, (0,)), measured_of([1000], (0,)), tokens=1)
    assert one.error is None
    # A kind that was measured once is taken to spread like the one that spreads most.
    mixed = (0, 1, 0, 1, 0, 0)
    parts = measured_of([1000, 500, 1000, 500, 1200, 1000], (0, 2, 4, 5, 1))
    got = estimate_pass(Shape(mixed, mixed), parts, tokens=1)
    assert got.error == pytest.approx(500 * (100 / 1050) / got.whole.sim_ps)


def test_the_last_layer_of_a_prefill_stands_for_no_other() -> None:
    """llama.cpp goes on with the last token only after its attention."""
    kinds = (0,) * 4
    parts = measured_of([1000, 1000, 1000, 300], (0, 3))
    assert estimate_pass(Shape(kinds, kinds), parts, tokens=9).whole.sim_ps == 50 + 700 + 3 * 1000 + 300
    assert estimate_pass(Shape(kinds, kinds), parts, tokens=1).whole.sim_ps == 50 + 700 + 1300 + 2 * 650
    # Nor does it count as spread: it is another layer's work.
    parts = measured_of([1000, 1000, 1100, 300], (0, 2, 3))
    got = estimate_pass(Shape(kinds, kinds), parts, tokens=9)
    assert got.error == pytest.approx(1100 * (50 / 1050) / got.whole.sim_ps)
    with pytest.raises(DataError, match="the last layer of a prefill computes less"):
        estimate_pass(Shape(kinds, (0,)), measured_of([1000], (0,)), tokens=9)


def test_a_synthetic_file_stands_for_the_whole_model() -> None:
    shape = Shape((0,) * 32, (0,) * 2, head_scale=32000 / 2048)
    got = estimate_pass(shape, measured_of([1000, 1200], (0, 1)), tokens=1)
    assert got.parts["head"].sim_ps == pytest.approx(700 * 32000 / 2048)
    assert got.parts["layers"].sim_ps == pytest.approx(1000 + 1200 + 30 * 1100)
    assert (got.measured, got.estimated) == (4, 30)
    three = Shape((0,) * 32, (0,) * 3)
    got = estimate_pass(three, measured_of([1000, 1500, 1200], (0, 1, 2)), tokens=1)
    assert got.parts["layers"].sim_ps == 1000 + 30 * 1500 + 1200, "first, last, and the middle one 30 times"


def test_decode_passes_lie_on_the_line_between_measured_ones() -> None:
    kinds = (0,) * 5
    shape, layout = Shape(kinds, kinds), Layout(5)

    def true(p: int) -> float:
        return 1000 + 10 * p

    def measure(passes: tuple[int, ...]) -> dict[int, float]:
        plan = plan_layers(kinds, passes, sample="all", warmup=1)
        cost_of = {n: cost(true(layout.place(n)[0])) for n in plan.measured}
        found = estimate_all(shape, plan, cost_of, prompt=6, tokens=9)
        return {p: e.whole.sim_ps for p, e in found.items()}

    got = measure((0, 1, 8))
    assert list(got) == list(range(9))
    assert got == pytest.approx({p: 7 * true(p) for p in range(9)})
    got = measure((3,))
    assert list(got) == list(range(1, 9)), "no figure of a prefill that was not measured"
    assert set(got.values()) == {7 * true(3)}
    assert list(measure((0,))) == [0], "a prefill says nothing of a decode pass"


def test_parts_that_were_not_measured_are_an_error() -> None:
    shape = Shape((0, 0), (0, 0))
    for part, name in ((0, "start"), (3, "head")):
        parts = measured_of([1, 1], (0, 1))
        del parts[part]
        with pytest.raises(DataError, match=f"the {name} of a pass was not measured"):
            estimate_pass(shape, parts, tokens=1)
    with pytest.raises(DataError, match="no measured layer stands for"):
        estimate_pass(Shape((0, 1), (0, 1)), measured_of([1, 1], (0,)), tokens=1)
