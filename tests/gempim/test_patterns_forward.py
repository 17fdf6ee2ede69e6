"""The numpy forward pass on tiny random models, against scalar loops in float64 written from the model's definition."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from gempim.patterns.forward import (
    ForwardError,
    LlamaConfig,
    LlamaForward,
    config_from_fields,
    expected_tensors,
    grouped_attention,
    rms_norm,
    rope,
    silu,
)
from gempim.patterns.gguf_file import GgufFileError
from gempim.patterns.tokenizer import Tokenizer, TokenizerError, split_words

CONFIG = LlamaConfig(
    n_layers=2,
    d_model=32,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    d_ff=64,
    vocab=40,
    rope_dims=8,
    rope_base=500.0,
    norm_eps=1e-5,
)


def random_tensors(config: LlamaConfig, tied: bool, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(0, 0.4, shape) + (1.0 if len(shape) == 1 else 0.0)).astype(np.float32)
        for name, shape in expected_tensors(config, tied).items()
    }


def float_model(tied: bool = True) -> LlamaForward:
    tensors = random_tensors(CONFIG, tied)
    return LlamaForward(CONFIG, tensors, dict.fromkeys(tensors, "f32"), quantize_activations=False)


def naive_rope(vector: list[float], position: int, base: float, dims: int) -> list[float]:
    out = list(vector)
    for pair in range(dims // 2):
        angle = position / base ** (2 * pair / dims)
        a, b = vector[2 * pair], vector[2 * pair + 1]
        out[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def naive_norm(vector: list[float], weight: np.ndarray, eps: float) -> list[float]:
    mean_square = sum(v * v for v in vector) / len(vector)
    return [v / math.sqrt(mean_square + eps) * float(w) for v, w in zip(vector, weight, strict=True)]


def product(weight: np.ndarray, vector: list[float]) -> list[float]:
    return [sum(float(w) * v for w, v in zip(row, vector, strict=True)) for row in weight]


def naive_logits(config: LlamaConfig, t: dict[str, np.ndarray], tokens: list[int]) -> list[list[float]]:
    """Token by token, head by head, element by element; the KV cache is rounded to float16 as llama.cpp's is."""
    keys: dict[tuple[int, int], list[list[float]]] = {}
    values: dict[tuple[int, int], list[list[float]]] = {}
    d = config.head_dim
    rows = []
    for position, token in enumerate(tokens):
        x = [float(v) for v in t["token_embd.weight"][token]]
        for layer in range(config.n_layers):
            w = {role: t[f"blk.{layer}.{role}.weight"] for role in ("attn_norm", "attn_q", "attn_k", "attn_v")}
            h = naive_norm(x, w["attn_norm"], config.norm_eps)
            q, k, v = product(w["attn_q"], h), product(w["attn_k"], h), product(w["attn_v"], h)
            for head in range(config.n_kv_heads):
                turned = naive_rope(k[head * d : head * d + d], position, config.rope_base, config.rope_dims)
                keys.setdefault((layer, head), []).append([float(np.float16(e)) for e in turned])
                values.setdefault((layer, head), []).append([float(np.float16(e)) for e in v[head * d : head * d + d]])
            mixed: list[float] = []
            for head in range(config.n_heads):
                kv = (layer, head // (config.n_heads // config.n_kv_heads))
                query = naive_rope(q[head * d : head * d + d], position, config.rope_base, config.rope_dims)
                scores = [sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(d) for key in keys[kv]]
                exps = [math.exp(score - max(scores)) for score in scores]
                mixed += [
                    sum(e * value[i] for e, value in zip(exps, values[kv], strict=True)) / sum(exps) for i in range(d)
                ]
            x = [a + b for a, b in zip(x, product(t[f"blk.{layer}.attn_output.weight"], mixed), strict=True)]
            h = naive_norm(x, t[f"blk.{layer}.ffn_norm.weight"], config.norm_eps)
            gate, up = product(t[f"blk.{layer}.ffn_gate.weight"], h), product(t[f"blk.{layer}.ffn_up.weight"], h)
            inner = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up, strict=True)]
            x = [a + b for a, b in zip(x, product(t[f"blk.{layer}.ffn_down.weight"], inner), strict=True)]
        head_weight = t.get("output.weight", t["token_embd.weight"])
        rows.append(product(head_weight, naive_norm(x, t["output_norm.weight"], config.norm_eps)))
    return rows


