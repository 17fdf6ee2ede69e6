"""The shape table: models by name from gempim/data/models/*.toml, with the tensors a quantisation gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gempim.models.ggml import BLOCKS
from gempim.models.quant import QuantContext, check_quant, matrix_type
from gempim.models.spec import ACTIVATIONS, NORMS, POSITIONS, ModelSpec, TensorMap, WeightTensor, share_equal
from gempim.quantity import DataError, Quantity, check_keys, load_toml, parse_quantity, suggest

DATA = Path(__file__).resolve().parent.parent / "data" / "models"

COUNTS = {
    "n_layers": "layers",
    "d_model": "elements",
    "n_heads": "heads",
    "n_kv_heads": "heads",
    "head_dim": "elements",
    "d_ff": "elements",
    "vocab": "tokens",
    "max_context": "tokens",
}
"""Numbers every model has, with their unit."""

MOE_COUNTS = {"n_experts": "experts", "n_experts_used": "experts", "moe_every": "layers"}
"""Numbers of MoE models; `moe_every` = 2 means that layers 1, 3, 5 ... have experts and 0, 2, 4 ... a dense FFN."""

CHOICES = {"act": ACTIVATIONS, "norm": NORMS, "position": POSITIONS}
"""Texts with a fixed set of values."""

SWITCHES = ("tied_embeddings", "fused_qkv", "attn_bias", "ffn_bias", "post_norm")
"""Bools. `fused_qkv`: Q, K and V are one matrix; `post_norm`: a second norm after attention and after the FFN."""


@dataclass(frozen=True)
class ModelInfo:
    """One file of the shape table: every key with its provenance.

    `published_params` and `published_tolerance` (a fraction) say what the publication gives as size; a test holds the
    shapes against it.
    """

    name: str
    title: str
    arch: str
    note: str
    values: Mapping[str, Quantity]
    published_params: Quantity
    published_tolerance: Quantity

    def count(self, key: str) -> int:
        """The whole number `key`; 0 for a MoE number of a dense model."""
        quantity = self.values.get(key)
        return quantity.as_int() if quantity is not None else 0

    def text(self, key: str) -> str:
        """The text `key`."""
        return str(self.values[key].value)

    def switch(self, key: str) -> bool:
        """The bool `key`."""
        return bool(self.values[key].value)


def list_models() -> list[str]:
    """The names of the shape table, in the order of their size in parameters."""
    infos = [read_model_file(path) for path in sorted(DATA.glob("*.toml"))]
    return [info.name for info in sorted(infos, key=lambda info: info.published_params.as_float())]


def model_info(name: str) -> ModelInfo:
    """The table entry of `name`. Raises DataError, with the nearest name, for an unknown one."""
    names = sorted(path.stem for path in DATA.glob("*.toml"))
    if name not in names:
        raise DataError(
            f"unknown model {name!r}{suggest(name.lower(), names)} (in the shape table: {', '.join(list_models())}; "
            "or give the path of a GGUF file)"
        )
    return read_model_file(DATA / f"{name}.toml")


@lru_cache(maxsize=64)
def load_model(name: str, quant: str) -> ModelSpec:
    """The model `name` of the shape table with the tensor types that `quant` gives it.

    Raises DataError for an unknown name or scheme.
    """
    check_quant(quant)
    return build(model_info(name), quant)


def read_model_file(path: str | Path) -> ModelInfo:
    """Read one file of the shape table.

    Raises DataError naming the file, the key and what was expected: an unknown or missing key, a number without its
    unit or source, a value out of range, or numbers that do not go together.
    """
    file = Path(path)
    raw = load_toml(file)
    check_keys(
        raw,
        file=file,
        required=("title", "arch", *COUNTS, *CHOICES, *SWITCHES, "published_params", "published_tolerance"),
        optional=("note", *MOE_COUNTS),
    )
    for key in ("title", "arch", "note"):
        if not isinstance(raw.get(key, ""), str):
            raise DataError(f"{file}: {key}: expected text, got {raw[key]!r}")
    values: dict[str, Quantity] = {}
    for key, unit in (COUNTS | MOE_COUNTS).items():
        if key in raw:
            values[key] = _count(raw, key, unit, file)
    for key, allowed in CHOICES.items():
        values[key] = parse_quantity(raw[key], file=file, key=key)
        if values[key].value not in allowed:
            hint = suggest(str(values[key].value), allowed)
            raise DataError(f"{file}: {key}: unknown {values[key].value!r}{hint} (allowed: {', '.join(allowed)})")
    for key in SWITCHES:
        values[key] = parse_quantity(raw[key], file=file, key=key)
        if not isinstance(values[key].value, bool):
            raise DataError(f"{file}: {key}: expected true or false, got {values[key].value!r}")
    info = ModelInfo(
        name=file.stem,
        title=raw["title"],
        arch=raw["arch"],
        note=raw.get("note", ""),
        values=values,
        published_params=parse_quantity(raw["published_params"], file=file, key="published_params", unit="parameters"),
        published_tolerance=parse_quantity(
            raw["published_tolerance"], file=file, key="published_tolerance", unit="fraction"
        ),
    )
    _check_together(info, file)
    return info


def _count(raw: Mapping[str, Any], key: str, unit: str, file: Path) -> Quantity:
    quantity = parse_quantity(raw[key], file=file, key=key, unit=unit)
    if isinstance(quantity.value, bool) or not isinstance(quantity.value, int) or quantity.value < 1:
        raise DataError(f"{file}: {key}.value: expected a whole number of at least 1, got {quantity.value!r}")
    return quantity


def _check_together(info: ModelInfo, file: Path) -> None:
    heads, kv_heads = info.count("n_heads"), info.count("n_kv_heads")
    if heads % kv_heads:
        raise DataError(f"{file}: n_kv_heads: {kv_heads} must divide n_heads = {heads}")
    given = [key for key in MOE_COUNTS if key in info.values]
    if given and len(given) < len(MOE_COUNTS):
        missing = [key for key in MOE_COUNTS if key not in given]
        raise DataError(f"{file}: {given[0]}: a MoE model also needs {', '.join(missing)}")
    if info.count("n_experts_used") > info.count("n_experts"):
        raise DataError(
            f"{file}: n_experts_used: {info.count('n_experts_used')} is more than n_experts = {info.count('n_experts')}"
        )
    if given and info.switch("ffn_bias"):
        raise DataError(f"{file}: ffn_bias: must be false in a MoE model, whose experts have no biases here")
    if info.switch("fused_qkv") and heads != kv_heads:
        raise DataError(f"{file}: fused_qkv: must be false unless n_kv_heads = n_heads, got {kv_heads} and {heads}")


def build(info: ModelInfo, quant: str) -> ModelSpec:
    """The `ModelSpec` of a table entry under the scheme `quant`."""
    context = QuantContext(
        arch=info.arch,
        n_layers=info.count("n_layers"),
        gqa_group=info.count("n_heads") // info.count("n_kv_heads"),
        n_experts=info.count("n_experts"),
        tied_embeddings=info.switch("tied_embeddings"),
    )
    shapes = _Shapes(info, quant, context)
    position = info.text("position")
    return ModelSpec(
        name=info.name,
        arch=info.arch,
        quant=quant,
        n_layers=context.n_layers,
        d_model=info.count("d_model"),
        n_heads=info.count("n_heads"),
        n_kv_heads=info.count("n_kv_heads"),
        head_dim=info.count("head_dim"),
        d_ff=info.count("d_ff"),
        vocab=info.count("vocab"),
        max_context=info.count("max_context"),
        act=info.text("act"),
        norm=info.text("norm"),
        rope=position == "rope",
        tied_embeddings=context.tied_embeddings,
        n_experts=info.count("n_experts"),
        n_experts_used=info.count("n_experts_used"),
        layers=share_equal(shapes.layer(index) for index in range(context.n_layers)),
        globals=shapes.outside(),
        source=f"gempim/data/models/{info.name}.toml, quantised by the rules of gempim/models/quant.py",
    )


class _Shapes:
    """Collects the tensors of one model."""

    def __init__(self, info: ModelInfo, quant: str, context: QuantContext) -> None:
        self.info = info
        self.quant = quant
        self.context = context
        self.d = info.count("d_model")
        self.bias_norm = info.text("norm") == "layer"

    def matrix(self, role: str, n: int, k: int, layer: int = 0, experts: int = 1) -> tuple[str, WeightTensor]:
        ggml_type = matrix_type(self.quant, role, k, layer, self.context)
        return role, WeightTensor(f"{role}.weight", n, k, ggml_type, experts)

    def bias(self, role: str, length: int) -> tuple[str, WeightTensor]:
        return f"{role}_bias", WeightTensor(f"{role}.bias", 1, length, "f32")

    def norm(self, role: str) -> list[tuple[str, WeightTensor]]:
        entries = [(role, WeightTensor(f"{role}.weight", 1, self.d, "f32"))]
        # A LayerNorm has a bias, an RMSNorm has none.
        return [*entries, self.bias(role, self.d)] if self.bias_norm else entries

    def outside(self) -> TensorMap:
        info = self.info
        entries = [self.matrix("token_embd", info.count("vocab"), self.d)]
        if info.text("position") == "learned":
            entries.append(self.matrix("position_embd", info.count("max_context"), self.d))
        entries += self.norm("output_norm")
        if not info.switch("tied_embeddings"):
            entries.append(self.matrix("output", info.count("vocab"), self.d))
        return TensorMap(tuple(entries))

    def layer(self, index: int) -> TensorMap:
        info, d = self.info, self.d
        q = info.count("n_heads") * info.count("head_dim")
        kv = info.count("n_kv_heads") * info.count("head_dim")
        bias = info.switch("attn_bias")
        entries = self.norm("attn_norm")
        parts = (
            [("attn_qkv", q + 2 * kv)] if info.switch("fused_qkv") else [("attn_q", q), ("attn_k", kv), ("attn_v", kv)]
        )
        for role, rows in parts:
            entries.append(self.matrix(role, rows, d, index))
            if bias:
                entries.append(self.bias(role, rows))
        entries.append(self.matrix("attn_output", d, q, index))
        if bias:
            entries.append(self.bias("attn_output", d))
        if info.switch("post_norm"):
            entries += self.norm("attn_post_norm")
        entries += self.norm("ffn_norm")
        entries += self.ffn(index)
        if info.switch("post_norm"):
            entries += self.norm("ffn_post_norm")
        return TensorMap(tuple(entries))

    def ffn(self, index: int) -> list[tuple[str, WeightTensor]]:
        info, d, d_ff = self.info, self.d, self.info.count("d_ff")
        gated = info.text("act") in ("swiglu", "geglu")
        every = info.count("moe_every")
        entries: list[tuple[str, WeightTensor]] = []
        if every and index % every == every - 1:
            experts = info.count("n_experts")
            entries.append(self.matrix("ffn_gate_inp", experts, d, index))
            if gated:
                entries.append(self.matrix("ffn_gate_exps", d_ff, d, index, experts))
            entries.append(self.matrix("ffn_up_exps", d_ff, d, index, experts))
            entries.append(self.matrix("ffn_down_exps", d, d_ff, index, experts))
            return entries
        bias = info.switch("ffn_bias")
        parts = [("ffn_up", d_ff, d), ("ffn_down", d, d_ff)]
        for role, rows, k in ([("ffn_gate", d_ff, d)] if gated else []) + parts:
            entries.append(self.matrix(role, rows, k, index))
            if bias:
                entries.append(self.bias(role, rows))
        return entries


def describe_model(name: str, quant: str | None = None) -> list[dict[str, str | int | float | bool]]:
    """What the table knows of `name`, one row a key: key, value, unit, scope, kind, source.

    With `quant` also what follows from it: stored bytes, bits per weight, bytes by tensor type. Raises DataError for an
    unknown name or scheme.
    """
    info = model_info(name)
    rows: list[dict[str, str | int | float | bool]] = [
        {"key": "title", "value": info.title, "unit": "", "scope": "model", "kind": "", "source": info.note},
        {"key": "arch", "value": info.arch, "unit": "", "scope": "model", "kind": "", "source": ""},
    ]
    entries = {**info.values, "published_params": info.published_params}
    for key, item in entries.items():
        rows.append(
            {
                "key": key,
                "value": item.value,
                "unit": item.unit,
                "scope": item.scope,
                "kind": item.kind,
                "source": item.source,
            }
        )
    model = build(info, quant or "f16")
    derived: list[tuple[str, int | float, str]] = [
        ("params", model.params, "parameters"),
        ("active_params", model.active_params, "parameters"),
    ]
    if quant is not None:
        derived.append((f"bytes ({quant})", model.bytes, "bytes"))
        derived.append((f"bits_per_weight ({quant})", round(model.bits_per_weight, 4), "bits"))
        for ggml_type, size in model.bytes_by_type().items():
            source_bits = 8 * BLOCKS[ggml_type][1] / BLOCKS[ggml_type][0]
            derived.append((f"bytes in {ggml_type} tensors ({source_bits:g} bits a weight)", size, "bytes"))
    for key, value, unit in derived:
        source = "sum over the tensors of the model"
        rows.append({"key": key, "value": value, "unit": unit, "scope": "model", "kind": "derived", "source": source})
    return rows
