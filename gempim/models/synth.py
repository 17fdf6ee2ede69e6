"""A GGUF file with the layer shapes of a real model and random weights, for simulations that need no meaning.

Time and energy of a dense model follow from shapes and types, not from what the weights say; the exception is a pattern
reuse table, whose hits follow from the activations, so that its statistics need a real model (`gempim.patterns`).
llama.cpp loads the file and generates from it; `gempim.synth.*` keys say what it stands for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_VERSION, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, LlamaFileType

from gempim.models.ggml import BLOCKS, MATMUL_TYPES
from gempim.models.quant import MIXES, QuantContext, matrix_type
from gempim.models.shapes import list_models, load_model
from gempim.models.spec import ModelSpec, WeightTensor
from gempim.models.synth_blocks import WEIGHT_STD, ones, random_tensor
from gempim.models.synth_vocab import BOS, EOS, MIN_VOCAB, UNK, vocabulary
from gempim.quantity import DataError, suggest

RMS_EPS = 1e-5
"""Llama 2, Llama 3 and SmolLM2 have this one (config.json: rms_norm_eps)."""

ROPE_BASE = 10000.0
"""Llama 2's. The shape table has none: it changes angles, not work, and random weights have no use for the true one."""

FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
    "q5_k": LlamaFileType.MOSTLY_Q5_K_S,
    "q5_1": LlamaFileType.MOSTLY_Q5_1,
    "q5_0": LlamaFileType.MOSTLY_Q5_0,
    "q4_k": LlamaFileType.MOSTLY_Q4_K_S,
    "q4_1": LlamaFileType.MOSTLY_Q4_1,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
    "q3_k": LlamaFileType.MOSTLY_Q3_K_S,
    "q2_k": LlamaFileType.MOSTLY_Q2_K_S,
}
"""`general.file_type`: what ``llama-quantize --pure`` writes for a file all of one type."""

MAX_SEED = (1 << 64) - 1

Progress = Callable[[int, int], None]
"""Called with the bytes written and the bytes in all."""


