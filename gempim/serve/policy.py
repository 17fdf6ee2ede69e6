"""Which unit runs what in a system with PIM: choices of the Duplex paper, of its public code, of its baselines."""

from __future__ import annotations

from dataclasses import dataclass, field

from gempim.quantity import DataError, suggest

MODES = ("duplex", "hetero", "split")
"""How devices share the work; see `PolicyParams.mode`."""

MOE = ("stage", "op_b", "fastest", "always", "coprocess-paper", "coprocess-code")
"""Where MoE layers run; see `PolicyParams.moe`."""

ATTENTION = ("op_b", "fastest", "always", "coprocess")
"""Where decode attention runs; see `PolicyParams.attention`."""


def _f(unit: str, description: str, lo: float = 0, hi: float = 0) -> dict[str, object]:
    return {"unit": unit, "description": description, "min": lo, "max": hi}


@dataclass(frozen=True)
class PolicyParams:
    """Choices of a system with PIM.

    * `mode` "duplex": every device has an xPU and PIM. "hetero" (Duplex paper, section III-B): half of the devices are
      xPUs, the other half only PIM, which run every MoE layer and decode attention and hold experts and KV cache.
      "split" (section VIII-A): half of the devices prefill, the other half decode, each with a copy of the weights.
    * `moe` "stage": on the PIM in decoding-only stages (the paper's Duplex without co-processing). "op_b": where the
      mean tokens of an expert that has any, which are the operations a byte of its weights, are at most `op_b_limit`.
      "fastest": where a layer's table times add up to less. "always": on the PIM. "coprocess-paper",
      "coprocess-code": on both at once, see `gempim.serve.coprocess`.
    * `attention`, of decoding sequences, "op_b": on the PIM when the query heads of a KV head are at most `op_b_limit`.
      "fastest", "always": as above. "coprocess": on the PIM, at the same time as the prefill's on the xPU.
    """

    mode: str = field(metadata=_f("name", f"how devices share the work: {', '.join(MODES)}"))
    moe: str = field(metadata=_f("name", f"where MoE layers run: {', '.join(MOE)}"))
    attention: str = field(metadata=_f("name", f"where decode attention runs: {', '.join(ATTENTION)}"))
    op_b_limit: float = field(metadata=_f("flop/byte", "most operations a byte on the PIM, with op_b", 0, 1e6))
    one_space_one_unit: bool = field(metadata=_f("flag", "experts of one memory space go to the same unit"))
    kv_migration: bool = field(metadata=_f("flag", "the xPU moves K and V of a prompt to the KV cache's memory spaces"))

    def __post_init__(self) -> None:
        for name, allowed in (("mode", MODES), ("moe", MOE), ("attention", ATTENTION)):
            value = getattr(self, name)
            if value not in allowed:
                raise DataError(f"policy.{name}: unknown {value!r}{suggest(value, allowed)} ({', '.join(allowed)})")
        if self.mode == "hetero" and (self.moe, self.attention) != ("always", "always"):
            raise DataError(
                "policy.mode = 'hetero': experts and KV cache lie in the PIM: moe and attention are 'always'"
            )
