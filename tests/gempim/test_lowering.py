"""Do the operators of a pass do the work, and move the bytes, that the model does?

Three independent references: published MACs per token; closed formulas over the hyperparameters (written here from the
architecture, not from the code); and a small transformer in numpy that is really run while every multiply is counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gempim.lowering import KINDS, Operator, Routing, lower
from gempim.lowering.routing import histogram, inclusion
from gempim.models import ModelSpec, TensorMap, WeightTensor, load_model
from gempim.quantity import DataError

Array = npt.NDArray[np.float64]
PRODUCTS = ("matmul", "router", "attn_score", "attn_value")


def macs(operators: list[Operator], kinds: tuple[str, ...] = PRODUCTS) -> int:
    return sum(operator.total_flops for operator in operators if operator.kind in kinds) // 2


def named(operators: list[Operator], name: str) -> list[Operator]:
    found = [operator for operator in operators if operator.name == name]
    assert found, name
    return found


def weight_bytes(operators: list[Operator]) -> int:
    """Bytes of weights (not of the KV cache) of a pass."""
    kv = ("attn_score", "attn_value")
    return sum(operator.count * operator.weight_bytes for operator in operators if operator.kind not in kv)


# Published numbers


@pytest.mark.parametrize(("name", "giga"), [("llama-2-7b", 6.607), ("llama-2-13b", 12.852)])
def test_macs_per_token_are_the_published_ones(name: str, giga: float) -> None:
    operators = lower(load_model(name, "q4_0"), "decode", 1, 0)
    assert macs(operators, ("matmul",)) / 1e9 == pytest.approx(giga, abs=0.0006)


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-2-70b", "llama-3-8b", "gpt-2-xl", "gpt-3-175b", "opt-66b"])
def test_flops_per_token_are_two_per_parameter(name: str) -> None:
    """The usual estimate: 2 FLOPs per parameter of every matrix that is multiplied, plus attention."""
    model = load_model(name, "f16")
    matrices = sum(tensor.elements for tensor in model.tensors() if tensor.n > 1)
    matrices -= sum(tensor.elements for tensor in model.tensors() if "position_embd" in tensor.name)
    if not model.tied_embeddings:
        matrices -= model.vocab * model.d_model  # the input embedding is looked up, not multiplied
    context = 1000
    attention = 2 * model.n_layers * model.q_dim * context
    assert macs(lower(model, "decode", 1, context - 1)) == matrices + attention
    assert 2 * matrices == pytest.approx(2 * model.params, rel=0.07)


# Closed formulas


@dataclass(frozen=True)
class Shape:
    """Hyperparameters once more, as the architecture's papers give them."""

    layers: int
    d: int
    heads: int
    kv_heads: int
    head: int
    ff: int
    ff_matrices: int
    vocab: int


