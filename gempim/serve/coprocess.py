"""Expert co-processing: which experts of a MoE layer run on the xPU and which on the PIM at the same time.

Two algorithms, both over all layers at once. Experts that lie in one memory space always go together, because a space
serves one processor at a time (Duplex paper, section V-C).

* ``paper`` (section V-B): tables of the time of an expert as a function of its tokens, measured offline on each unit.
  All experts start on the xPU; those with the fewest tokens move to the PIM, one after another; the split with the
  smallest max(sum on the xPU, sum on the PIM) is taken. (The paper says "the best combination"; the max is ours.)
* ``code`` (scale-snu/LLMSimulator at 4192527, src/module/route.cpp): all experts start on the PIM; the one with the
  most tokens moves to the xPU as long as the max falls. More than four experts move in four contiguous groups, fewer
  one by one. Times are the formulas of that file, in units of one expert's weights read by the xPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

CODE_GROUPS = 4
"""Groups of experts in route.cpp, which stand for the four memory spaces of a device."""

CODE_SHARE = 0.75
"""Share of the bandwidth that route.cpp assumes to be reached."""

CODE_SPEEDUP, CODE_OP_B = 4, 8
"""Bandwidth of the PIM over the xPU's, and its operations a byte, in route.cpp."""


def spaces_one_by_one(experts: int, spaces: int) -> list[Ints]:
    """Experts of each memory space when they are allotted one by one (the paper): of 4, space s has s, s + 4, ..."""
    return [np.arange(s, experts, spaces) for s in range(min(spaces, experts))]


def groups_of_code(experts: int) -> list[Ints]:
    """The groups of the public code: each expert for itself up to four, four contiguous groups above."""
    return [np.asarray(part) for part in np.array_split(np.arange(experts), min(CODE_GROUPS, experts))]


def single(experts: int) -> list[Ints]:
    """Every expert for itself: without the rule of one processor a space."""
    return [np.array([e]) for e in range(experts)]


def by_group(values: Ints, groups: list[Ints]) -> Ints:
    """Sums over the experts of each group: [..., experts] to [..., groups]."""
    return np.stack([values[..., g].sum(axis=-1) for g in groups], axis=-1)


def paper_split(tokens: Ints, xpu_ps: Ints, pim_ps: Ints) -> npt.NDArray[np.bool_]:
    """Which groups go to the PIM, by the paper's algorithm.

    :param tokens: tokens of each group, [layers, groups]; `xpu_ps`, `pim_ps`: its time on each unit, same shape
    :return: [layers, groups], true for the PIM; of equal splits the one with fewer groups on the PIM
    """
    order = np.argsort(tokens, axis=-1, kind="stable")
    on_pim = _from_zero(np.cumsum(np.take_along_axis(pim_ps, order, -1), axis=-1))
    moved = _from_zero(np.cumsum(np.take_along_axis(xpu_ps, order, -1), axis=-1))
    longest = np.maximum(moved[..., -1:] - moved, on_pim)
    return _first(order, longest.argmin(axis=-1))


def code_split(tokens: Ints, xpu_flops_per_byte: float) -> npt.NDArray[np.bool_]:
    """Which groups go to the PIM, by the public code's algorithm.

    :param tokens: tokens of each expert of each group, [layers, groups, experts of a group]; padding is -1
    :param xpu_flops_per_byte: the xPU's peak rate over its peak bandwidth
    """
    there = tokens > 0  # an expert without tokens is not read
    # Two operations a two-byte weight: tokens at which the xPU is bound by arithmetic.
    turn = xpu_flops_per_byte / CODE_SHARE
    xpu = np.where(there, np.maximum(1.0, tokens / turn), 0.0).sum(axis=-1)
    pim = np.where(there, np.maximum(1.0, CODE_SHARE * tokens / CODE_OP_B) / CODE_SPEEDUP, 0.0).sum(axis=-1)
    total = np.where(there, tokens, 0).sum(axis=-1)
    order = np.argsort(-total, axis=-1, kind="stable")
    on_xpu = _from_zero(np.cumsum(np.take_along_axis(xpu, order, -1), axis=-1))
    moved = _from_zero(np.cumsum(np.take_along_axis(pim, order, -1), axis=-1))
    longest = np.maximum(on_xpu, moved[..., -1:] - moved)
    falls = longest[..., 1:] < longest[..., :-1]
    count = np.where(falls.all(axis=-1), falls.shape[-1], falls.argmin(axis=-1))
    return ~_first(order, count)


def _from_zero(sums: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros_like(sums[..., :1]), sums], axis=-1)


def _first(order: Ints, count: Ints) -> npt.NDArray[np.bool_]:
    """True for the first `count` groups of each row of `order`."""
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(order.shape[-1]), order.shape), axis=-1)
    return rank < count[..., None]


def together(alone: Ints, beside: Ints, other: Ints, other_beside: Ints) -> tuple[Ints, Ints]:
    """End times of two units that start together and slow each other down while both work.

    :param alone, beside: time of the first unit's work without and with the other at work [ps]
    :param other, other_beside: the same of the second unit
    :return: when each is done [ps]. While both work each goes at its slow rate, then the rest at its own.
    """
    first = np.minimum(beside, other_beside)

    def end(mine: Ints, slow: Ints) -> Ints:
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.where(slow > 0, mine * (1 - first / slow), 0.0)
        return np.rint(np.where(slow > first, first + left, slow)).astype(np.int64)

    return end(alone, beside), end(other, other_beside)