@pytest.mark.parametrize("tied", [True, False])
def test_whole_model_equals_scalar_loops(tied: bool) -> None:
    tokens = [3, 17, 17, 0, 39, 8]
    tensors = random_tensors(CONFIG, tied, seed=3)
    model = LlamaForward(CONFIG, tensors, dict.fromkeys(tensors, "f32"), quantize_activations=False)
    logits = model.run(tokens, model.new_cache(8), all_logits=True)
    expected = np.array(naive_logits(CONFIG, tensors, tokens))
    assert np.abs(logits - expected).max() < 2e-2 * expected.std()  # float16 rounding of a key may fall the other way
    assert np.sqrt(((logits - expected) ** 2).mean()) < 2e-3 * expected.std()


def test_token_by_token_equals_all_at_once() -> None:
    model = float_model()
    tokens = [5, 1, 30, 22, 5]
    whole = model.run(tokens, model.new_cache(5), all_logits=True)
    cache = model.new_cache(5)
    single = np.concatenate([model.run([token], cache) for token in tokens])
    assert np.abs(whole - single).max() < 1e-2 * whole.std()
    assert cache.length == 5


def test_rope_partial_dims_and_interleaved_pairs() -> None:
    x = np.random.default_rng(2).normal(size=(3, 2, 8)).astype(np.float32)
    positions = np.array([0, 4, 9])
    turned = rope(x, positions, 100.0, 6)
    for row, position in enumerate(positions):
        for head in range(2):
            expected = naive_rope([float(v) for v in x[row, head]], int(position), 100.0, 6)
            assert turned[row, head] == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(turned[0], x[0])
    assert np.array_equal(turned[..., 6:], x[..., 6:])


def test_rms_norm_and_silu() -> None:
    rng = np.random.default_rng(7)
    x, weight = rng.normal(0, 3, (2, 16)).astype(np.float32), rng.normal(1, 0.2, 16).astype(np.float32)
    for row in range(2):
        assert rms_norm(x, weight, 0.5)[row] == pytest.approx(naive_norm([float(v) for v in x[row]], weight, 0.5), 1e-5)
    points = np.array([-100.0, -3.0, 0.25, 4.0, 90.0], dtype=np.float32)
    assert silu(points) == pytest.approx([p / (1 + math.exp(-p)) for p in points.tolist()], rel=1e-5, abs=1e-30)


def test_attention_hides_the_future() -> None:
    rng = np.random.default_rng(11)
    q = rng.normal(size=(3, 4, 8)).astype(np.float32)
    keys, values = (rng.normal(size=(5, 2, 8)).astype(np.float32) for _ in range(2))
    before = grouped_attention(q, keys, values, n_past=2)
    keys[4], values[4] = 50.0, -50.0
    after = grouped_attention(q, keys, values, n_past=2)
    assert np.array_equal(before[:2], after[:2])
    assert not np.allclose(before[2], after[2])


def test_observer_sees_each_matmul_input_and_quantising_changes_the_result() -> None:
    tensors = random_tensors(CONFIG, tied=True, seed=9)
    types = {name: "q8_0" if tensor.ndim == 2 else "f32" for name, tensor in tensors.items()}
    model = LlamaForward(CONFIG, tensors, types, quantize_activations=True)
    seen: list[tuple[str, int, tuple[int, ...]]] = []
    rounded = model.run(
        [1, 2, 3], model.new_cache(3), observe=lambda role, layer, x: seen.append((role, layer, x.shape))
    )
    one_layer = [
        ("attn_q", (3, 32)),
        ("attn_k", (3, 32)),
        ("attn_v", (3, 32)),
        ("attn_output", (3, 32)),
        ("ffn_gate", (3, 32)),
        ("ffn_up", (3, 32)),
        ("ffn_down", (3, 64)),
    ]
    expected = [(role, layer, shape) for layer in range(2) for role, shape in one_layer] + [("output", 2, (1, 32))]
    assert sorted(seen) == sorted(expected)
    model.quantize_activations = False
    exact = model.run([1, 2, 3], model.new_cache(3))
    assert 1e-4 * exact.std() < np.sqrt(((rounded - exact) ** 2).mean()) < 0.1 * exact.std()


