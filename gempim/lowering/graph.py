"""From a model and a phase to the operators of one pass, in the order llama.cpp runs them.

The graph is llama.cpp's (src/models/llama.cpp, qwen2.cpp, gpt2.cpp) without flash attention: scores, softmax and values
are separate operators over the whole rectangle of query tokens times cached tokens (masked entries are computed, as
ggml's matrix multiplication does), and in the last layer the FFN sees only the rows whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gempim.lowering.operator import Operator
from gempim.lowering.routing import Routing, histogram
from gempim.models.ggml import row_bytes
from gempim.models.spec import ModelSpec, TensorMap, WeightTensor
from gempim.quantity import DataError, suggest

PHASES = ("prefill", "decode")
LOGITS = ("last", "all")

F32 = 4
"""Bytes of an activation: ggml passes f32 between operators."""

# Floating-point operations per element of the operators that are not products. They set no time by themselves (such
# operators are bound by bytes); they are counted so that a roofline shows them. One each for add, multiply, divide,
# compare, and one for exp or tanh (the papers count them so too; a polynomial exp costs some ten instructions).
FLOPS_RMS_NORM = 4  # square, sum, scale, weight
FLOPS_LAYER_NORM = 7  # sum, subtract, square, sum, scale, weight, bias
FLOPS_ROPE = 3  # a rotated pair: 4 multiplies, 2 adds
FLOPS_SOFTMAX = 7  # scale, mask, maximum, subtract, exp, sum, divide
FLOPS_ACTIVATION = {"swiglu": 5, "geglu": 9, "gelu": 8, "relu": 1}  # per output element

NOT_MODELLED = (
    "padding of the KV cache to a multiple of 32 or 256 cells, which llama.cpp rounds attention up to",
    "llama.cpp's split of a long prompt into micro-batches of 512 tokens (lower each chunk with its own n_past)",
    "selection of the output rows in the last layer (a copy of one row per sequence)",
    "sampling, tokenisation",
    "GLaM's relative position bias and GPT-3's banded sparse attention: both models are lowered dense",
)
"""What the operators leave out."""


def lower(
    model: ModelSpec,
    phase: str,
    batch: int,
    n_past: int,
    n_tokens: int = 1,
    routing: Routing | None = None,
    *,
    logits: str = "last",
) -> list[Operator]:
    """The operators of one pass.

    * ``"prefill"``: `batch` sequences, each with `n_past` tokens already in its KV cache (0 at the start), each add
      `n_tokens`. `logits` "last" (llama.cpp's default) computes the logits of each sequence's last token, "all" those
      of every token.
    * ``"decode"``: `batch` sequences, each with `n_past` cached tokens, add one token; `n_tokens` must be 1.

    `routing` is for MoE models (default `Routing()`: uniform, sampled).

    Equal operators (same name, shape, type and bytes) are one entry with `count` > 1. The order is that of first
    occurrence. Raises DataError for an unknown phase, counts out of range, or a sequence longer than the model's
    context.
    """
    if phase not in PHASES:
        raise DataError(f"phase: unknown {phase!r}{suggest(phase, PHASES)} (allowed: {', '.join(PHASES)})")
    if logits not in LOGITS:
        raise DataError(f"logits: unknown {logits!r}{suggest(logits, LOGITS)} (allowed: {', '.join(LOGITS)})")
    for name, value, least in (("batch", batch, 1), ("n_past", n_past, 0), ("n_tokens", n_tokens, 1)):
        if value < least:
            raise DataError(f"{name}: {value} is below {least}")
    if phase == "decode" and n_tokens != 1:
        raise DataError(f"n_tokens: {n_tokens}, expected 1 in decode (one token per sequence and pass)")
    if n_past + n_tokens > model.max_context:
        raise DataError(
            f"n_past + n_tokens: {n_past} + {n_tokens} tokens exceed the context of {model.name}, {model.max_context}"
        )
    return _merge(_Pass(model, batch, n_past, n_tokens, routing or Routing(), logits).operators())


def _merge(operators: Iterable[Operator]) -> list[Operator]:
    """Equal operators as one entry with their number."""
    counts: dict[Operator, int] = {}
    for operator in operators:
        counts[operator] = counts.get(operator, 0) + operator.count
    return [replace(operator, count=count) for operator, count in counts.items()]


@dataclass(frozen=True)
class _Pass:
    """One pass over the model; the methods give the operators of its parts, each with count 1."""

    model: ModelSpec
    batch: int
    n_past: int
    n_tokens: int
    routing: Routing
    logits: str

    @property
    def rows(self) -> int:
        """Tokens in the pass."""
        return self.batch * self.n_tokens

    @property
    def out_rows(self) -> int:
        """Tokens whose logits are computed."""
        return self.rows if self.logits == "all" else self.batch

    def operators(self) -> list[Operator]:
        found = self.embedding()
        # Operators of an equal layer are equal, except those of experts when each layer draws its own routing.
        # Equal layers are one object (spec.share_equal), so identity is enough and much cheaper than equality.
        attention: dict[int, list[Operator]] = {}
        dense: dict[tuple[int, int], list[Operator]] = {}
        last = self.model.n_layers - 1
        for index, layer in enumerate(self.model.layers):
            rows = self.out_rows if index == last else self.rows
            if id(layer) not in attention:
                attention[id(layer)] = self.attention(layer)
            found += attention[id(layer)]
            if layer.is_moe:
                found += self.ffn(layer, index, rows)
                continue
            if (id(layer), rows) not in dense:
                dense[id(layer), rows] = self.ffn(layer, index, rows)
            found += dense[id(layer), rows]
        found += self.norm("output_norm", self.model.globals, self.out_rows)
        head = self.model.globals["token_embd" if self.model.tied_embeddings else "output"]
        found.append(self.matmul("output", head, self.out_rows))
        return found

    # Building blocks

    def elementwise(
        self,
        name: str,
        kind: str,
        shape: tuple[int, int],
        *,
        reads: int = 1,
        flops: int = 0,
        weights: Iterable[WeightTensor] = (),
    ) -> Operator:
        """An operator over [m, n] that reads `reads` such operands, writes one, and does `flops` per element."""
        m, n = shape
        streamed = list(weights)
        return Operator(
            name=name,
            kind=kind,
            m=m,
            n=n,
            k=1,
            weight_type=streamed[0].ggml_type if streamed else None,
            instances=1,
            count=1,
            weight_bytes=sum(tensor.bytes for tensor in streamed),
            read_bytes=reads * m * n * F32,
            write_bytes=m * n * F32,
            flops=flops * m * n,
        )

    def matmul(self, name: str, tensor: WeightTensor, m: int, instances: int = 1, kind: str = "matmul") -> Operator:
        return Operator(
            name=name,
            kind=kind,
            m=m,
            n=tensor.n,
            k=tensor.k,
            weight_type=tensor.ggml_type,
            instances=instances,
            count=1,
            weight_bytes=instances * tensor.matrix_bytes,
            read_bytes=instances * m * tensor.k * F32,
            write_bytes=instances * m * tensor.n * F32,
            flops=2 * instances * m * tensor.n * tensor.k,
        )

    def linear(self, role: str, tensors: TensorMap, m: int) -> list[Operator]:
        """A product and, where the model has one, its bias."""
        found = [self.matmul(role, tensors[role], m)]
        bias = tensors.get(f"{role}_bias")
        if bias is not None:
            found.append(self.elementwise(f"{role}_bias", "add", (m, bias.k), flops=1, weights=[bias]))
        return found

    def norm(self, role: str, tensors: TensorMap, m: int) -> list[Operator]:
        if role not in tensors:
            return []
        weights = [tensors[name] for name in (role, f"{role}_bias") if name in tensors]
        flops = FLOPS_RMS_NORM if self.model.norm == "rms" else FLOPS_LAYER_NORM
        return [self.elementwise(role, "norm", (m, tensors[role].k), flops=flops, weights=weights)]

    def residual(self, name: str, m: int) -> Operator:
        return self.elementwise(name, "add", (m, self.model.d_model), reads=2, flops=1)

    # Parts of the model

    def embedding(self) -> list[Operator]:
        found = []
        for role in ("token_embd", "position_embd"):
            table = self.model.globals.get(role)
            if table is None:
                continue
            # One row of the table per token; a look-up reads no activations.
            found.append(
                Operator(
                    name=role,
                    kind="embed",
                    m=self.rows,
                    n=table.k,
                    k=1,
                    weight_type=table.ggml_type,
                    instances=1,
                    count=1,
                    weight_bytes=self.rows * row_bytes(table.ggml_type, table.k),
                    read_bytes=0,
                    write_bytes=self.rows * table.k * F32,
                    flops=0,
                )
            )
        if "position_embd" in self.model.globals:
            found.append(self.residual("position_add", self.rows))
        return found

    def attention(self, layer: TensorMap) -> list[Operator]:
        model, rows = self.model, self.rows
        found = self.norm("attn_norm", layer, rows)
        for role in ("attn_qkv", "attn_q", "attn_k", "attn_v"):
            if role in layer:
                found += self.linear(role, layer, rows)
        if model.rope:
            found.append(self.elementwise("rope_q", "rope", (rows, model.q_dim), flops=FLOPS_ROPE))
            found.append(self.elementwise("rope_k", "rope", (rows, model.kv_dim), flops=FLOPS_ROPE))
        found.append(
            replace(
                self.elementwise("kv_write", "kv_write", (rows, 2 * model.kv_dim)),
                weight_type=model.kv_type,
                write_bytes=2 * rows * row_bytes(model.kv_type, model.kv_dim),
            )
        )
        found += self.heads()
        found += self.linear("attn_output", layer, rows)
        found += self.norm("attn_post_norm", layer, rows)
        found.append(self.residual("attn_residual", rows))
        return found

    def heads(self) -> list[Operator]:
        """Scores, softmax and values of all heads of all sequences."""
        model = self.model
        cached = self.n_past + self.n_tokens
        instances = self.batch * model.n_kv_heads
        m = model.gqa_group * self.n_tokens
        streamed = self.batch * cached * row_bytes(model.kv_type, model.kv_dim)
        queries = self.rows * model.q_dim * F32
        scores = self.rows * model.n_heads * cached
        flops = 2 * scores * model.head_dim
        score = Operator(
            name="attn_score",
            kind="attn_score",
            m=m,
            n=cached,
            k=model.head_dim,
            weight_type=model.kv_type,
            instances=instances,
            count=1,
            weight_bytes=streamed,
            read_bytes=queries,
            write_bytes=scores * F32,
            flops=flops,
        )
        softmax = self.elementwise("attn_softmax", "softmax", (self.rows * model.n_heads, cached), flops=FLOPS_SOFTMAX)
        # The mask: one row of cached tokens per query token, shared by the heads.
        softmax = replace(softmax, read_bytes=softmax.read_bytes + self.rows * cached * F32)
        value = replace(
            score,
            name="attn_value",
            kind="attn_value",
            n=model.head_dim,
            k=cached,
            read_bytes=scores * F32,
            write_bytes=queries,
        )
        return [score, softmax, value]

    def ffn(self, layer: TensorMap, index: int, rows: int) -> list[Operator]:
        found = self.norm("ffn_norm", layer, rows)
        if layer.is_moe:
            found += self.experts(layer, index, rows)
        else:
            if self.model.gated:
                found += self.linear("ffn_gate", layer, rows)
            found += self.linear("ffn_up", layer, rows)
            found.append(self.activation("ffn_act", rows))
            found += self.linear("ffn_down", layer, rows)
        found += self.norm("ffn_post_norm", layer, rows)
        found.append(self.residual("ffn_residual", rows))
        return found

    def activation(self, name: str, rows: int) -> Operator:
        model = self.model
        flops = FLOPS_ACTIVATION[model.act]
        return self.elementwise(name, "activation", (rows, model.d_ff), reads=2 if model.gated else 1, flops=flops)

    def experts(self, layer: TensorMap, index: int, rows: int) -> list[Operator]:
        """Router, the experts that got a token (an expert's weights are read once per pass), and their weighted sum."""
        model, used = self.model, self.model.n_experts_used
        found = [self.matmul("ffn_router", layer["ffn_gate_inp"], rows, kind="router")]
        found.append(self.elementwise("router_softmax", "softmax", (rows, model.n_experts), flops=FLOPS_SOFTMAX))
        loads = histogram(self.routing.tokens_per_expert(rows, model.n_experts, used, index))
        for role in ("ffn_gate_exps", "ffn_up_exps"):
            if role in layer:
                found += [self.matmul(role, layer[role], tokens, experts) for tokens, experts in loads]
        found.append(self.activation("ffn_act_exps", rows * used))
        found += [self.matmul("ffn_down_exps", layer["ffn_down_exps"], tokens, experts) for tokens, experts in loads]
        combine = self.elementwise("expert_sum", "add", (rows, model.d_model), reads=used, flops=2 * used)
        return [*found, combine]
