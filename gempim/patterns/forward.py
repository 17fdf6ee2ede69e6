"""A small numpy forward pass of a Llama-family GGUF that shows the input activation of every matmul.

It exists to measure activations, not to be fast: one sequence at a time, float32 weights held in memory (4 bytes a
parameter), a float16 KV cache as llama.cpp's default. With ``quantize_activations`` each matmul input is first
rounded through the 8-bit block format llama.cpp's CPU backend pairs with the weight type, so that the logits are
comparable with llama.cpp's.

NOT_MODELLED below lists the differences that remain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gempim.patterns.gguf_file import open_gguf
from gempim.patterns.quantize import ACTIVATION_TYPE_OF_WEIGHT, round_trip

Floats = NDArray[np.float32]
Observer = Callable[[str, int, Floats], None]
"""Called as observe(role, layer, x): x is the float32 [m, k] input of the matmul, before any quantisation."""

NOT_MODELLED = (
    "llama.cpp's q8_1 block sum is rounded to float16 before it meets the weight minimum; here the product is exact",
    "the order of float32 additions differs from llama.cpp's vector kernels",
    "RoPE scaling, mixtures of experts, attention biases and sliding windows: such a GGUF is refused",
)

ATTENTION_MATMULS = ("attn_q", "attn_k", "attn_v", "attn_output")
FFN_MATMULS = ("ffn_gate", "ffn_up", "ffn_down")


class ForwardError(ValueError):
    """A model this forward pass cannot run, or a call with shapes that do not fit; the text says which and why."""


@dataclass(frozen=True)
class LlamaConfig:
    """Shape of a Llama-family model; every field is an element count except ``rope_base`` and ``norm_eps``."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab: int
    rope_dims: int
    rope_base: float
    norm_eps: float

    def __post_init__(self) -> None:
        for name in ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab"):
            if getattr(self, name) < 1:
                raise ForwardError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.n_heads % self.n_kv_heads:
            raise ForwardError(f"n_heads: expected a multiple of n_kv_heads {self.n_kv_heads}, got {self.n_heads}")
        if self.rope_dims % 2 or not 0 < self.rope_dims <= self.head_dim:
            raise ForwardError(f"rope_dims: expected even and in 2..{self.head_dim}, got {self.rope_dims}")


class KvCache:
    """Keys and values of one sequence, float16 as llama.cpp's default cache types: [n_layers, capacity, kv, dim]."""

    def __init__(self, config: LlamaConfig, capacity: int) -> None:
        shape = (config.n_layers, capacity, config.n_kv_heads, config.head_dim)
        self.keys: NDArray[np.float16] = np.zeros(shape, dtype=np.float16)
        self.values: NDArray[np.float16] = np.zeros(shape, dtype=np.float16)
        self.length = 0

    @property
    def capacity(self) -> int:
        """Tokens the cache can hold."""
        return int(self.keys.shape[1])


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """Root-mean-square norm over the last axis: x * rsqrt(mean(x^2) + eps) * weight; [m, k] -> [m, k]."""
    scale = 1.0 / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(eps))
    return np.asarray(x * scale * weight, dtype=np.float32)


def rope(x: Floats, positions: NDArray[np.int64], base: float, dims: int) -> Floats:
    """Rotary embedding, llama.cpp's NORM convention: adjacent pairs (2i, 2i+1) turn by position * base^(-2i/dims).

    The q and k weights of an arch "llama" GGUF are permuted by the converter for exactly this pairing.
    x is [m, heads, head_dim]; elements from ``dims`` on pass through.
    """
    angles = positions[:, None].astype(np.float64) * base ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
    cos = np.cos(angles).astype(np.float32)[:, None, :]
    sin = np.sin(angles).astype(np.float32)[:, None, :]
    even, odd = x[..., 0:dims:2], x[..., 1:dims:2]
    turned = x.copy()
    turned[..., 0:dims:2] = even * cos - odd * sin
    turned[..., 1:dims:2] = even * sin + odd * cos
    return turned


