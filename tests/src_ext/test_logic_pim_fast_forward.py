"""Leaving out repeating columns against command by command: the same times and the same counts, to the last one.

With a trace every command is sent; without one, columns that repeat while the xPU has nothing to do are left out.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logic_pim_util import hbm, pim, read

from gempim import _engine
from gempim.bench.hbm3_checker import random_system, random_work


def both(
    v: dict[str, Any], d: dict[str, Any], jobs: list[Any], requests: list[Any]
) -> list[tuple[int, int, dict[str, int]]]:
    """(pim_ps, xpu_ps, counts) command by command and with repeating columns left out."""
    results = [_engine.logic_pim_channel(v, d, jobs, requests, limit) for limit in (1, 0)]
    return [tuple(r[:3]) for r in results]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), alone=st.booleans())
def test_exact_on_random_work(seed: int, alone: bool) -> None:
    """Random systems, jobs of all kinds with sweeps, modules and vector units, with and without the xPU beside them."""
    rng = np.random.default_rng(seed)
    v, d = random_system(rng)
    v["rows_ahead"] = int(rng.integers(0, 4))
    jobs, requests = random_work(rng, v, d, 3000)
    slow, fast = both(v, d, jobs, [] if alone else requests[: int(rng.integers(0, 1500))])
    assert slow == fast


@pytest.mark.parametrize("spaces", [[0], [0, 1], [0, 2], [1, 2, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("quanta", [1, 3, 10, 65])
def test_exact_on_long_streams(spaces: list[int], quanta: int) -> None:
    """Many refreshes, one or several sweeps of a row, path-bound and module-bound."""
    for refresh in ("all_bank", "per_bank"):
        job = read(4000, spaces, sweeps=-(-quanta // 3), quanta=quanta)
        slow, fast = both(pim(), hbm(refresh=refresh), [job, read(50, [3])], [])
        assert slow == fast


def test_leaves_out_most_of_the_work() -> None:
    """A long stream of a busy module takes a fraction of the host time (ten times less on an idle machine)."""
    job = read(20_000, [0, 1], sweeps=8, quanta=24)
    seconds = []
    for limit in (1, 0):
        began = time.process_time()
        _engine.logic_pim_channel(pim(), hbm(), [job], [], limit)
        seconds.append(time.process_time() - began)
    assert seconds[1] < 0.5 * seconds[0]
