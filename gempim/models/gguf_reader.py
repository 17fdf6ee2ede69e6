"""A model from a GGUF file of the Llama family: shapes, and the stored type of every tensor."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from gguf.constants import LlamaFileType

from gempim.models.gguf_header import GgufError, GgufHeader, GgufTensor, SkippedArray, read_header
from gempim.models.spec import ModelSpec, TensorMap, WeightTensor, share_equal
from gempim.quantity import suggest

ARCHITECTURES = {
    "llama": "Llama, Llama 2, Llama 3, Mistral, Mixtral, SmolLM and what llama.cpp converts to the same graph",
    "qwen2": "Qwen 1.5, 2 and 2.5 (the same graph with biases on Q, K and V)",
}
"""`general.architecture` values whose graph gempim lowers, with the models that carry them."""

MAX_HYPERPARAMETER = 1 << 31
"""No dimension of a known model is near this; beyond it products leave the range of llama.cpp's own 64-bit counts."""

_REQUIRED = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm")
_DENSE = ("ffn_gate", "ffn_up", "ffn_down")
_MOE = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_BIASES = ("attn_q_bias", "attn_k_bias", "attn_v_bias", "attn_output_bias")
_LAYER = re.compile(r"blk\.(\d+)\.(.+)", re.DOTALL)


def model_from_gguf(path: str | Path) -> ModelSpec:
    """Read the model in the GGUF file `path`.

    Each tensor keeps its own type, so mixed quantisation (Q4_K_M and the like) is what the file says it is. Tensors
    are matched strictly: a missing one, one of another shape, and one that gempim does not know (it would be left out
    of the time and the energy) are errors.

    Raises GgufError naming the file, what is wrong and what was expected.
    """
    header = read_header(path)
    return _Builder(header).spec()


