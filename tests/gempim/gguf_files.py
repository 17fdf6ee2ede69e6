"""Small, valid GGUF files for tests, written with `gguf.GGUFWriter` and random tensor data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np


def ggml_type(name: str) -> gguf.GGMLQuantizationType:
    return getattr(gguf.GGMLQuantizationType, name.upper())


@dataclass
class TinyModel:
    """Hyperparameters and tensors of a file; a test changes what it wants before `write`."""

    arch: str = "llama"
    n_layers: int = 2
    d_model: int = 64
    n_heads: int = 4
    n_kv_heads: int = 2
    d_ff: int = 96
    vocab: int = 40
    n_experts: int = 0
    n_experts_used: int = 0
    tied: bool = False
    biases: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    drop_keys: set[str] = field(default_factory=set)
    tensors: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        d, head = self.d_model, self.d_model // self.n_heads
        kv = self.n_kv_heads * head
        # Shapes in numpy's order (rows first), a different type for each role so that a mix-up shows.
        add = self.tensors
        add["token_embd.weight"] = ((self.vocab, d), "q5_0")
        add["output_norm.weight"] = ((d,), "f32")
        if not self.tied:
            add["output.weight"] = ((self.vocab, d), "q8_0")
        for layer in range(self.n_layers):
            blk = f"blk.{layer}."
            add[f"{blk}attn_norm.weight"] = ((d,), "f32")
            add[f"{blk}ffn_norm.weight"] = ((d,), "f32")
            add[f"{blk}attn_q.weight"] = ((d, d), "q4_0")
            add[f"{blk}attn_k.weight"] = ((kv, d), "q4_1")
            # Layers differ, as in the _M mixtures.
            add[f"{blk}attn_v.weight"] = ((kv, d), "q5_1" if layer else "q8_0")
            add[f"{blk}attn_output.weight"] = ((d, d), "f16")
            if self.biases:
                add[f"{blk}attn_q.bias"] = ((d,), "f32")
                add[f"{blk}attn_k.bias"] = ((kv,), "f32")
                add[f"{blk}attn_v.bias"] = ((kv,), "f32")
            if self.n_experts:
                add[f"{blk}ffn_gate_inp.weight"] = ((self.n_experts, d), "f32")
                add[f"{blk}ffn_gate_exps.weight"] = ((self.n_experts, self.d_ff, d), "q4_0")
                add[f"{blk}ffn_up_exps.weight"] = ((self.n_experts, self.d_ff, d), "q4_0")
                add[f"{blk}ffn_down_exps.weight"] = ((self.n_experts, d, self.d_ff), "q5_0")
            else:
                add[f"{blk}ffn_gate.weight"] = ((self.d_ff, d), "q4_0")
                add[f"{blk}ffn_up.weight"] = ((self.d_ff, d), "q4_0")
                add[f"{blk}ffn_down.weight"] = ((d, self.d_ff), "q5_0")
        prefix = self.arch
        self.metadata = {
            "general.name": "Tiny",
            f"{prefix}.block_count": self.n_layers,
            f"{prefix}.context_length": 128,
            f"{prefix}.embedding_length": d,
            f"{prefix}.feed_forward_length": self.d_ff,
            f"{prefix}.attention.head_count": self.n_heads,
            f"{prefix}.attention.head_count_kv": self.n_kv_heads,
            "tokenizer.ggml.tokens": [f"token{index}" for index in range(self.vocab)],
            "tokenizer.ggml.scores": [float(index) for index in range(self.vocab)],
            **({f"{prefix}.expert_count": self.n_experts} if self.n_experts else {}),
            **({f"{prefix}.expert_used_count": self.n_experts_used} if self.n_experts else {}),
        }

    def write(self, path: Path, seed: int = 7) -> Path:
        """Write the file and return its path."""
        generator = np.random.default_rng(seed)
        writer = gguf.GGUFWriter(path, self.arch)
        for key, value in self.metadata.items():
            if key not in self.drop_keys:
                _add(writer, key, value)
        for name, (shape, kind) in self.tensors.items():
            block, size = gguf.GGML_QUANT_SIZES[ggml_type(kind)]
            if kind in ("f32", "f16"):
                writer.add_tensor(
                    name, generator.normal(size=shape).astype(np.float32 if kind == "f32" else np.float16)
                )
            else:
                raw = generator.integers(0, 256, size=(*shape[:-1], shape[-1] // block * size), dtype=np.uint8)
                writer.add_tensor(name, raw, raw_dtype=ggml_type(kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
