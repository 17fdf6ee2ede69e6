"""One operator of a pass: what is computed, and the bytes it moves."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = (
    "embed",
    "norm",
    "matmul",
    "router",
    "rope",
    "kv_write",
    "attn_score",
    "softmax",
    "attn_value",
    "activation",
    "add",
)
"""The kinds of `Operator.kind`."""


@dataclass(frozen=True)
class Operator:
    """An operator that occurs `count` times in a pass; every other number is of ONE occurrence.

    * `kind` "matmul", "router", "attn_score", "attn_value": `instances` independent products of activations [m, k] and
      the streamed operand [n, k] transposed, giving [m, n]. Instances are experts (with m tokens each) or, in
      attention, KV heads times sequences (m = query heads that share the KV head times query tokens).
    * other kinds are elementwise or row-wise over [m, n] elements, with k = 1 and instances = 1. For "kv_write" n
      counts K and V together; for "softmax" of attention a row is one query head of one token.
    * `weight_type` is the stored type of the streamed operand (weights, or the KV cache), None without one.
      `weight_bytes` are its bytes, each counted once per occurrence.
    * `read_bytes` and `write_bytes` are activations: f32 everywhere (ggml's type between operators), except that
      "kv_write" writes in the type of the KV cache.
    * `flops` counts 2 per multiply-accumulate.
    """

    name: str
    kind: str
    m: int
    n: int
    k: int
    weight_type: str | None
    instances: int
    count: int
    weight_bytes: int
    read_bytes: int
    write_bytes: int
    flops: int

    @property
    def total_bytes(self) -> int:
        """Streamed operand and activations, of all occurrences."""
        return self.count * (self.weight_bytes + self.read_bytes + self.write_bytes)

    @property
    def total_flops(self) -> int:
        """Floating-point operations of all occurrences."""
        return self.count * self.flops