SHAPES = {
    "llama-2-7b": Shape(32, 4096, 32, 32, 128, 11008, 3, 32000),
    "llama-3-70b": Shape(80, 8192, 64, 8, 128, 28672, 3, 128256),
    "smollm2-135m": Shape(30, 576, 9, 3, 64, 1536, 3, 49152),
    "gpt-2-large": Shape(36, 1280, 20, 20, 64, 5120, 2, 50257),
    "opt-66b": Shape(64, 9216, 72, 72, 128, 36864, 2, 50272),
}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    batch=st.integers(1, 70),
    past=st.integers(0, 500),
    new=st.integers(1, 500),
    every=st.booleans(),
)
def test_work_and_bytes_of_dense_models(name: str, batch: int, past: int, new: int, every: bool) -> None:
    s = SHAPES[name]
    model = load_model(name, "f16")
    operators = lower(model, "prefill", batch, past, new, logits="all" if every else "last")
    rows, out, length = batch * new, (batch * new if every else batch), past + new
    attention = s.d * s.head * (2 * s.heads + 2 * s.kv_heads)
    ffn = s.ff_matrices * s.d * s.ff
    # The FFN of the last layer sees only the rows whose logits are wanted.
    expected = s.layers * rows * attention + ((s.layers - 1) * rows + out) * ffn + out * s.d * s.vocab
    assert macs(operators, ("matmul",)) == expected
    scores = 2 * s.layers * batch * s.heads * new * length * s.head
    assert macs(operators, ("attn_score", "attn_value")) == scores
    # Weights are streamed once per pass, whatever the batch.
    products = sum(o.count * o.weight_bytes for o in operators if o.kind == "matmul")
    assert products == 2 * (s.layers * (attention + ffn) + s.d * s.vocab)
    # Every sequence reads its own cache, once for all the query heads that share it.
    cache = sum(o.count * o.weight_bytes for o in operators if o.kind in ("attn_score", "attn_value"))
    assert cache == 2 * s.layers * batch * length * s.kv_heads * s.head * 2
    written = sum(o.count * o.write_bytes for o in named(operators, "kv_write"))
    assert written == 2 * s.layers * rows * s.kv_heads * s.head * 2
    for o in operators:
        assert o.kind in KINDS
        assert min(o.m, o.n, o.k, o.instances, o.count) >= 1
        if o.kind in PRODUCTS:
            assert o.flops == 2 * o.instances * o.m * o.n * o.k
            assert o.read_bytes == 4 * o.instances * o.m * o.k
            assert o.write_bytes == 4 * o.instances * o.m * o.n


@pytest.mark.parametrize("quant", ["q4_0", "q4_k_m", "q2_k_mix", "f16"])
@pytest.mark.parametrize("name", ["llama-2-7b", "smollm2-135m", "gpt-2-small", "opt-66b"])
def test_a_decode_pass_streams_every_tensor_of_the_file_once(name: str, quant: str) -> None:
    """All bytes of the model, but of the embedding tables only the looked-up rows (and the tied one for the logits)."""
    model = load_model(name, quant)
    batch = 5
    expected = model.bytes
    tables = [model.globals[role] for role in ("token_embd", "position_embd") if role in model.globals]
    for table in tables:
        if not (table.name == "token_embd.weight" and model.tied_embeddings):
            expected -= table.bytes
        expected += batch * table.bytes // table.n
    assert weight_bytes(lower(model, "decode", batch, 100)) == expected


def test_mixed_types_are_separate_operators() -> None:
    operators = lower(load_model("llama-2-7b", "q4_k_m"), "decode", 1, 10)
    assert {(o.weight_type, o.count) for o in named(operators, "ffn_down")} == {("q6_k", 16), ("q4_k", 16)}
    assert {(o.weight_type, o.count) for o in named(operators, "ffn_up")} == {("q4_k", 32)}
    assert {(o.weight_type, o.count) for o in named(operators, "output")} == {("q6_k", 1)}


def test_order_is_that_of_the_graph() -> None:
    names = [operator.name for operator in lower(load_model("llama-2-7b", "q4_0"), "decode", 1, 10)]
    assert " ".join(names) == (
        "token_embd attn_norm attn_q attn_k attn_v rope_q rope_k kv_write attn_score attn_softmax attn_value "
        "attn_output attn_residual ffn_norm ffn_gate ffn_up ffn_act ffn_down ffn_residual output_norm output"
    )
    names = [operator.name for operator in lower(load_model("gpt-2-small", "q4_0"), "decode", 1, 10)]
    assert " ".join(names) == (
        "token_embd position_embd position_add attn_norm attn_qkv attn_qkv_bias kv_write attn_score attn_softmax "
        "attn_value attn_output attn_output_bias attn_residual ffn_norm ffn_up ffn_up_bias ffn_act ffn_down "
        "ffn_down_bias ffn_residual output_norm output"
    )
    names = [operator.name for operator in lower(load_model("grok-1-314b", "q4_0"), "decode", 1, 10)]
    assert "attn_post_norm" in names
    assert names.index("ffn_down_exps") < names.index("expert_sum") < names.index("ffn_post_norm")