def grouped_attention(q: Floats, keys: Floats, values: Floats, n_past: int) -> Floats:
    """Causal grouped-query attention.

    q is [m, n_heads, d]; keys and values are [n_past + m, n_kv_heads, d]; query row i sees keys 0..n_past+i; query
    head h reads KV head h // (n_heads / n_kv_heads). Returns [m, n_heads * d].
    """
    m, n_heads, dim = q.shape
    n_keys, n_kv, _ = keys.shape
    grouped = q.reshape(m, n_kv, n_heads // n_kv, dim).transpose(1, 2, 0, 3)
    scores = grouped @ keys.transpose(1, 2, 0)[:, None] / np.float32(np.sqrt(dim))
    hidden = np.arange(n_keys)[None, :] > n_past + np.arange(m)[:, None]
    scores = np.where(hidden, np.float32(-np.inf), scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = weights @ values.transpose(1, 0, 2)[:, None]
    return np.ascontiguousarray(mixed.transpose(2, 0, 1, 3), dtype=np.float32).reshape(m, n_heads * dim)


def silu(x: Floats) -> Floats:
    """x * sigmoid(x); the exponent is clipped at -80, where float32 sigmoid is zero to all digits."""
    return np.asarray(x / (1.0 + np.exp(np.minimum(-x, np.float32(80.0)))), dtype=np.float32)


def expected_tensors(config: LlamaConfig, tied: bool) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape ([n, k] for weights) of a plain Llama-family GGUF."""
    c = config
    q_rows, kv_rows = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (c.vocab, c.d_model), "output_norm.weight": (c.d_model,)}
    if not tied:
        shapes["output.weight"] = (c.vocab, c.d_model)
    for layer in range(c.n_layers):
        for name, shape in {
            "attn_norm": (c.d_model,),
            "attn_q": (q_rows, c.d_model),
            "attn_k": (kv_rows, c.d_model),
            "attn_v": (kv_rows, c.d_model),
            "attn_output": (c.d_model, q_rows),
            "ffn_norm": (c.d_model,),
            "ffn_gate": (c.d_ff, c.d_model),
            "ffn_up": (c.d_ff, c.d_model),
            "ffn_down": (c.d_model, c.d_ff),
        }.items():
            shapes[f"blk.{layer}.{name}.weight"] = shape
    return shapes


class LlamaForward:
    """A Llama-family model ready to run.

    ``tensors`` maps GGUF tensor names to float32 arrays, ``types`` the same names to their ggml type in lower case
    ("q4_1"); ``types`` only decides how activations are rounded. Raises ForwardError when a tensor is missing,
    surplus or of the wrong shape.
    """

    def __init__(
        self,
        config: LlamaConfig,
        tensors: Mapping[str, Floats],
        types: Mapping[str, str],
        *,
        quantize_activations: bool,
    ) -> None:
        self.config = config
        self.tied = "output.weight" not in tensors
        self.quantize_activations = quantize_activations
        shapes = expected_tensors(config, self.tied)
        if missing := sorted(shapes.keys() - tensors.keys()):
            raise ForwardError(f"tensor {missing[0]} is missing ({len(missing)} in all)")
        if surplus := sorted(tensors.keys() - shapes.keys()):
            raise ForwardError(f"tensor {surplus[0]} is not part of a plain Llama-family model, so it would be ignored")
        for name, shape in shapes.items():
            if tensors[name].shape != shape:
                raise ForwardError(f"tensor {name}: expected shape {shape}, got {tensors[name].shape}")
            if quantize_activations and types[name] not in ACTIVATION_TYPE_OF_WEIGHT:
                known = ", ".join(sorted(ACTIVATION_TYPE_OF_WEIGHT))
                raise ForwardError(f"tensor {name}: no activation format known for type {types[name]} (known: {known})")
        self._tensors = tensors
        self._types = types

    @classmethod
    def from_gguf(cls, path: Path, *, quantize_activations: bool) -> LlamaForward:
        """Read and dequantise every tensor of an arch "llama" GGUF (4 bytes of memory a parameter).

        Raises GgufFileError for a damaged file, ForwardError for one that uses something not modelled.
        """
        import gguf

        reader = open_gguf(path)
        rows = {tensor.name: int(tensor.shape[-1]) for tensor in reader.tensors}
        fields = {
            # The tokenizer's lists are long, and no business of the forward pass.
            name: field.contents()
            for name, field in reader.fields.items()
            if not name.startswith("tokenizer.")
        }
        try:
            config = config_from_fields(fields, vocab=rows.get("token_embd.weight", 0))
            tensors: dict[str, Floats] = {}
            types: dict[str, str] = {}
            for tensor in reader.tensors:
                types[tensor.name] = tensor.tensor_type.name.lower()
                tensors[tensor.name] = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
            return cls(config, tensors, types, quantize_activations=quantize_activations)
        except (ForwardError, NotImplementedError) as err:
            # NotImplementedError: a tensor type the gguf package cannot expand.
            raise ForwardError(f"{path}: {err}") from err

    def new_cache(self, capacity: int) -> KvCache:
        """An empty KV cache for one sequence of up to ``capacity`` tokens."""
        return KvCache(self.config, capacity)

    def run(
        self, tokens: list[int], cache: KvCache, *, observe: Observer | None = None, all_logits: bool = False
    ) -> Floats:
        """Run ``tokens`` after what ``cache`` already holds and return float32 logits [1 or m, vocab].

        Only the last token's logits are computed unless ``all_logits``; ``observe`` then sees the "output" matmul
        with as many rows. The layer number given to ``observe`` for "output" is n_layers.
        Raises ForwardError for an empty or too long run or a token outside the vocabulary.
        """
        c = self.config
        ids = np.asarray(tokens, dtype=np.int64)
        if ids.ndim != 1 or ids.size == 0:
            raise ForwardError(f"tokens: expected a non-empty list of ids, got shape {ids.shape}")
        if ids.min() < 0 or ids.max() >= c.vocab:
            raise ForwardError(f"tokens: expected ids in 0..{c.vocab - 1}, got {ids.min()}..{ids.max()}")
        n_past, m = cache.length, ids.size
        if n_past + m > cache.capacity:
            raise ForwardError(f"cache: {n_past} + {m} tokens do not fit its capacity of {cache.capacity}")
        positions = np.arange(n_past, n_past + m)

        def matmul(role: str, layer: int, x: Floats, name: str) -> Floats:
            if observe is not None:
                observe(role, layer, x)
            if self.quantize_activations:
                x = round_trip(x, ACTIVATION_TYPE_OF_WEIGHT[self._types[name]])
            return np.asarray(x @ self._tensors[name].T, dtype=np.float32)

        hidden = self._tensors["token_embd.weight"][ids]
        for layer in range(c.n_layers):

            def block(role: str, x: Floats, layer: int = layer) -> Floats:
                return matmul(role, layer, x, f"blk.{layer}.{role}.weight")

            x = rms_norm(hidden, self._tensors[f"blk.{layer}.attn_norm.weight"], c.norm_eps)
            q = rope(block("attn_q", x).reshape(m, c.n_heads, c.head_dim), positions, c.rope_base, c.rope_dims)
            k = rope(block("attn_k", x).reshape(m, c.n_kv_heads, c.head_dim), positions, c.rope_base, c.rope_dims)
            cache.keys[layer, n_past : n_past + m] = k
            cache.values[layer, n_past : n_past + m] = block("attn_v", x).reshape(m, c.n_kv_heads, c.head_dim)
            seen_keys = cache.keys[layer, : n_past + m].astype(np.float32)
            seen_values = cache.values[layer, : n_past + m].astype(np.float32)
            hidden = hidden + block("attn_output", grouped_attention(q, seen_keys, seen_values, n_past))
            x = rms_norm(hidden, self._tensors[f"blk.{layer}.ffn_norm.weight"], c.norm_eps)
            hidden = hidden + block("ffn_down", silu(block("ffn_gate", x)) * block("ffn_up", x))
        cache.length += m
        x = rms_norm(hidden if all_logits else hidden[-1:], self._tensors["output_norm.weight"], c.norm_eps)
        return matmul("output", c.n_layers, x, "token_embd.weight" if self.tied else "output.weight")


def config_from_fields(fields: Mapping[str, Any], vocab: int) -> LlamaConfig:
    """Build the config from GGUF key/value pairs and the rows of the token embedding (old files give no vocab_size).

    Raises ForwardError naming the key when it is missing or asks for something not modelled.
    """

    def need(key: str) -> Any:
        if key not in fields:
            raise ForwardError(f"GGUF key {key} is missing")
        return fields[key]

    if need("general.architecture") != "llama":
        raise ForwardError(f"general.architecture: expected llama, got {fields['general.architecture']}")
    if fields.get("llama.expert_count", 0):
        raise ForwardError("llama.expert_count: mixtures of experts are not modelled here")
    if fields.get("llama.rope.scaling.type", "none") != "none":
        raise ForwardError(f"llama.rope.scaling.type: {fields['llama.rope.scaling.type']} is not modelled here")
    n_heads, d_model = int(need("llama.attention.head_count")), int(need("llama.embedding_length"))
    head_dim = int(fields.get("llama.attention.key_length", d_model // n_heads))
    return LlamaConfig(
        n_layers=int(need("llama.block_count")),
        d_model=d_model,
        n_heads=n_heads,
        # Defaults of the GGUF specification: no head_count_kv means one KV head a query head; RoPE base 10000.
        n_kv_heads=int(fields.get("llama.attention.head_count_kv", n_heads)),
        head_dim=head_dim,
        d_ff=int(need("llama.feed_forward_length")),
        vocab=vocab,
        rope_dims=int(fields.get("llama.rope.dimension_count", head_dim)),
        rope_base=float(fields.get("llama.rope.freq_base", 10000.0)),
        norm_eps=float(need("llama.attention.layer_norm_rms_epsilon")),
    )