class _Builder:
    def __init__(self, header: GgufHeader) -> None:
        self.header = header
        self.file = header.path
        self.arch = self.text("general.architecture")
        if self.arch not in ARCHITECTURES:
            supported = "; ".join(f"{name} ({models})" for name, models in ARCHITECTURES.items())
            raise self.fail(
                f"architecture {self.arch!r} is not supported{suggest(self.arch, ARCHITECTURES)}: {supported}"
            )

    def fail(self, what: str) -> GgufError:
        return GgufError(f"{self.file}: {what}")

    def text(self, key: str) -> str:
        value = self.header.metadata.get(key)
        if not isinstance(value, str):
            raise self.fail(f"metadata {key!r} is {'missing' if value is None else repr(value)}, expected text")
        return value

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.header.metadata.get(key)
        if value is None and default is not None:
            return default
        # Some converters write one number per layer; equal ones mean the same as a single number.
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        if value is None or isinstance(value, bool | str | float | list | SkippedArray):
            shown = "missing" if value is None else f"{str(value)[:60]!r}"
            raise self.fail(f"metadata {key!r} is {shown}, expected one whole number of at least {least}")
        if not least <= value < MAX_HYPERPARAMETER:
            raise self.fail(f"metadata {key!r} is {value}, expected {least} to {MAX_HYPERPARAMETER - 1}")
        return value

    def spec(self) -> ModelSpec:
        arch = self.arch
        if self.integer("split.count", 1, least=0) > 1:
            raise self.fail("one part of a split GGUF, expected a whole one (merge with llama-gguf-split --merge)")
        self.n_layers = self.integer(f"{arch}.block_count")
        if self.n_layers > len(self.header.tensors):
            raise self.fail(f"{arch}.block_count is {self.n_layers}, but there are {len(self.header.tensors)} tensors")
        self.d_model = self.integer(f"{arch}.embedding_length")
        self.d_ff = self.integer(f"{arch}.feed_forward_length")
        self.n_heads = self.integer(f"{arch}.attention.head_count")
        self.n_kv_heads = self.integer(f"{arch}.attention.head_count_kv", self.n_heads)
        self.max_context = self.integer(f"{arch}.context_length")
        if self.n_heads % self.n_kv_heads:
            raise self.fail(
                f"{arch}.attention.head_count is {self.n_heads}, expected a multiple of head_count_kv {self.n_kv_heads}"
            )
        if self.d_model % self.n_heads and f"{arch}.attention.key_length" not in self.header.metadata:
            raise self.fail(
                f"{arch}.embedding_length is {self.d_model}, expected a multiple of attention.head_count {self.n_heads}"
            )
        self.head_dim = self.integer(f"{arch}.attention.key_length", max(self.d_model // self.n_heads, 1))
        value_length = self.integer(f"{arch}.attention.value_length", self.head_dim)
        if value_length != self.head_dim:
            raise self.fail(f"attention.value_length is {value_length}, expected the key length {self.head_dim}")
        self.n_experts = self.integer(f"{arch}.expert_count", 0, least=0)
        self.n_experts_used = self.integer(f"{arch}.expert_used_count", 0, least=0)
        if self.n_experts_used > self.n_experts or (self.n_experts > 0 and self.n_experts_used == 0):
            raise self.fail(
                f"{arch}.expert_used_count is {self.n_experts_used}, expected 1 to expert_count {self.n_experts}"
            )
        outside, layers = self.split_tensors()
        outside_map = self.outside_tensors(outside)
        maps = share_equal(self.layer_tensors(index, layer) for index, layer in enumerate(layers))
        tied = "output" not in outside_map
        spec = ModelSpec(
            name=self.name(),
            arch=arch,
            quant="",
            n_layers=self.n_layers,
            d_model=self.d_model,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            head_dim=self.head_dim,
            d_ff=self.d_ff,
            vocab=outside_map["token_embd"].n,
            max_context=self.max_context,
            act="swiglu",
            norm="rms",
            rope=True,
            tied_embeddings=tied,
            n_experts=self.n_experts,
            n_experts_used=self.n_experts_used,
            layers=maps,
            globals=outside_map,
            source=f"GGUF file {self.file.name}",
        )
        return replace(spec, quant=self.quant_name(spec))

    def name(self) -> str:
        value = self.header.metadata.get("general.name")
        return value if isinstance(value, str) and value.strip() else self.file.stem

    def quant_name(self, spec: ModelSpec) -> str:
        """What the file says of itself (`general.file_type`); without that, the type with the most bytes."""
        value = self.header.metadata.get("general.file_type")
        if isinstance(value, int) and not isinstance(value, bool) and value in {int(kind) for kind in LlamaFileType}:
            name = LlamaFileType(value).name
            if name != "GUESSED":
                return name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
        return next(iter(spec.bytes_by_type()))

    def split_tensors(self) -> tuple[dict[str, GgufTensor], list[dict[str, GgufTensor]]]:
        outside: dict[str, GgufTensor] = {}
        layers: list[dict[str, GgufTensor]] = [{} for _ in range(self.n_layers)]
        for tensor in self.header.tensors:
            match = _LAYER.fullmatch(tensor.name)
            # An index of more digits than any layer count has is left to the error below, not to int().
            if match is None:
                outside[tensor.name] = tensor
            elif len(match[1]) < 10 and int(match[1]) < self.n_layers:
                layers[int(match[1])][match[2]] = tensor
            else:
                raise self.fail(f"tensor {tensor.name!r} is beyond {self.arch}.block_count {self.n_layers}")
        return outside, layers

    def matrix(self, tensor: GgufTensor, name: str, shape: tuple[int, ...], *, experts: int = 1) -> WeightTensor:
        if tensor.shape != shape:
            raise self.fail(f"tensor {tensor.name!r} has shape {list(tensor.shape)}, expected {list(shape)}")
        rows = shape[1] if len(shape) > 1 else 1
        return WeightTensor(name=name, n=rows, k=shape[0], ggml_type=tensor.ggml_type, count=experts)

    def outside_tensors(self, found: dict[str, GgufTensor]) -> TensorMap:
        embedding = found.get("token_embd.weight")
        if embedding is None:
            raise self.fail("tensor 'token_embd.weight' is missing")
        if len(embedding.shape) != 2 or embedding.shape[0] != self.d_model:
            raise self.fail(
                f"tensor 'token_embd.weight' has shape {list(embedding.shape)}, expected [{self.d_model}, vocabulary]"
            )
        vocab = self.integer(f"{self.arch}.vocab_size", embedding.shape[1])
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd": (self.d_model, vocab),
            "output_norm": (self.d_model,),
            "output": (self.d_model, vocab),
        }
        tensors: dict[str, WeightTensor] = {}
        for role, shape in shapes.items():
            tensor = found.pop(f"{role}.weight", None)
            if tensor is not None:
                tensors[role] = self.matrix(tensor, f"{role}.weight", shape)
            elif role == "output_norm":
                raise self.fail("tensor 'output_norm.weight' is missing")
        scaling = found.pop("rope_freqs.weight", None)
        if scaling is not None:
            # Llama 3.1's frequency factors: one per rotated pair.
            pairs = self.integer(f"{self.arch}.rope.dimension_count", self.head_dim) // 2
            tensors["rope_freqs"] = self.matrix(scaling, "rope_freqs.weight", (pairs,))
        if found:
            raise self.unknown(next(iter(found.values())))
        return TensorMap.of(tensors)

    def layer_tensors(self, index: int, found: dict[str, GgufTensor]) -> TensorMap:
        d, q, kv = self.d_model, self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "attn_norm": (d,),
            "attn_q": (d, q),
            "attn_k": (d, kv),
            "attn_v": (d, kv),
            "attn_output": (q, d),
            "ffn_norm": (d,),
            "ffn_gate": (d, self.d_ff),
            "ffn_up": (d, self.d_ff),
            "ffn_down": (self.d_ff, d),
            "attn_q_bias": (q,),
            "attn_k_bias": (kv,),
            "attn_v_bias": (kv,),
            "attn_output_bias": (d,),
        }
        if self.n_experts:
            shapes |= {
                "ffn_gate_inp": (d, self.n_experts),
                "ffn_gate_exps": (d, self.d_ff, self.n_experts),
                "ffn_up_exps": (d, self.d_ff, self.n_experts),
                "ffn_down_exps": (self.d_ff, d, self.n_experts),
            }
        ffn = _MOE if self.n_experts and "ffn_gate_inp.weight" in found else _DENSE
        tensors: dict[str, WeightTensor] = {}
        for role in (*_REQUIRED, *ffn, *_BIASES):
            name = f"{role.removesuffix('_bias')}.bias" if role.endswith("_bias") else f"{role}.weight"
            tensor = found.pop(name, None)
            if tensor is not None:
                tensors[role] = self.matrix(tensor, name, shapes[role], experts=(*shapes[role], 1, 1)[2])
            elif role not in _BIASES:
                old = any(re.fullmatch(r"ffn_(gate|up|down)\.\d+\.weight", other) for other in found)
                hint = " (one tensor per expert, the layout of early 2024: convert the model again)" if old else ""
                raise self.fail(f"tensor 'blk.{index}.{name}' is missing{hint}")
        if found:
            raise self.unknown(next(iter(found.values())))
        return TensorMap.of(tensors)

    def unknown(self, tensor: GgufTensor) -> GgufError:
        return self.fail(
            f"tensor {tensor.name!r} is not part of the {self.arch} graph that gempim knows; leaving it out would "
            "understate time and energy"
        )