def test_grouped_query_attention_shares_the_cache() -> None:
    """Llama 3 8B: 4 query heads share a KV head, so m is 4 and the instances are KV heads times sequences."""
    operators = lower(load_model("llama-3-8b", "q4_0"), "decode", 3, 99)
    (score,) = named(operators, "attn_score")
    assert (score.m, score.n, score.k, score.instances, score.count) == (4, 100, 128, 24, 32)
    assert score.weight_bytes == 3 * 100 * 1024 * 2
    (value,) = named(operators, "attn_value")
    assert (value.m, value.n, value.k, value.instances) == (4, 128, 100, 24)
    (multi,) = named(lower(load_model("llama-2-7b", "q4_0"), "decode", 3, 99), "attn_score")
    assert (multi.m, multi.instances) == (1, 96)


def test_cache_type_sets_cache_bytes() -> None:
    model = load_model("llama-2-7b", "q4_0").with_kv_type("q8_0")
    operators = lower(model, "decode", 1, 511)
    assert named(operators, "attn_score")[0].weight_bytes == 512 * 4096 // 32 * 34
    assert named(operators, "attn_score")[0].weight_type == "q8_0"
    assert named(operators, "kv_write")[0].write_bytes == 2 * 4096 // 32 * 34


def test_flops_of_elementwise_operators_follow_the_activation_and_the_norm() -> None:
    swiglu = named(lower(load_model("llama-2-7b", "f16"), "decode", 2, 0), "ffn_act")[0]
    gelu = named(lower(load_model("gpt-2-small", "f16"), "decode", 2, 0), "ffn_act")[0]
    assert (swiglu.read_bytes, swiglu.write_bytes) == (2 * 2 * 11008 * 4, 2 * 11008 * 4)
    assert (gelu.read_bytes, gelu.write_bytes) == (2 * 3072 * 4, 2 * 3072 * 4)
    layer = named(lower(load_model("gpt-2-small", "f16"), "decode", 2, 0), "attn_norm")[0]
    assert layer.weight_bytes == 2 * 768 * 4  # weight and bias
    assert layer.flops == 7 * 2 * 768


# A transformer that runs, counting multiplies


class Counting:
    """A tiny Llama-like decoder in numpy; `macs` counts the multiplies of every product it does, by role."""

    def __init__(self, model: ModelSpec, seed: int) -> None:
        self.model, self.macs = model, Counter[str]()
        self.generator = np.random.default_rng(seed)
        self.weights: dict[tuple[int, str], Array] = {}

    def product(self, role: str, a: Array, b: Array) -> Array:
        assert a.shape[-1] == b.shape[-2]
        self.macs[role] += int(np.prod(a.shape)) * b.shape[-1]
        result: Array = a @ b
        return result

    def weight(self, layer: int, role: str, rows: int, columns: int) -> Array:
        key = (layer, role)
        if key not in self.weights:
            self.weights[key] = self.generator.normal(size=(columns, rows)) / columns**0.5
        return self.weights[key]

    def run(self, past: int, new: int) -> None:
        """One sequence: `past` tokens are cached already (random), `new` are computed."""
        m = self.model
        x = self.generator.normal(size=(new, m.d_model))
        for layer in range(m.n_layers):
            q = self.product("attn_q", x, self.weight(layer, "q", m.n_heads * m.head_dim, m.d_model))
            k = self.product("attn_k", x, self.weight(layer, "k", m.n_kv_heads * m.head_dim, m.d_model))
            v = self.product("attn_v", x, self.weight(layer, "v", m.n_kv_heads * m.head_dim, m.d_model))
            keys = np.concatenate([self.generator.normal(size=(past, k.shape[1])), k])
            values = np.concatenate([self.generator.normal(size=(past, v.shape[1])), v])
            heads = []
            for head in range(m.n_heads):
                shared = head // (m.n_heads // m.n_kv_heads)
                part = slice(shared * m.head_dim, (shared + 1) * m.head_dim)
                query = q[:, head * m.head_dim : (head + 1) * m.head_dim]
                score = self.product("attn_score", query, keys[:, part].T)
                score[np.triu_indices(new, past + 1, past + new)] = -np.inf
                weights = np.exp(score - score.max(axis=1, keepdims=True))
                weights /= weights.sum(axis=1, keepdims=True)
                heads.append(self.product("attn_value", weights, values[:, part]))
            x = x + self.product(
                "attn_output", np.concatenate(heads, axis=1), self.weight(layer, "o", m.d_model, m.q_dim)
            )
            if layer == m.n_layers - 1:
                x = x[-1:]
            gate = self.product("ffn_gate", x, self.weight(layer, "gate", m.d_ff, m.d_model))
            up = self.product("ffn_up", x, self.weight(layer, "up", m.d_ff, m.d_model))
            x = x + self.product(
                "ffn_down", gate / (1 + np.exp(-gate)) * up, self.weight(layer, "down", m.d_model, m.d_ff)
            )
        assert np.isfinite(x).all()
        self.product("output", x, self.weight(-1, "head", m.vocab, m.d_model))


