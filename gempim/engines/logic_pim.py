"""Processing in the memory of one HBM device: Logic-PIM (Duplex), and by its parameters BankGroup-PIM and Bank-PIM.

A thin, memoising face of the C++ model (src_ext/models/logic_pim), which simulates every DRAM command of one
pseudo-channel; all pseudo-channels of all stacks that have the same work are simulated once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from gempim import _engine
from gempim.quantity import DataError

MEMO = 65536
"""Operators of one device whose costs are kept; the least recently used is forgotten first."""


@dataclass(frozen=True)
class PimCost:
    """What one operator costs on one device.

    :ivar pim_ps: when the PIM has written its last result; both units start at 0 [ps]
    :ivar xpu_ps: last data beat of the xPU's concurrent stream [ps]; 0 when there is none
    :ivar counts: event counts by name (``_engine.logic_pim_counter_info()``), of ONE device (all its stacks), the xPU's
        concurrent stream included in the counters whose name starts with ``xpu_``
    """

    pim_ps: int
    xpu_ps: int
    counts: Mapping[str, int]


class LogicPim:
    """The PIM of one device of `stacks` HBM stacks. Deterministic; a cost depends on the arguments alone.

    Memory spaces are bank bundles, over all pseudo-channels and stacks; `len(spaces)` of them exist (Logic-PIM of
    HBM3: four, ranks 0, 0, 1, 1). Operands that are spread over several spaces are read alternately from them, so that
    one bundle opens its next row while another one is read.

    :param values: every field of ``_engine.logic_pim_param_info()``
    :param dram: every field of ``_engine.dram_param_info()``
    :param stacks: HBM stacks of the device
    :raises DataError: a parameter that is missing, unknown, out of range or against another one
    """

    def __init__(self, values: Mapping[str, Any], dram: Mapping[str, Any], stacks: int) -> None:
        try:
            self.device = _engine.LogicPim(dict(values), dict(dram), stacks)
        except _engine.ParamError as error:
            raise DataError(f"logic_pim: {error}") from error
        self.stacks = stacks
        self._gemm = lru_cache(MEMO)(self._gemm_cost)
        self._expert = lru_cache(MEMO)(self._expert_cost)
        self._attention = lru_cache(MEMO)(self._attention_cost)
        self._stream = lru_cache(MEMO)(self._stream_cost)

    @property
    def spaces(self) -> tuple[int, ...]:
        """All memory spaces."""
        return tuple(range(self.device.spaces))

    @property
    def space_bytes(self) -> int:
        """Capacity of one memory space on one device [bytes]."""
        return int(self.device.space_bytes)

    @property
    def stream_peak_bytes_per_s(self) -> float:
        """Theoretical bandwidth of the PIM's path, all stacks, without refresh and row misses [bytes/s]."""
        return float(self.device.pim_peak_bytes_per_s)

    @property
    def xpu_peak_bytes_per_s(self) -> float:
        """Theoretical bandwidth of the xPU's path, all stacks [bytes/s]."""
        return float(self.device.xpu_peak_bytes_per_s)

    @property
    def peak_flops_per_s(self) -> float:
        """Peak rate of the GEMM units, all stacks, two operations a multiply-accumulate [flop/s]."""
        return float(self.device.peak_flops_per_s)

    def gemm(
        self,
        n: int,
        k: int,
        tokens: int,
        *,
        spaces: Sequence[int] = (0,),
        beside_bytes: int = 0,
        beside_spaces: Sequence[int] = (),
        split: str = "n",
    ) -> PimCost:
        """Activations [tokens, k] times FP16 weights [n, k], while the xPU reads `beside_bytes` out of `beside_spaces`.

        Weights are spread evenly over stacks and pseudo-channels and lie in `spaces`. Every stack reads its inputs from
        memory, streams its weights, and writes its results (FP16) to the first of `spaces`. A weight column is held
        while as many tokens meet it as a module's buffer holds inputs of; more tokens read the column again.

        :param split: what the stacks share: "n" (each has outputs of its own: gate and up projection), or "k" (each has
            a part of every sum and writes its own [tokens, n] partial sums, which the xPU adds: down projection)
        :raises DataError: no tokens, weights or spaces; a space that does not exist or occurs twice; more than fits
        """
        return self._gemm(n, k, tokens, tuple(spaces), beside_bytes, tuple(beside_spaces), split)

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
        """One expert's feed-forward network in one go (`d_ff` is this device's slice).

        Gate and up projection sliced over the stacks by outputs, the activation unit in place (the intermediate values
        stay in the stack's buffers), down projection sliced by k; each stack writes [tokens, d_model] partial sums.
        `gated` false: two matrices, one activation. Other arguments and errors as `gemm`.
        """
        return self._expert(d_model, d_ff, tokens, gated, tuple(spaces), beside_bytes, tuple(beside_spaces))

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
        """Decode attention: one new token of each sequence against `lengths` cached tokens (itself included).

        K is read and scored, softmax in three steps, V read and weighted. Pairs of sequence and KV head are dealt to
        the stacks, longest first to the stack with the least work; within a stack a pair's tokens lie over all
        pseudo-channels. The softmax of a pair overlaps with reading the K of the next one.

        :param heads: KV heads of this device
        :param group: query heads that share one KV head
        :param lengths: cached tokens of each sequence; their order does not matter
        :param spaces: where the KV cache lies; default: all but the last one (Duplex, section V-C), or the only one
        :raises DataError: as `gemm`, or a length below one
        """
        where = tuple(spaces) or (self.spaces[:-1] or self.spaces)
        return self._attention(
            heads, group, head_dim, tuple(sorted(lengths, reverse=True)), where, beside_bytes, tuple(beside_spaces)
        )

    def xpu_stream(self, read_bytes: int, *, spaces: Sequence[int] = ()) -> PimCost:
        """The xPU reads `read_bytes` alone, out of `spaces` (default: all); `pim_ps` is 0.

        What `beside_bytes` would take without the PIM. :raises DataError: as `gemm`
        """
        return self._stream(read_bytes, tuple(spaces) or self.spaces)

    def _gemm_cost(self, *args: Any) -> PimCost:
        return self._cost(self.device.gemm, args)

    def _expert_cost(self, *args: Any) -> PimCost:
        return self._cost(self.device.expert, args)

    def _attention_cost(self, *args: Any) -> PimCost:
        return self._cost(self.device.attention, args)

    def _stream_cost(self, *args: Any) -> PimCost:
        return self._cost(self.device.xpu_stream, args)

    @staticmethod
    def _cost(operator: Any, args: tuple[Any, ...]) -> PimCost:
        try:
            pim_ps, xpu_ps, counts = operator(*args)
        except (_engine.ParamError, ValueError) as error:
            raise DataError(f"logic_pim: {error}") from error
        return PimCost(pim_ps, xpu_ps, MappingProxyType(counts))
