"""Quantisation schemes: which stored type each tensor of a shape-table model gets.

The rules are llama.cpp's (src/llama-quant.cpp at 007dbbf3, "llama-quantize" without an importance matrix), so that
`load_model("llama-2-7b", "q4_k_m")` has the tensors that a user's Q4_K_M file has:

* vectors (norms, biases), the MoE router and learned position embeddings stay f32;
* the matrix that makes the logits (`output`, or `token_embd` where the two are tied) is q6_k, except in q8_0;
* K and V of 8-expert models are q8_0; V of 80-layer Llama with GQA gets q5_k where q3_k or q4_k was chosen;
* a k-quant whose rows are not whole 256-blocks falls back to a 32-block type (q2_k, q3_k -> q4_0, q4_k -> q5_0,
  q5_k -> q5_1, q6_k -> q8_0), and to f16 where even that does not fit.

The name of a bare ggml type is the scheme with these rules only: every other matrix has that type. For q4_0, q4_1,
q5_0, q5_1, q6_k, q8_0, f16, bf16 and f32 that is llama-quantize's file type of the name. llama-quantize's own "Q2_K",
"Q3_K", "Q4_K" and "Q5_K" are mixtures; they are here as q2_k_mix, q3_k_s/m/l, q4_k_s/m and q5_k_s/m.
"""

from __future__ import annotations

from dataclasses import dataclass

from gempim.models.ggml import BLOCKS, MATMUL_TYPES, row_bytes
from gempim.quantity import DataError, suggest

SOURCE = "llama.cpp src/llama-quant.cpp at 007dbbf3 (llama_tensor_get_type, tensor_type_fallback)"

MIXES = {
    "q2_k_mix": "q2_k",
    "q3_k_s": "q3_k",
    "q3_k_m": "q3_k",
    "q3_k_l": "q3_k",
    "q4_k_s": "q4_k",
    "q4_k_m": "q4_k",
    "q5_k_s": "q5_k",
    "q5_k_m": "q5_k",
}
"""llama-quantize's mixtures -> the type most matrices have. q2_k_mix is llama-quantize's Q2_K."""

UNQUANTISED = ("f32", "f16", "bf16")

_FALLBACK = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}


def list_quants() -> list[str]:
    """The names `load_model` takes as `quant`, widest first, mixtures after the bare types."""
    return [*MATMUL_TYPES, *MIXES]


@dataclass(frozen=True)
class QuantContext:
    """What the rules look at besides the tensor itself."""

    arch: str
    n_layers: int
    gqa_group: int
    n_experts: int
    tied_embeddings: bool


def check_quant(quant: str) -> None:
    """Raise DataError, with the allowed names, unless `quant` is a known scheme."""
    allowed = list_quants()
    if quant not in allowed:
        raise DataError(
            f"unknown quantisation {quant!r}{suggest(quant.lower(), allowed)} (allowed: {', '.join(allowed)})"
        )


def matrix_type(quant: str, role: str, k: int, layer: int, context: QuantContext) -> str:
    """The type of the matrix `role` with rows of `k` elements.

    `role` is llama.cpp's tensor name without ``blk.N.`` and ``.weight``; `layer` is the layer's index (any number for
    a tensor outside the layers). Raises DataError for an unknown scheme.
    """
    check_quant(quant)
    if role in ("ffn_gate_inp", "position_embd"):
        return "f32"
    if quant in UNQUANTISED:
        return quant
    wanted = _wanted(quant, role, k, layer, context)
    if k % BLOCKS[wanted][0]:
        wanted = _FALLBACK.get(wanted, "f16")
        if k % BLOCKS[wanted][0]:
            wanted = "f16"
    row_bytes(wanted, k)
    return wanted


def _wanted(quant: str, role: str, k: int, layer: int, context: QuantContext) -> str:
    """The type before the check that it fits the shape."""
    base = MIXES.get(quant, quant)
    if role == "output" or (role == "token_embd" and context.tied_embeddings):
        return "q8_0" if base == "q8_0" or k % BLOCKS[base][0] else "q6_k"
    eight_experts = context.n_experts == 8
    if role in ("attn_v", "attn_qkv"):
        chosen = _value_type(quant, base, layer, context)
        if _is_70b(context) and chosen in ("q3_k", "q4_k"):
            chosen = "q5_k"
        return "q8_0" if eight_experts else chosen
    if role == "attn_k" and eight_experts:
        return "q8_0"
    if role in ("ffn_down", "ffn_down_exps"):
        return _down_type(quant, base, layer, context)
    if role == "attn_output":
        if eight_experts:
            return "q5_k" if quant in ("q2_k_mix", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m") else base
        return {"q2_k_mix": "q3_k", "q3_k_m": "q4_k", "q3_k_l": "q5_k"}.get(quant, base)
    return base


def _value_type(quant: str, base: str, layer: int, context: QuantContext) -> str:
    if quant == "q2_k_mix":
        return "q4_k" if context.gqa_group >= 4 else "q3_k"
    if quant == "q3_k_m":
        return "q5_k" if layer < 2 else "q4_k"
    if quant == "q3_k_l" or (quant == "q4_k_s" and layer < 4):
        return "q5_k"
    if quant in ("q4_k_m", "q5_k_m") and _more_bits(layer, context.n_layers):
        return "q6_k"
    return base


def _down_type(quant: str, base: str, layer: int, context: QuantContext) -> str:
    if quant == "q2_k_mix":
        return "q3_k"
    if quant == "q3_k_m":
        return "q5_k" if layer < context.n_layers // 16 else "q4_k"
    if quant == "q3_k_l" or (quant == "q4_k_s" and layer < context.n_layers // 8):
        return "q5_k"
    if quant in ("q4_k_m", "q5_k_m") and _more_bits(layer, context.n_layers):
        return "q6_k"
    return base


def _more_bits(layer: int, n_layers: int) -> bool:
    """The layers that the _M mixtures give more bits: the first and last eighth, and every third between."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def _is_70b(context: QuantContext) -> bool:
    """llama.cpp's model type "70B": the llama architecture with 80 layers and GQA."""
    return context.arch == "llama" and context.n_layers == 80 and context.gqa_group > 1