def tiny(layers: int, heads: int, kv_heads: int, head_dim: int, d: int, d_ff: int, vocab: int) -> ModelSpec:
    def matrix(name: str, n: int, k: int) -> tuple[str, WeightTensor]:
        return name, WeightTensor(f"{name}.weight", n, k, "f16")

    q, kv = heads * head_dim, kv_heads * head_dim
    layer = TensorMap(
        (
            matrix("attn_norm", 1, d),
            matrix("attn_q", q, d),
            matrix("attn_k", kv, d),
            matrix("attn_v", kv, d),
            matrix("attn_output", d, q),
            matrix("ffn_norm", 1, d),
            matrix("ffn_gate", d_ff, d),
            matrix("ffn_up", d_ff, d),
            matrix("ffn_down", d, d_ff),
        )
    )
    outside = TensorMap((matrix("token_embd", vocab, d), matrix("output_norm", 1, d), matrix("output", vocab, d)))
    return ModelSpec(
        name="tiny",
        arch="llama",
        quant="f16",
        n_layers=layers,
        d_model=d,
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=d_ff,
        vocab=vocab,
        max_context=64,
        act="swiglu",
        norm="rms",
        rope=True,
        tied_embeddings=False,
        n_experts=0,
        n_experts_used=0,
        layers=(layer,) * layers,
        globals=outside,
        source="test",
    )


@settings(max_examples=30, deadline=None)
@given(
    layers=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    head_dim=st.integers(1, 8),
    d=st.integers(3, 30),
    d_ff=st.integers(1, 40),
    batch=st.integers(1, 3),
    past=st.integers(0, 20),
    new=st.integers(1, 9),
)
def test_every_product_does_the_multiplies_of_a_real_run(
    layers: int, kv_heads: int, group: int, head_dim: int, d: int, d_ff: int, batch: int, past: int, new: int
) -> None:
    model = tiny(layers, kv_heads * group, kv_heads, head_dim, d, d_ff, vocab=50)
    reference = Counting(model, seed=layers * 100 + new)
    for _ in range(batch):
        reference.run(past, new)
    phases = ["prefill", "decode"] if new == 1 else ["prefill"]
    for phase in phases:
        found: Counter[str] = Counter()
        for operator in lower(model, phase, batch, past, new):
            if operator.kind in PRODUCTS:
                found[operator.name] += operator.total_flops // 2
        assert found == reference.macs


# Mixture of experts


