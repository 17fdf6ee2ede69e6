"""PIM in the memory of a device, as stages see it: tables of expert times, and decode attention.

The device model times one operator in the memory of ONE device and counts its events. This module asks it for what the
stages of a serving run need, and keeps the answers: an expert with the same tokens takes the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class PimCost(Protocol):
    """What the device model says of one operator: when the PIM is done, when the xPU's traffic beside it is, events."""

    @property
    def pim_ps(self) -> int: ...  # noqa: D102
    @property
    def xpu_ps(self) -> int: ...  # noqa: D102
    @property
    def counts(self) -> Mapping[str, int]: ...  # noqa: D102


class PimDevice(Protocol):
    """A model of the PIM in one device's memory; `gempim.engines.logic_pim.LogicPim` is one, and says more."""

    @property
    def spaces(self) -> tuple[int, ...]:
        """All memory spaces: what the xPU and the PIM can work in at the same time, if not in the same one."""

    @property
    def stacks(self) -> int:
        """Memory stacks of the device, each of which makes partial sums."""

    def expert(
        self,
        d_model: int,
        d_ff: int,
        tokens: int,
        *,
        gated: bool = True,
        spaces: Sequence[int] = (0,),
        beside_bytes: int = 0,
        beside_spaces: Sequence[int] = (),
    ) -> PimCost:
        """One expert's slice of `d_ff`, whose weights lie in `spaces`.

        The xPU reads `beside_bytes` from `beside_spaces` at the same time.
        """

    def attention(
        self,
        heads: int,
        group: int,
        head_dim: int,
        lengths: Sequence[int],
        *,
        spaces: Sequence[int] = (),
        beside_bytes: int = 0,
        beside_spaces: Sequence[int] = (),
    ) -> PimCost:
        """One query token of each sequence against its cached `lengths` tokens: `heads` KV heads of `group` queries."""

    def xpu_stream(self, read_bytes: int, *, spaces: Sequence[int] = ()) -> PimCost:
        """What the xPU's traffic takes without the PIM."""


@dataclass(frozen=True)
class PimWork:
    """Work of the PIM of one device: its time [ps], and events by statistic.

    `stretch` is the xPU's time for its traffic beside it, over the time that this traffic would take alone.
    """

    ps: int
    stretch: float
    counts: Mapping[str, int]


BESIDE_BYTES = 32 << 20
"""Most bytes of the xPU's traffic that are simulated beside one expert: about 11 us, three refresh intervals."""


@dataclass
class ExpertTable:
    """One expert's slice by its number of tokens (the index): time [ps], what it does to the xPU, and event counts.

    `stretch` is the xPU's time for its traffic over the time that it would take alone. `beyond` is what a token more
    adds to time and counts where the table goes on as a straight line.
    """

    known: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1, dtype=bool))
    ps: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    stretch: npt.NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    counts: Ints = field(default_factory=lambda: np.zeros((1, 0), dtype=np.int64))
    names: list[str] = field(default_factory=list)
    beyond: tuple[float, npt.NDArray[np.float64]] | None = None

    def __post_init__(self) -> None:
        self.known[0] = True  # an expert without tokens is not read

    def missing(self, tokens: Ints) -> Ints:
        """Numbers of tokens that are not in the table yet; makes room for them."""
        most = int(tokens.max(initial=0)) + 1
        more = most - len(self.ps)
        if more > 0:
            more = max(more, len(self.ps))
            self.known = np.pad(self.known, (0, more))
            self.ps = np.pad(self.ps, (0, more))
            self.stretch = np.pad(self.stretch, (0, more), constant_values=1.0)
            self.counts = np.pad(self.counts, ((0, more), (0, 0)))
        there = self.known[tokens]
        return tokens[:0].ravel() if there.all() else np.unique(tokens[~there])

    def put(self, tokens: int, ps: int, stretch: float, counts: Mapping[str, int]) -> None:
        """Enter one number of tokens, for which `missing` has made room."""
        new = [name for name in counts if name not in self.names]
        if new:
            self.names += new
            self.counts = np.pad(self.counts, ((0, 0), (0, len(new))))
        self.known[tokens] = True
        self.ps[tokens] = ps
        self.stretch[tokens] = stretch
        self.counts[tokens] = [counts.get(name, 0) for name in self.names]

    def slope(self, first: int, second: int, work: PimWork) -> tuple[float, npt.NDArray[np.float64]]:
        """What a token adds to time and counts between the entry `first` and `work` with `second` tokens."""
        counts = np.array([work.counts.get(name, 0) for name in self.names])
        return (work.ps - int(self.ps[first])) / (second - first), (counts - self.counts[first]) / (second - first)

    def extend(self, first: int, tokens: int) -> None:
        """Enter a number of tokens on the straight line from the entry `first`."""
        assert self.beyond is not None
        ps, counts = self.beyond
        self.known[tokens] = True
        self.ps[tokens] = round(int(self.ps[first]) + (tokens - first) * ps)
        self.stretch[tokens] = self.stretch[first]
        self.counts[tokens] = np.rint(self.counts[first] + (tokens - first) * counts)

    def total(self, tokens: Ints) -> dict[str, int]:
        """Events of experts with these numbers of tokens, added up."""
        sums = np.bincount(tokens.ravel(), minlength=len(self.ps)) @ self.counts
        return {name: int(value) for name, value in zip(self.names, sums, strict=True) if value}


