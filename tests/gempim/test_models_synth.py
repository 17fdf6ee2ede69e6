"""Are synthetic GGUF files what they claim: true shapes and types, sane random weights, the same bytes for a seed?"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from typer.testing import CliRunner

from gempim import cli_model
from gempim.models import load_model, synth, synth_blocks
from gempim.models.ggml import MATMUL_TYPES
from gempim.models.gguf_header import read_header
from gempim.models.gguf_reader import model_from_gguf
from gempim.models.synth_vocab import MIN_VOCAB, SPACE, vocabulary
from gempim.quantity import DataError

SMALL = {"layers": 2, "vocab": 300}


def read(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def dequantised(data: bytes, kind: str, columns: int) -> np.ndarray:
    ggml_type = gguf.GGMLQuantizationType[kind.upper()]
    block, size = gguf.GGML_QUANT_SIZES[ggml_type]
    raw = np.frombuffer(data, np.uint8).reshape(-1, columns // block * size)
    return np.asarray(gguf.quants.dequantize(raw, ggml_type)).reshape(-1, columns)


@pytest.mark.parametrize("kind", MATMUL_TYPES)
def test_weights_have_the_stated_mean_and_standard_deviation(kind: str) -> None:
    rows, columns = 1024, 2048
    data = b"".join(synth_blocks.random_tensor("blk.0.ffn_up.weight", kind, rows * columns, 5))
    weights = dequantised(data, kind, columns).astype(np.float64)
    assert weights.shape == (rows, columns)
    assert np.isfinite(weights).all()
    assert weights.std() == pytest.approx(0.02, rel=0.01)
    assert abs(weights.mean()) < 0.02 * 0.01
    assert abs(weights).max() < 0.02 * 5
    # No block leans to one side: a common offset would grow from layer to layer. 1 is what independent weights have.
    means = weights.reshape(-1, 256).mean(axis=1)
    assert 0.9 < means.std() / (0.02 / 16) < 1.5
    # No structure between rows or columns: the largest eigenvalue of W W^T / columns is that of a random matrix.
    part = weights[:256, :512]
    largest = np.linalg.eigvalsh(part @ part.T / 512)[-1] / 0.02**2
    assert largest < (1 + np.sqrt(256 / 512)) ** 2 * 1.25


@pytest.mark.parametrize(("kind", "levels"), [("q4_0", 16), ("q4_1", 16), ("q5_0", 32), ("q5_1", 32), ("q8_0", 255)])
def test_all_levels_are_used_equally(kind: str, levels: int) -> None:
    data = b"".join(synth_blocks.random_tensor("x", kind, 32 * 50_000, 1))
    weights = dequantised(data, kind, 32)
    fields = np.frombuffer(data, np.uint8).reshape(len(weights), -1)[:, :4].copy().view("<f2").astype(np.float32)
    scale, minimum = fields[:, :1], fields[:, 1:] if kind.endswith("_1") else 0
    found, counts = np.unique(np.rint((weights - minimum) / scale).astype(int), return_counts=True)
    assert len(found) == levels
    assert found[-1] - found[0] == levels - 1
    # q8_0 has no -128, so -127 comes twice as often.
    assert counts[1:].max() < 1.1 * counts[1:].min()


@pytest.mark.parametrize("kind", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"])
def test_sub_blocks_of_k_quants_have_different_scales_and_no_offset(kind: str) -> None:
    data = b"".join(synth_blocks.random_tensor("x", kind, 256 * 20_000, 1))
    parts = dequantised(data, kind, 256).astype(np.float64).reshape(-1, 8, 32)
    deviations = parts.std(axis=2)
    assert deviations.min() > 0.02 / 8
    assert len(np.unique(np.round(deviations / deviations[:, :1], 3))) > 100
    # Independent weights give 1 / sqrt(32) = 0.18; minima that do not go with their scales would give about 1.
    assert np.sqrt(np.mean((parts.mean(axis=2) / deviations) ** 2)) < 0.27


def test_the_bytes_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in MATMUL_TYPES:
        whole = list(synth_blocks.random_tensor("x", kind, 256 * 1003, 9))
        assert len(whole) == 1
        with monkeypatch.context() as patch:
            patch.setattr(synth_blocks, "CHUNK_BYTES", 10_000)
            pieces = list(synth_blocks.random_tensor("x", kind, 256 * 1003, 9))
        assert len(pieces) > 3
        assert b"".join(pieces) == whole[0]


@pytest.mark.parametrize("kind", MATMUL_TYPES)
def test_both_readers_find_the_tensors_of_the_shape_table(kind: str, tmp_path: Path) -> None:
    made = synth.plan("smollm2-135m", kind, **SMALL)
    path = synth.write(made, tmp_path / "model.gguf")
    table = load_model("smollm2-135m", kind)
    spec = model_from_gguf(path)
    assert spec.layers == table.layers[:2]
    for field in ("d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "max_context", "tied_embeddings", "rope"):
        assert getattr(spec, field) == getattr(table, field), field
    assert (spec.n_layers, spec.vocab, spec.name) == (2, 300, "smollm2-135m-synth")
    assert spec.quant.startswith(kind)
    assert spec.bytes == made.bytes

    tensors = read(path)
    assert sorted(tensors) == sorted(name for name, _ in made.tensors)
    for name, tensor in made.tensors:
        found = tensors[name]
        assert found.shape.tolist() == ([tensor.k] if tensor.n == 1 else [tensor.k, tensor.n])
        assert found.tensor_type.name.lower() == tensor.ggml_type
        assert found.n_bytes == tensor.bytes
        weights = np.asarray(gguf.quants.dequantize(found.data, found.tensor_type))
        if "norm" in name:
            assert tensor.ggml_type == "f32"
            assert (weights == 1).all()
        else:
            assert weights.std() == pytest.approx(0.02, rel=0.03)
    header = read_header(path)
    last = max(header.tensors, key=lambda tensor: tensor.offset)
    end = header.data_start + last.offset + last.bytes
    assert path.stat().st_size == -(-end // 32) * 32


def test_a_layer_of_llama_2_7b_is_written_as_published_in_bounded_memory(tmp_path: Path) -> None:
    made = synth.plan("llama-2-7b", "q4_0", layers=1, vocab=MIN_VOCAB, head_quant="q6_K")
    tracemalloc.start()
    try:
        path = synth.write(made, tmp_path / "model.gguf")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64e6 < path.stat().st_size
    # From the model's config.json, not from the shape table.
    d, ff = 4096, 11008
    expected = {
        "token_embd": ((d, 260), "Q4_0"),
        "output_norm": ((d,), "F32"),
        "output": ((d, 260), "Q6_K"),
        "blk.0.attn_norm": ((d,), "F32"),
        "blk.0.ffn_norm": ((d,), "F32"),
        "blk.0.ffn_gate": ((d, ff), "Q4_0"),
        "blk.0.ffn_up": ((d, ff), "Q4_0"),
        "blk.0.ffn_down": ((ff, d), "Q4_0"),
        **{f"blk.0.attn_{part}": ((d, d), "Q4_0") for part in ("q", "k", "v", "output")},
    }
    found = {
        name.removesuffix(".weight"): (tuple(t.shape.tolist()), t.tensor_type.name) for name, t in read(path).items()
    }
    assert found == expected


def test_metadata_says_what_the_file_is(tmp_path: Path) -> None:
    path = synth.write(synth.plan("llama-2-7b", "q4_K", layers=1, vocab=300, seed=2**64 - 1), tmp_path / "m.gguf")
    reader = gguf.GGUFReader(path)
    expected = {
        "general.architecture": "llama",
        "general.file_type": 14,
        "llama.block_count": 1,
        "llama.context_length": 4096,
        "llama.embedding_length": 4096,
        "llama.feed_forward_length": 11008,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 32,
        "llama.attention.key_length": 128,
        "llama.rope.dimension_count": 128,
        "llama.vocab_size": 300,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
        "gempim.synth.shape": "llama-2-7b",
        "gempim.synth.layers_of_model": 32,
        "gempim.synth.vocab_of_model": 32000,
        "gempim.synth.seed": 2**64 - 1,
    }
    fields = {key: reader.fields[key].contents() for key in expected}
    assert fields == expected
    description = reader.fields["general.description"].contents()
    assert "Random weights" in description
    assert "1 of 32 layers, 300 of 32000 tokens" in description
    table = vocabulary(300)
    assert reader.fields["tokenizer.ggml.tokens"].contents() == table.tokens
    assert reader.fields["tokenizer.ggml.scores"].contents() == table.scores
    assert reader.fields["tokenizer.ggml.token_type"].contents() == table.types


def test_a_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path) -> None:
    def make(name: str, **arguments: int) -> Path:
        return synth.write(synth.plan("smollm2-135m", "q4_1", **(SMALL | arguments)), tmp_path / name)

    first, second = make("a", seed=3), make("b", seed=3)
    assert first.read_bytes() == second.read_bytes()
    tensors, others = read(first), read(make("c", seed=4))
    matrices = [name for name in tensors if "norm" not in name]
    for name in matrices:
        assert (tensors[name].data != others[name].data).mean() > 0.9, name
    assert (tensors["blk.0.ffn_up.weight"].data != tensors["blk.1.ffn_up.weight"].data).mean() > 0.9
    assert (tensors["blk.0.ffn_up.weight"].data != tensors["blk.0.ffn_gate.weight"].data).mean() > 0.9
    longer = read(make("d", seed=3, layers=3, vocab=400))
    for name in matrices:
        assert (longer[name].data[: len(tensors[name].data)] == tensors[name].data).all(), name


@pytest.mark.parametrize(
    ("kind", "fallback"), [("q2_K", "q4_0"), ("q3_K", "q4_0"), ("q4_K", "q5_0"), ("q5_K", "q5_1"), ("q6_K", "q8_0")]
)
def test_types_that_do_not_fit_fall_back_as_in_llama_cpp(kind: str, fallback: str) -> None:
    # 576 columns are no whole 256-blocks, the 1536 of ffn_down are.
    made = synth.plan("smollm2-135m", kind, layers=1)
    types = {name: tensor.ggml_type for name, tensor in made.tensors if "norm" not in name}
    assert types.pop("blk.0.ffn_down.weight") == kind.lower()
    assert set(types.values()) == {fallback}
    (note,) = made.notes
    assert note.startswith("token_embd, attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up: ")
    assert f"{fallback} instead of {kind.lower()}" in note
    assert synth.plan("llama-2-7b", kind, layers=1).notes == ()


def test_the_head_may_have_its_own_type() -> None:
    types = {name: tensor.ggml_type for name, tensor in synth.plan("llama-3-8b", "q4_0", head_quant="q6_k").tensors}
    assert (types["output.weight"], types["token_embd.weight"]) == ("q6_k", "q4_0")
    tied = synth.plan("smollm2-135m", "q4_0", head_quant="q6_k")
    assert dict(tied.tensors)["token_embd.weight"].ggml_type == "q8_0"
    assert [note.split(",")[0] for note in tied.notes] == ["token_embd: q8_0 instead of q6_k"]


def test_defaults_are_the_whole_model() -> None:
    for shape in ("llama-2-7b", "llama-2-70b", "llama-3-8b", "smollm2-135m"):
        made = synth.plan(shape, "q8_0")
        assert sum(tensor.elements for _, tensor in made.tensors) == load_model(shape, "f16").params


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "llama-2-7"}, "--shape llama-2-7: not in the shape table.*llama-2-7b"),
        ({"shape": "mixtral-8x7b"}, "--shape mixtral-8x7b: a mixture of experts, expected a dense model of the llama"),
        ({"shape": "gpt-2-small"}, "--shape gpt-2-small: of the architecture 'gpt2', expected a dense"),
        ({"quant": "q4_2"}, "--quant q4_2: unknown type.*allowed: f32, .*q2_k"),
        ({"quant": "q4_k_m"}, "--quant q4_k_m: a mixture of types, expected one type .*: q4_k"),
        ({"head_quant": "q9"}, "--head-quant q9: unknown type"),
        ({"layers": 0}, "--layers 0: expected 1 to 32, the layers of llama-2-7b"),
        ({"layers": 33}, "--layers 33: expected 1 to 32"),
        ({"vocab": 259}, r"--vocab 259: expected 260 \(256 bytes.*\) to 32000"),
        ({"vocab": 32001}, "--vocab 32001: expected 260"),
        ({"seed": -1}, "--seed -1: expected 0 to"),
        ({"seed": 2**64}, "--seed 18446744073709551616: expected 0 to"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, str | int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        synth.plan(**({"shape": "llama-2-7b", "quant": "q4_0"} | arguments))  # type: ignore[arg-type]


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = synth.plan("smollm2-135m", "q4_0", layers=1, vocab=300)
    with pytest.raises(DataError, match=r"--out .*: a folder, expected a file name"):
        synth.write(made, tmp_path)
    with pytest.raises(DataError, match=r"--out .*the folder .*nowhere is not there"):
        synth.write(made, tmp_path / "nowhere" / "m.gguf")
    with pytest.raises(DataError, match=r"--out .*cannot be written: File name too long"):
        synth.write(made, tmp_path / ("m" * 300))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
        with pytest.raises(DataError, match=r"--out .*the file needs 0.0 GB, 0.0 GB are free"):
            synth.write(made, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_dies_leaves_the_old_file(tmp_path: Path) -> None:
    made = synth.plan("smollm2-135m", "q4_0", layers=1, vocab=300)
    target = tmp_path / "m.gguf"
    target.write_text("old")
    steps = []

    def die(done: int, total: int) -> None:
        steps.append(done)
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synth.write(made, target, die)
    assert len(steps) > 2
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    synth.write(made, target)
    assert model_from_gguf(target).n_layers == 1
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("size", [MIN_VOCAB, 300, 2048, 32000, 128256])
def test_every_piece_of_the_vocabulary_can_be_reached(size: int) -> None:
    table = vocabulary(size)
    assert len(table.tokens) == len(table.scores) == len(table.types) == size
    assert len(set(table.tokens)) == size
    assert table.tokens[:3] == ["<unk>", "<s>", "</s>"]
    assert table.tokens[3:259] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert table.types == [2, 3, 3] + [6] * 256 + [1] * (size - 259)
    pieces = table.tokens[259:]
    assert pieces[0] == SPACE
    assert all(first > second for first, second in zip(table.scores[259:], table.scores[260:], strict=False))
    # Joining a pair needs both parts as tokens; single characters come from the text.
    known = set(pieces)
    for piece in pieces:
        assert len(piece) == 1 or piece[:-1] in known, piece
    assert table.tokens == vocabulary(size + 1).tokens[:-1]


def gempim(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gempim.cli", "model", "synth", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_prints_the_path_and_notes_apart(tmp_path: Path) -> None:
    shape = ("--shape", "smollm2-135m", "--layers", "1", "--vocab", "300", "--seed", "8")
    done = gempim(*shape, "--quant", "q4_0", "--out", "m.gguf", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "m.gguf\n", "")
    made = synth.plan("smollm2-135m", "q4_0", layers=1, vocab=300, seed=8)
    assert (tmp_path / "m.gguf").read_bytes() == synth.write(made, tmp_path / "again.gguf").read_bytes()
    done = gempim(*shape, "--quant", "q4_K", "--head-quant", "q8_0", "--out", "k.gguf", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "k.gguf\n")
    assert done.stderr.startswith("note: attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up: q5_0 instead of q4_k")
    assert len(done.stderr.splitlines()) == 1


def test_the_command_explains_errors_on_one_line(tmp_path: Path) -> None:
    done = gempim("--shape", "llama-2-7b", "--quant", "q4_0", "--layers", "0", "--out", "m.gguf", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gempim: --layers 0: expected 1 to 32, the layers of llama-2-7b\n"
    assert list(tmp_path.iterdir()) == []


def test_large_files_get_a_progress_bar_on_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_model, "BAR_BYTES", 10**6)
    out = str(tmp_path / "bar.gguf")
    arguments = ["synth", "--shape", "smollm2-135m", "--quant", "q4_0", "--layers", "1", "--vocab", "300", "--out", out]
    done = CliRunner().invoke(cli_model.model_app, arguments)
    assert done.exit_code == 0
    assert done.stdout == f"{out}\n"
    assert "bar.gguf: 100%" in done.stderr