def expert_tokens(operators: list[Operator], role: str) -> tuple[int, int]:
    """(tokens times experts, distinct experts) over all MoE layers."""
    found = named(operators, role)
    return sum(o.count * o.instances * o.m for o in found), sum(o.count * o.instances for o in found)


@pytest.mark.parametrize("mode", ["sampled", "balanced"])
@pytest.mark.parametrize(("name", "moe_layers", "matrices"), [("mixtral-8x7b", 32, 3), ("glam-143b", 16, 2)])
def test_experts_do_the_work_of_the_chosen_tokens(name: str, moe_layers: int, matrices: int, mode: str) -> None:
    model = load_model(name, "f16")
    for batch in (1, 7, 64):
        operators = lower(model, "decode", batch, 100, routing=Routing(mode=mode, exponent=0.7))
        roles = [role for role in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps") if role in model.layers[1]]
        assert len(roles) == matrices
        for role in roles:
            work, touched = expert_tokens(operators, role)
            assert work == moe_layers * batch * 2
            assert moe_layers * 2 <= touched <= moe_layers * min(model.n_experts, 2 * batch)
            # An expert's weights are read once, however many of the batch's tokens it has.
            streamed = sum(o.count * o.weight_bytes for o in named(operators, role))
            assert streamed == touched * model.d_model * model.d_ff * 2
        assert named(operators, "ffn_router")[0].weight_type == "f32"
        assert sum(o.count for o in named(operators, "ffn_router")) == moe_layers
        (combine,) = named(operators, "expert_sum")
        assert combine.read_bytes == 2 * combine.write_bytes


def test_one_token_uses_the_active_parameters() -> None:
    model = load_model("mixtral-8x7b", "f16")
    operators = lower(model, "decode", 1, 0)
    idle = model.vocab * model.d_model  # the input embedding
    norms = sum(tensor.elements for tensor in model.tensors() if tensor.n == 1)
    assert macs(operators, ("matmul", "router")) == model.active_params - idle - norms


def test_dense_layers_between_moe_layers() -> None:
    operators = lower(load_model("glam-143b", "f16"), "decode", 4, 10)
    assert named(operators, "ffn_up")[0].count == 16
    assert named(operators, "ffn_act")[0].count == 16
    assert named(operators, "ffn_act_exps")[0].m == 8


def test_uniform_sampling_touches_as_many_experts_as_chance_says() -> None:
    """E(distinct) = E (1 - (1 - k/E)^T); a sample of 2000 layers must be within 1 %."""
    for experts, used, tokens in ((8, 2, 1), (8, 2, 4), (64, 2, 32), (64, 2, 64)):
        routing = Routing(seed=5)
        touched = [
            sum(count > 0 for count in routing.tokens_per_expert(tokens, experts, used, layer)) for layer in range(2000)
        ]
        expected = experts * (1 - (1 - used / experts) ** tokens)
        assert np.mean(touched) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("experts", [3, 8, 64])
def test_inclusion_probability_of_two_draws(experts: int, exponent: float) -> None:
    """Closed form for two draws without replacement: first, or second after any other."""
    ranks = np.arange(1, experts + 1, dtype=float)
    w = ranks**-exponent / (ranks**-exponent).sum()
    expected = [w[e] + sum(w[j] * w[e] / (1 - w[j]) for j in range(experts) if j != e) for e in range(experts)]
    assert inclusion(exponent, experts, 2) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("experts", "used", "exponent"), [(8, 2, 1.0), (16, 4, 0.8), (5, 4, 2.0)])
def test_sampled_loads_have_the_expected_mean(experts: int, used: int, exponent: float) -> None:
    tokens = 200_000
    counts = Routing(exponent=exponent, seed=1).tokens_per_expert(tokens, experts, used, 0)
    assert np.array(counts) / tokens == pytest.approx(inclusion(exponent, experts, used), abs=0.005)


