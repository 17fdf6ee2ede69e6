"""A PIM device in closed form: a stream at a multiple of the xPU's bandwidth, arithmetic in steps, fixed contention.

Independent of the device model that ships: the tests of serving hold the stages against formulas on this one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    pim_ps: int
    xpu_ps: int
    counts: dict[str, int]


@dataclass(frozen=True)
class ClosedFormPim:
    """Facts of the Duplex paper: 4 times the bandwidth, 8 tokens a weight before arithmetic binds.

    `pim_slow` and `xpu_slow` are what each unit's time grows by while the other works in other memory spaces.
    """

    bytes_per_s: float = 4 * 3.352e12
    tokens_free: int = 8
    xpu_bytes_per_s: float = 3.352e12
    pim_slow: float = 1.0
    xpu_slow: float = 1.0
    stacks: int = 5
    spaces: tuple[int, ...] = (0, 1, 2, 3)

    def _cost(self, weights: int, tokens: float, beside: int) -> Cost:
        alone = 2 * weights / self.bytes_per_s * max(1.0, tokens / self.tokens_free) * 1e12
        pim = alone * (self.pim_slow if beside else 1)
        xpu = beside / self.xpu_bytes_per_s * 1e12 * self.xpu_slow
        counts = {
            "commands": 1,
            "weight_bytes": 2 * weights,
            "macs": round(weights * tokens),
            "xpu_reads": beside // 32,
        }
        return Cost(round(pim), round(xpu), counts)

    def expert(
        self, d_model: int, d_ff: int, tokens: int, *, gated: bool = True, spaces: Sequence[int] = (0,),
        beside_bytes: int = 0, beside_spaces: Sequence[int] = (),
    ) -> Cost:  # fmt: skip
        assert len(set(spaces)) == len(spaces)
        assert set(spaces) <= set(self.spaces)
        return self._cost((3 if gated else 2) * d_model * d_ff, tokens, beside_bytes)

    def attention(
        self, heads: int, group: int, head_dim: int, lengths: Sequence[int], *, spaces: Sequence[int] = (),
        beside_bytes: int = 0, beside_spaces: Sequence[int] = (),
    ) -> Cost:  # fmt: skip
        return self._cost(2 * heads * head_dim * sum(lengths), group, beside_bytes)

    def xpu_stream(self, read_bytes: int, *, spaces: Sequence[int] = ()) -> Cost:
        return Cost(0, math.ceil(read_bytes / self.xpu_bytes_per_s * 1e12), {})


DESCRIPTIONS = {
    f"system.logic_pim.{name}": (unit, name)
    for name, unit in (("commands", "Count"), ("weight_bytes", "Byte"), ("macs", "Count"))
}
