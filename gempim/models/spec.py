"""What a model is to the simulator: its shapes and the stored type of every tensor.

A `ModelSpec` comes from a GGUF file (`gempim.models.gguf_reader`) or from the shape table (`gempim.models.shapes`);
the rest of gempim cannot tell which. Weights themselves are never loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from gempim.models.ggml import KV_TYPES, row_bytes
from gempim.quantity import DataError, suggest

ACTIVATIONS = ("swiglu", "geglu", "gelu", "relu")
"""FFN activations. The two gated ones have a third FFN matrix (`ffn_gate`)."""

NORMS = ("rms", "layer")

POSITIONS = ("rope", "learned", "none")


@dataclass(frozen=True)
class WeightTensor:
    """One stored tensor: `count` matrices (experts) of `n` output rows with `k` elements each.

    Vectors (norm weights, biases) have n = 1. `name` is the GGUF name; for a tensor of a layer without its ``blk.N.``.
    """

    name: str
    n: int
    k: int
    ggml_type: str
    count: int = 1

    @property
    def elements(self) -> int:
        """Stored elements, all experts together."""
        return self.n * self.k * self.count

    @property
    def matrix_bytes(self) -> int:
        """Bytes of one of the `count` matrices."""
        return self.n * row_bytes(self.ggml_type, self.k)

    @property
    def bytes(self) -> int:
        """Stored bytes, all experts together."""
        return self.count * self.matrix_bytes


@dataclass(frozen=True)
class TensorMap(Mapping[str, WeightTensor]):
    """The tensors of one layer (or of the model outside its layers) by role, for example ``attn_q`` or ``ffn_down``.

    Roles are llama.cpp's tensor names without ``blk.N.`` and ``.weight``; ``.bias`` becomes ``_bias``. Immutable and
    hashable, so that equal layers can share one object and a `ModelSpec` can be a cache key.
    """

    entries: tuple[tuple[str, WeightTensor], ...]

    @classmethod
    def of(cls, tensors: Mapping[str, WeightTensor]) -> TensorMap:
        """The map with the entries of `tensors`, in their order."""
        return cls(tuple(tensors.items()))

    def __getitem__(self, role: str) -> WeightTensor:
        for name, tensor in self.entries:
            if name == role:
                return tensor
        raise KeyError(role)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def is_moe(self) -> bool:
        """True when the FFN of this layer is a set of experts."""
        return "ffn_down_exps" in self


@dataclass(frozen=True)
class ModelSpec:
    """A model: hyperparameters and tensors.

    `quant` is the scheme the model was made with ("q4_0", "q4_k_m") or what the GGUF file says of itself; the types
    that count are those of the tensors. `params` counts stored elements, as llama.cpp does: a tied embedding once,
    experts all. `kv_type` is the type K and V are cached in.
    """

    name: str
    arch: str
    quant: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab: int
    max_context: int
    act: str
    norm: str
    rope: bool
    tied_embeddings: bool
    n_experts: int
    n_experts_used: int
    layers: tuple[TensorMap, ...]
    globals: TensorMap
    source: str
    kv_type: str = "f16"

    def __post_init__(self) -> None:
        if self.act not in ACTIVATIONS:
            raise DataError(f"{self.name}: act: unknown {self.act!r}{suggest(self.act, ACTIVATIONS)} {ACTIVATIONS}")
        if self.norm not in NORMS:
            raise DataError(f"{self.name}: norm: unknown {self.norm!r} (allowed: {', '.join(NORMS)})")
        if self.kv_type not in KV_TYPES:
            raise DataError(
                f"{self.name}: kv_type: unknown {self.kv_type!r}{suggest(self.kv_type, KV_TYPES)} "
                f"(allowed: {', '.join(KV_TYPES)})"
            )
        if self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads:
            raise DataError(
                f"{self.name}: n_heads = {self.n_heads} must be a multiple of n_kv_heads = {self.n_kv_heads}"
            )
        if len(self.layers) != self.n_layers:
            raise DataError(f"{self.name}: {len(self.layers)} layers of tensors for n_layers = {self.n_layers}")
        row_bytes(self.kv_type, self.kv_dim)

    @property
    def q_dim(self) -> int:
        """Elements of all query heads of one token."""
        return self.n_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Elements of K (and of V) of one token in one layer."""
        return self.n_kv_heads * self.head_dim

    @property
    def gqa_group(self) -> int:
        """Query heads that share one KV head (1 for MHA)."""
        return self.n_heads // self.n_kv_heads

    @property
    def gated(self) -> bool:
        """True when the FFN has a gate matrix (SwiGLU, GeGLU)."""
        return self.act in ("swiglu", "geglu")

    @property
    def is_moe(self) -> bool:
        """True when any layer has experts."""
        return self.n_experts > 0

    def tensors(self) -> Iterator[WeightTensor]:
        """Every stored tensor, the ones outside the layers first."""
        yield from self.globals.values()
        for layer in self.layers:
            yield from layer.values()

    @property
    def params(self) -> int:
        """Stored elements of all tensors."""
        return _total(self, lambda tensor: tensor.elements)

    @property
    def active_params(self) -> int:
        """Stored elements that one token uses: `n_experts_used` experts of each expert tensor, all else whole."""
        return _total(
            self,
            lambda tensor: tensor.elements // tensor.count * min(tensor.count, max(self.n_experts_used, 1)),
        )

    @property
    def bytes(self) -> int:
        """Stored bytes of all tensors (llama-bench's `model_size`; a GGUF file adds its metadata)."""
        return _total(self, lambda tensor: tensor.bytes)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per parameter over the whole model."""
        return 8 * self.bytes / self.params

    def bytes_by_type(self) -> dict[str, int]:
        """Stored bytes by tensor type, largest first."""
        totals: dict[str, int] = {}
        for tensor in self.tensors():
            totals[tensor.ggml_type] = totals.get(tensor.ggml_type, 0) + tensor.bytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of K and V of `tokens` cached tokens, all layers."""
        return 2 * self.n_layers * tokens * row_bytes(self.kv_type, self.kv_dim)

    def with_kv_type(self, kv_type: str) -> ModelSpec:
        """The same model with K and V cached in `kv_type`. Raises DataError for a type outside KV_TYPES."""
        return replace(self, kv_type=kv_type)


def share_equal(layers: Iterable[TensorMap]) -> tuple[TensorMap, ...]:
    """The layers as a tuple in which equal layers are one object, so that a model of 96 equal layers stores one."""
    seen: dict[TensorMap, TensorMap] = {}
    return tuple(seen.setdefault(layer, layer) for layer in layers)


def _total(model: ModelSpec, value: Callable[[WeightTensor], int]) -> int:
    # Equal layers are summed once: a sweep asks for these totals often.
    total = sum(value(tensor) for tensor in model.globals.values())
    per_layer: dict[TensorMap, int] = {}
    for layer in model.layers:
        if layer not in per_layer:
            per_layer[layer] = sum(value(tensor) for tensor in layer.values())
        total += per_layer[layer]
    return total