@dataclass(frozen=True)
class SynthModel:
    """What a file holds: its tensors as (name, tensor) in the order of the file, and what it stands for.

    `model` is the real model, all layers; `layers` and `vocab` are the file's. `notes` are for the user: which tensors
    have another type than the one asked for.
    """

    model: ModelSpec
    quant: str
    layers: int
    vocab: int
    seed: int
    tensors: tuple[tuple[str, WeightTensor], ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the tensors; the file adds its metadata."""
        return sum(tensor.bytes for _, tensor in self.tensors)


def plan(
    shape: str,
    quant: str,
    *,
    layers: int | None = None,
    vocab: int | None = None,
    seed: int = 0,
    head_quant: str | None = None,
) -> SynthModel:
    """The file that the arguments ask for, without writing it.

    `shape` is a name of the shape table, `quant` a ggml type for all matrices, `head_quant` one for the matrix that
    makes the logits (`output`, or `token_embd` where the two are tied). `layers` (the first ones) and `vocab` are the
    model's own without a number. A type whose blocks do not fit a tensor's rows is replaced as llama.cpp does it.

    Raises DataError naming the argument and what was expected.
    """
    kind = _type_name(quant, "--quant")
    head = _type_name(head_quant, "--head-quant") if head_quant is not None else kind
    if shape not in list_models():
        hint = suggest(shape.lower(), list_models())
        raise DataError(f"--shape {shape}: not in the shape table{hint} (there: {', '.join(list_models())})")
    model = load_model(shape, "f32")
    if model.arch != "llama" or model.is_moe:
        what = "a mixture of experts" if model.arch == "llama" else f"of the architecture {model.arch!r}"
        raise DataError(f"--shape {shape}: {what}, expected a dense model of the llama architecture")
    layers = model.n_layers if layers is None else layers
    if not 1 <= layers <= model.n_layers:
        raise DataError(f"--layers {layers}: expected 1 to {model.n_layers}, the layers of {shape}")
    vocab = model.vocab if vocab is None else vocab
    if not MIN_VOCAB <= vocab <= model.vocab:
        raise DataError(
            f"--vocab {vocab}: expected {MIN_VOCAB} (256 bytes, <unk>, <s>, </s> and the space) to {model.vocab}, the "
            f"vocabulary of {shape}"
        )
    if not 0 <= seed <= MAX_SEED:
        raise DataError(f"--seed {seed}: expected 0 to {MAX_SEED}")
    head_role = "token_embd" if model.tied_embeddings else "output"
    fallbacks: dict[tuple[str, str, int], list[str]] = {}

    def typed(role: str, tensor: WeightTensor) -> WeightTensor:
        if tensor.n == 1:
            return tensor
        wanted = head if role == head_role else kind
        found = _fitting(wanted, tensor.k)
        if found != wanted:
            roles = fallbacks.setdefault((wanted, found, tensor.k), [])
            if role not in roles:
                roles.append(role)
        rows = vocab if role in ("token_embd", "output") else tensor.n
        return WeightTensor(tensor.name, rows, tensor.k, found)

    tensors = [(tensor.name, typed(role, tensor)) for role, tensor in model.globals.items()]
    for index, layer in enumerate(model.layers[:layers]):
        tensors += [(f"blk.{index}.{tensor.name}", typed(role, tensor)) for role, tensor in layer.items()]
    notes = tuple(
        f"{', '.join(roles)}: {found} instead of {wanted}, as in llama.cpp: rows of {k} elements are not whole blocks "
        f"of {BLOCKS[wanted][0]}"
        for (wanted, found, k), roles in fallbacks.items()
    )
    return SynthModel(model, kind, layers, vocab, seed, tuple(tensors), notes)


def _type_name(name: str, option: str) -> str:
    kind = name.lower()
    if kind in MIXES:
        raise DataError(f"{option} {name}: a mixture of types, expected one type (all matrices get it): {MIXES[kind]}?")
    if kind not in MATMUL_TYPES:
        hint = suggest(kind, MATMUL_TYPES)
        raise DataError(f"{option} {name}: unknown type{hint} (allowed: {', '.join(MATMUL_TYPES)})")
    return kind


def _fitting(kind: str, k: int) -> str:
    """`kind`, or what llama.cpp's quantiser falls back to for rows of `k` elements."""
    # ffn_up has no rule of its own, so what is left of quant.py's rules is the fallback.
    plain = QuantContext(arch="llama", n_layers=1, gqa_group=1, n_experts=0, tied_embeddings=False)
    return matrix_type(kind, "ffn_up", k, 0, plain)


def write(synth: SynthModel, out: str | Path, progress: Progress | None = None) -> Path:
    """Write the file `out` and return its path. The same `synth` gives the same bytes.

    It is written aside and renamed at the end: a failure leaves nothing, and an older file as it was. Some ten
    megabytes of memory are used, whatever the size. Raises DataError when it cannot be written.
    """
    target = Path(out)
    total = synth.bytes
    try:
        if target.is_dir():
            raise DataError(f"--out {target}: a folder, expected a file name")
        if not target.parent.is_dir():
            raise DataError(f"--out {target}: the folder {target.parent} is not there")
        free = shutil.disk_usage(target.parent).free
        if free < total:
            raise DataError(f"--out {target}: the file needs {total / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".synth-") as folder:
            aside = Path(folder) / "model.gguf"
            with _header(synth, aside) as file:
                done = 0
                for name, tensor in synth.tensors:
                    for piece in _data(name, tensor, synth.seed):
                        file.write(piece)
                        done += len(piece)
                        if progress is not None:
                            progress(done, total)
                    _pad(file)
            aside.replace(target)
    except OSError as error:
        raise DataError(f"--out {target}: cannot be written: {error.strerror or error}") from error
    return target


def _data(name: str, tensor: WeightTensor, seed: int) -> Iterator[bytes]:
    if tensor.n == 1:
        # The only vectors of the dense llama graph are weights of norms.
        yield ones(tensor.k)
    else:
        yield from random_tensor(name, tensor.ggml_type, tensor.elements, seed)


def _pad(file: IO[bytes]) -> None:
    file.write(bytes(-file.tell() % GGUF_DEFAULT_ALIGNMENT))


@contextmanager
def _header(synth: SynthModel, path: Path) -> Iterator[IO[bytes]]:
    """Write metadata and tensor table, and give the file, open where the data starts."""
    writer = gguf.GGUFWriter(path, "llama")
    try:
        _metadata(writer, synth)
        _tokenizer(writer, synth.vocab)
        for name, tensor in synth.tensors:
            shape = (tensor.k,) if tensor.n == 1 else (tensor.n, tensor.k)
            kind = GGMLQuantizationType[tensor.ggml_type.upper()]
            # With any dtype but uint8 the shape counts elements; raw_dtype is what is stored.
            writer.add_tensor_info(name, shape, np.dtype(np.float32), tensor.bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    with path.open("ab") as file:
        _pad(file)
        yield file


def _metadata(writer: gguf.GGUFWriter, synth: SynthModel) -> None:
    model = synth.model
    writer.add_name(f"{model.name}-synth")
    writer.add_description(
        f"Random weights (seed {synth.seed}) in the shapes of {model.name}: {synth.layers} of {model.n_layers} layers, "
        f"{synth.vocab} of {model.vocab} tokens. Made by gempim for simulation; it says nothing."
    )
    writer.add_file_type(FILE_TYPES[synth.quant])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_context_length(model.max_context)
    writer.add_embedding_length(model.d_model)
    writer.add_block_count(synth.layers)
    writer.add_feed_forward_length(model.d_ff)
    writer.add_head_count(model.n_heads)
    writer.add_head_count_kv(model.n_kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_layer_norm_rms_eps(RMS_EPS)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(synth.vocab)
    writer.add_string("gempim.synth.shape", model.name)
    writer.add_uint32("gempim.synth.layers_of_model", model.n_layers)
    writer.add_uint32("gempim.synth.vocab_of_model", model.vocab)
    writer.add_uint64("gempim.synth.seed", synth.seed)
    writer.add_float32("gempim.synth.weight_std", WEIGHT_STD)


def _tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    table = vocabulary(size)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(table.tokens)
    writer.add_token_scores(table.scores)
    writer.add_token_types(table.types)
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