class PimUnit:
    """The PIM of every device, through the device model of one.

    :param device: the device model
    :param name: its name in rows and statistics, for example ``logic_pim``
    :param bytes_per_s: what the xPU draws from its memory at full speed; the traffic beside the PIM is of this rate
    :param descriptions: unit and text of every statistic ``system.NAME.*``
    :param peaks: ``ops_per_s`` and ``bytes_per_s`` of one device
    :param not_modelled: what the device model leaves out
    """

    def __init__(
        self,
        device: PimDevice,
        name: str,
        *,
        bytes_per_s: float,
        descriptions: Mapping[str, tuple[str, str]] | None = None,
        peaks: Mapping[str, float] | None = None,
        not_modelled: Sequence[str] = (),
    ) -> None:
        self.device, self.name = device, name
        self.descriptions, self.peaks, self.not_modelled = descriptions or {}, peaks or {}, not_modelled
        self.bytes_per_s = bytes_per_s

    @property
    def spaces(self) -> int:
        """Memory spaces of a device."""
        return len(self.device.spaces)

    def expert(self, d_model: int, d_ff: int, tokens: int, owned: int, *, gated: bool, beside: bool) -> PimWork:
        """One expert's slice, in the first `owned` memory spaces.

        :param beside: whether the xPU reads from the other spaces at full speed meanwhile (from all, if none is left)
        """
        spaces = self.device.spaces[:owned]
        cost = self.device.expert(d_model, d_ff, tokens, gated=gated, spaces=spaces)
        if not beside:
            return PimWork(cost.pim_ps, 1.0, self._named(cost.counts))
        others = self.device.spaces[owned:] or spaces
        moved = min(BESIDE_BYTES, _accesses(cost.pim_ps, self.bytes_per_s))
        slow = self.device.expert(
            d_model, d_ff, tokens, gated=gated, spaces=spaces, beside_bytes=moved, beside_spaces=others
        )
        # What the PIM loses while the xPU's traffic lasts, it loses at the same rate to the end.
        lost = max(0, slow.pim_ps - cost.pim_ps) * max(1.0, cost.pim_ps / slow.xpu_ps)
        return PimWork(cost.pim_ps + round(lost), self._stretch(slow, moved, others), self._named(cost.counts))

    def attention(
        self, heads: int, group: int, head_dim: int, lengths: Ints, *, xpu_bytes_per_s: float = 0.0
    ) -> PimWork:
        """Decode attention of one layer on one device: `heads` KV heads of `group` queries; order does not matter.

        :param xpu_bytes_per_s: what the xPU draws meanwhile from the space that has no KV cache
        """
        listed = [int(length) for length in lengths]
        cost = self.device.attention(heads, group, head_dim, listed)
        if not xpu_bytes_per_s:
            return PimWork(cost.pim_ps, 1.0, self._named(cost.counts))
        others = self.device.spaces[-1:]
        moved = _accesses(cost.pim_ps, xpu_bytes_per_s)
        slow = self.device.attention(heads, group, head_dim, listed, beside_bytes=moved, beside_spaces=others)
        return PimWork(slow.pim_ps, self._stretch(slow, moved, others), self._named(cost.counts))

    def _stretch(self, cost: PimCost, moved: int, spaces: Sequence[int]) -> float:
        return max(1.0, cost.xpu_ps / self.device.xpu_stream(moved, spaces=spaces).xpu_ps)

    def _named(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Events of the operator alone as statistics: the xPU's traffic beside it is counted by the stages."""
        return {f"system.{self.name}.{k}": v for k, v in counts.items()}


def _accesses(ps: int, bytes_per_s: float) -> int:
    """Bytes that are read in so long a time, in whole accesses of 32 bytes; one at least."""
    return max(32, round(ps * bytes_per_s / 1e12) // 32 * 32)