@settings(max_examples=80, deadline=None)
@given(
    mode=st.sampled_from(["sampled", "balanced"]),
    exponent=st.floats(0, 4),
    experts=st.integers(1, 16),
    used=st.integers(1, 16),
    tokens=st.integers(1, 300),
    seed=st.integers(0, 2**31),
)
def test_loads_are_possible(mode: str, exponent: float, experts: int, used: int, tokens: int, seed: int) -> None:
    used = min(used, experts)
    routing = Routing(mode, exponent, seed)
    counts = routing.tokens_per_expert(tokens, experts, used, layer=3)
    assert len(counts) == experts
    assert sum(counts) == tokens * used
    assert all(0 <= count <= tokens for count in counts)
    assert counts == routing.tokens_per_expert(tokens, experts, used, layer=3)
    if mode == "balanced":
        expected = tokens * inclusion(exponent, experts, used)
        assert np.abs(np.array(counts) - expected).max() <= 1 + 1e-6
        assert all(first >= second for first, second in pairwise(counts))
    pairs = histogram(counts)
    assert sum(tokens_each * number for tokens_each, number in pairs) == tokens * used
    assert sum(number for _, number in pairs) == sum(count > 0 for count in counts)


def test_layers_and_seeds_draw_differently_and_skew_concentrates() -> None:
    uniform = Routing(seed=1)
    assert uniform.tokens_per_expert(64, 8, 2, 0) != uniform.tokens_per_expert(64, 8, 2, 1)
    assert uniform.tokens_per_expert(64, 8, 2, 0) != Routing(seed=2).tokens_per_expert(64, 8, 2, 0)
    assert Routing("balanced").tokens_per_expert(64, 8, 2, 0) == [16] * 8
    shares = [max(Routing("balanced", s).tokens_per_expert(1000, 8, 2, 0)) for s in (0.0, 0.5, 1.0, 2.0)]
    assert all(first < second for first, second in pairwise(shares))


# Mistakes


def test_bad_arguments_are_named() -> None:
    model = load_model("llama-2-7b", "q4_0")
    for arguments, expected in (
        (("prefil", 1, 0, 4), r"phase: unknown 'prefil'; did you mean 'prefill'\? \(allowed: prefill, decode\)"),
        (("prefill", 0, 0, 4), "batch: 0 is below 1"),
        (("prefill", 1, -1, 4), "n_past: -1 is below 0"),
        (("prefill", 1, 0, 0), "n_tokens: 0 is below 1"),
        (("decode", 1, 0, 2), "n_tokens: 2, expected 1 in decode"),
        (("decode", 1, 4096, 1), r"4096 \+ 1 tokens exceed the context of llama-2-7b, 4096"),
        (("prefill", 1, 0, 4097), r"0 \+ 4097 tokens exceed the context of llama-2-7b, 4096"),
    ):
        with pytest.raises(DataError, match=expected):
            lower(model, *arguments)
    with pytest.raises(DataError, match=r"logits: unknown 'lats'; did you mean 'last'"):
        lower(model, "prefill", 1, 0, 4, logits="lats")
    assert lower(model, "decode", 1, 4095)
    for keywords, expected in (
        ({"mode": "balance"}, r"routing.mode: unknown 'balance'; did you mean 'balanced'"),
        ({"exponent": -0.1}, "routing.exponent: -0.1 is outside"),
        ({"exponent": float("nan")}, "routing.exponent: nan is outside"),
        ({"seed": -1}, "routing.seed: -1 is negative"),
    ):
        with pytest.raises(DataError, match=expected):
            Routing(**keywords)
    with pytest.raises(DataError, match="routing: 9 experts per token, expected 1 to 8"):
        Routing().tokens_per_expert(1, 8, 9, 0)
    with pytest.raises(DataError, match="tiny: n_heads = 3 must be a multiple of n_kv_heads = 2"):
        replace(tiny(1, 2, 2, 4, 8, 8, 8), n_heads=3)