def test_wrong_models_are_refused_by_name() -> None:
    tensors = random_tensors(CONFIG, tied=True)
    types = dict.fromkeys(tensors, "f32")
    less = {name: tensor for name, tensor in tensors.items() if name != "blk.1.ffn_up.weight"}
    more = {**tensors, "blk.0.attn_q.bias": np.ones(32, dtype=np.float32)}
    bent = {**tensors, "output_norm.weight": np.ones(31, dtype=np.float32)}
    for given, message in (
        (less, r"blk\.1\.ffn_up\.weight is missing"),
        (more, r"blk\.0\.attn_q\.bias is not part"),
        (bent, r"output_norm\.weight: expected shape \(32,\), got \(31,\)"),
    ):
        with pytest.raises(ForwardError, match=message):
            LlamaForward(CONFIG, given, types, quantize_activations=False)
    with pytest.raises(ForwardError, match="no activation format known for type iq2_xs"):
        LlamaForward(CONFIG, tensors, dict.fromkeys(tensors, "iq2_xs"), quantize_activations=True)


def test_wrong_calls_are_refused() -> None:
    model = float_model()
    with pytest.raises(ForwardError, match="non-empty"):
        model.run([], model.new_cache(4))
    with pytest.raises(ForwardError, match=r"ids in 0\.\.39, got 2\.\.40"):
        model.run([2, 40], model.new_cache(4))
    with pytest.raises(ForwardError, match=r"0 \+ 3 tokens do not fit its capacity of 2"):
        model.run([1, 2, 3], model.new_cache(2))


FIELDS = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 500.0,
}


def test_config_from_gguf_fields() -> None:
    assert config_from_fields(FIELDS, vocab=40) == CONFIG
    without = {key: value for key, value in FIELDS.items() if key != "llama.block_count"}
    with pytest.raises(ForwardError, match=r"llama\.block_count is missing"):
        config_from_fields(without, vocab=40)
    for key, value in (
        ("general.architecture", "gpt2"),
        ("llama.expert_count", 8),
        ("llama.rope.scaling.type", "yarn"),
        ("llama.attention.head_count_kv", 3),
    ):
        with pytest.raises(ForwardError, match=key.rsplit(".", 1)[-1].replace("head_count_kv", "n_heads")):
            config_from_fields({**FIELDS, key: value}, vocab=40)


def test_a_gguf_file_runs_as_its_tensors_do(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "tiny.gguf"
    tensors = random_tensors(CONFIG, tied=False, seed=21)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            packed = gguf.quantize(tensor, q8_0)
            tensors[name] = gguf.dequantize(packed, q8_0)
            writer.add_tensor(name, packed, raw_dtype=q8_0)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    from_file = LlamaForward.from_gguf(path, quantize_activations=False)
    config = dataclasses.replace(CONFIG, norm_eps=float(np.float32(1e-5)))  # GGUF stores float32
    assert from_file.config == config
    direct = LlamaForward(config, tensors, dict.fromkeys(tensors, "f32"), quantize_activations=False)
    ids = [4, 9, 33]
    assert np.array_equal(from_file.run(ids, from_file.new_cache(3)), direct.run(ids, direct.new_cache(3)))

    with pytest.raises(TokenizerError, match=r"tiny\.gguf: tokenizer\.ggml\.model: expected 'gpt2', got None"):
        Tokenizer.from_gguf(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(GgufFileError, match=r"tiny\.gguf: not a readable GGUF"):
        LlamaForward.from_gguf(path, quantize_activations=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'll pay 1234 dollars", ["I", "'ll", " pay", " ", "1", "2", "3", "4", " dollars"]),
        ("a  b\n\n\nc", ["a", " ", " b", "\n\n", "\n", "c"]),
        ('"Oh!" she--', ['"', "Oh", '!"', " she", "--"]),
        ("tail \t ", ["tail", " \t "]),
        ("x½ ü²é", ["x", "½", " ü", "²", "é"]),
    ],
)
def test_splitting_rule(text: str, words: list[str]) -> None:
    assert split_words(text) == words
    assert "".join(split_words(text)) == text


def test_merges_apply_by_rank_then_from_the_left() -> None:
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["a", "b", "c", "aa", "ab", "aab", "Ġ", "Ġa"],
        "tokenizer.ggml.merges": ["a b", "a a", "aa b", "Ġ a"],
    }
    tokenizer = Tokenizer(fields)
    assert tokenizer.encode("aab") == [0, 4]
    assert tokenizer.encode("aaa") == [3, 0]
    assert tokenizer.encode("c a") == [2, 7]
    with pytest.raises(TokenizerError, match="no token for 'z'"):
        tokenizer.encode("z")
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.pre: expected 'smollm', got 'llama-bpe'"):
        Tokenizer({**fields, "tokenizer.ggml.pre": "llama-bpe"})
