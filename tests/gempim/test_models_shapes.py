"""Are the models of the shape table the published ones, in parameters and in stored bytes, and are its errors clear?"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from gempim.models import describe_model, list_models, list_quants, load_model, model_info
from gempim.models.ggml import BLOCKS, bits_per_weight, row_bytes
from gempim.models.quant import MIXES
from gempim.models.shapes import DATA, read_model_file
from gempim.quantity import DataError

GIB = 2**30

# Written down here once more, from the model cards and checkpoints, so that a slip in a data file cannot hide.
PUBLISHED = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "smollm2-135m": 134_515_008,
    "gpt-2-small": 124_439_808,
    "gpt-2-medium": 354_823_168,
    "gpt-2-large": 774_030_080,
    "gpt-2-xl": 1_557_611_200,
    "mixtral-8x7b": 46_702_792_704,
}

# Rounded in the publication: (parameters, tolerance that the rounding allows).
ROUNDED = {
    "gpt-3-small": (125e6, 0.004),
    "gpt-3-medium": (350e6, 0.02),
    "gpt-3-large": (760e6, 0.007),
    "gpt-3-xl": (1.3e9, 0.02),
    "gpt-3-175b": (174.6e9, 0.001),
    "opt-66b": (66e9, 0.008),
    "glam-143b": (143e9, 0.004),
    "grok-1-314b": (314e9, 0.006),
}


def test_the_table_is_the_set_the_tests_know() -> None:
    assert sorted(list_models()) == sorted([*PUBLISHED, *ROUNDED])


@pytest.mark.parametrize(("name", "params"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(name: str, params: int) -> None:
    assert load_model(name, "f16").params == params
    assert model_info(name).published_params.value == params
    assert model_info(name).published_tolerance.value == 0


@pytest.mark.parametrize(("name", "expected"), ROUNDED.items())
def test_parameter_counts_are_near_the_rounded_ones(name: str, expected: tuple[float, float]) -> None:
    params, tolerance = expected
    assert load_model(name, "f16").params == pytest.approx(params, rel=tolerance)


@pytest.mark.parametrize("name", [*PUBLISHED, *ROUNDED])
def test_parameter_counts_meet_the_files_own_claim(name: str) -> None:
    info = model_info(name)
    claim, tolerance = info.published_params.as_float(), info.published_tolerance.as_float()
    assert load_model(name, "q4_0").params == pytest.approx(claim, rel=max(tolerance, 1e-12))


@pytest.mark.parametrize(
    ("name", "billions", "tolerance"),
    [
        ("mixtral-8x7b", 12.9, 0.003),  # Mixtral paper, section 1: 13B active; model card: 12.9B
        ("glam-143b", 9.8, 0.02),  # GLaM paper, table 4: 9.8B; Duplex's two-matrix FFN (see the note) has a little less
        ("llama-2-7b", 6.738, 0.001),
    ],
)
def test_active_parameters(name: str, billions: float, tolerance: float) -> None:
    assert load_model(name, "f16").active_params == pytest.approx(billions * 1e9, rel=tolerance)


@pytest.mark.parametrize(("quant", "gib"), [("q4_0", 3.56), ("q4_k_m", 3.80), ("q8_0", 6.67), ("f16", 12.55)])
def test_llama_7b_file_sizes(quant: str, gib: float) -> None:
    """llama.cpp PR 3776. The files add the vocabulary (under 1 MiB), the figures are rounded to 0.01."""
    assert load_model("llama-2-7b", quant).bytes / GIB == pytest.approx(gib, abs=0.0061)


@pytest.mark.parametrize(
    ("quant", "bits"),
    [
        ("q2_k_mix", 3.16),
        ("q3_k_s", 3.64),
        ("q4_k_s", 4.67),
        ("q4_k_m", 4.89),
        ("q5_k_s", 5.57),
        ("q5_k_m", 5.70),
        ("q6_k", 6.56),
        ("q8_0", 8.50),
    ],
)
def test_llama_3_8b_bits_per_weight(quant: str, bits: float) -> None:
    """llama.cpp tools/quantize README, measured on Llama 3.1 8B (the same shapes): every mixture, to the digit."""
    assert load_model("llama-3-8b", quant).bits_per_weight == pytest.approx(bits, abs=0.0051)


def test_type_sizes_are_ggmls() -> None:
    """Bytes and elements of a block, from ggml-common.h (facts of llama.cpp), against what the package says."""
    sizes = {
        "q4_0": (32, 18),
        "q4_1": (32, 20),
        "q5_0": (32, 22),
        "q5_1": (32, 24),
        "q8_0": (32, 34),
        "q2_k": (256, 84),
        "q3_k": (256, 110),
        "q4_k": (256, 144),
        "q5_k": (256, 176),
        "q6_k": (256, 210),
        "f16": (1, 2),
        "f32": (1, 4),
    }
    for name, size in sizes.items():
        assert BLOCKS[name] == size
    assert row_bytes("q4_0", 4096) == 2304
    assert bits_per_weight("q3_k") == 3.4375
    with pytest.raises(DataError, match="a row of 4100 elements is not a whole number of q4_0 blocks of 32"):
        row_bytes("q4_0", 4100)
    with pytest.raises(DataError, match=r"unknown tensor type 'q4_O'"):
        row_bytes("q4_O", 4096)


# Quantisation rules (llama.cpp src/llama-quant.cpp)


def types(name: str, quant: str, role: str) -> list[str]:
    return [layer[role].ggml_type for layer in load_model(name, quant).layers]


@pytest.mark.parametrize("quant", list_quants())
@pytest.mark.parametrize("name", ["llama-2-7b", "smollm2-135m", "gpt-2-xl", "mixtral-8x7b", "opt-66b"])
def test_every_quantisation_of_every_kind_of_model_has_whole_blocks_and_f32_vectors(name: str, quant: str) -> None:
    model = load_model(name, quant)
    for tensor in model.tensors():
        assert tensor.k % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[tensor.ggml_type.upper()]][0] == 0
        if tensor.n == 1 or "gate_inp" in tensor.name or tensor.name == "position_embd.weight":
            assert tensor.ggml_type == "f32"
    assert model.quant == quant


@pytest.mark.parametrize("quant", ["q2_k", "q3_k", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0"])
def test_a_bare_type_is_every_matrix_but_the_logits(quant: str) -> None:
    model = load_model("llama-2-7b", quant)
    assert model.globals["output"].ggml_type == ("q8_0" if quant == "q8_0" else "q6_k")
    assert model.globals["token_embd"].ggml_type == quant
    for role in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        assert set(types("llama-2-7b", quant, role)) == {quant}


def test_tied_embeddings_get_the_type_of_the_logits() -> None:
    assert load_model("gpt-2-small", "q4_0").globals["token_embd"].ggml_type == "q6_k"
    assert load_model("gpt-2-small", "q8_0").globals["token_embd"].ggml_type == "q8_0"
    # 576 and 1600 are not whole blocks of 256.
    assert load_model("smollm2-135m", "q4_0").globals["token_embd"].ggml_type == "q8_0"
    assert load_model("gpt-2-xl", "q4_k").globals["token_embd"].ggml_type == "q8_0"


@pytest.mark.parametrize(
    ("quant", "fallback"), [("q2_k", "q4_0"), ("q3_k", "q4_0"), ("q4_k", "q5_0"), ("q5_k", "q5_1"), ("q6_k", "q8_0")]
)
def test_rows_that_are_no_whole_k_blocks_fall_back(quant: str, fallback: str) -> None:
    assert set(types("smollm2-135m", quant, "attn_q")) == {fallback}  # 576 = 2.25 blocks
    assert set(types("smollm2-135m", quant, "ffn_down")) == {quant}  # 1536 = 6 blocks


def test_eight_experts_and_70b_get_more_bits_for_values() -> None:
    assert set(types("mixtral-8x7b", "q4_0", "attn_v")) == {"q8_0"}
    assert set(types("mixtral-8x7b", "q4_0", "attn_k")) == {"q8_0"}
    assert set(types("mixtral-8x7b", "q4_k_m", "attn_output")) == {"q5_k"}
    assert set(types("mixtral-8x7b", "q5_k_m", "attn_output")) == {"q5_k"}
    assert set(types("mixtral-8x7b", "q3_k_l", "attn_output")) == {"q3_k"}
    assert set(types("glam-143b", "q4_0", "attn_v")) == {"q4_0"}
    assert set(types("llama-2-70b", "q4_k", "attn_v")) == {"q5_k"}
    assert set(types("llama-2-70b", "q4_0", "attn_v")) == {"q4_0"}
    assert set(types("llama-2-13b", "q4_k", "attn_v")) == {"q4_k"}


def test_the_medium_mixtures_give_more_bits_to_the_same_layers_as_llama_cpp() -> None:
    """32 layers: the first and last four, and every third of the rest starting at the seventh."""
    more = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}
    for role in ("attn_v", "ffn_down"):
        for quant, base in (("q4_k_m", "q4_k"), ("q5_k_m", "q5_k")):
            expected = ["q6_k" if layer in more else base for layer in range(32)]
            assert types("llama-2-7b", quant, role) == expected
    assert types("llama-2-7b", "q3_k_m", "ffn_down") == ["q5_k"] * 2 + ["q4_k"] * 30
    assert types("llama-2-7b", "q4_k_s", "attn_v") == ["q5_k"] * 4 + ["q4_k"] * 28
    assert set(types("llama-3-8b", "q2_k_mix", "attn_v")) == {"q4_k"}
    assert set(types("llama-2-7b", "q2_k_mix", "attn_v")) == {"q3_k"}


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    with pytest.raises(DataError, match=r"unknown model 'llama2-7b'; did you mean 'llama-2-7b'\? .*or give the path"):
        load_model("llama2-7b", "q4_0")
    with pytest.raises(DataError, match=r"unknown model '../models/llama-2-7b'"):
        load_model("../models/llama-2-7b", "q4_0")
    with pytest.raises(DataError, match=r"unknown quantisation 'Q4_K_M'; did you mean 'q4_k_m'\? \(allowed: f32, f16"):
        load_model("llama-2-7b", "Q4_K_M")
    assert set(MIXES) < set(list_quants())


def test_kv_cache_bytes() -> None:
    model = load_model("llama-3-8b", "q4_0")
    assert model.kv_bytes(1) == 2 * 32 * 1024 * 2
    assert model.with_kv_type("q8_0").kv_bytes(100) == 100 * 2 * 32 * (1024 // 32) * 34
    with pytest.raises(
        DataError, match=r"llama-3-8b: kv_type: unknown 'q8'; did you mean 'q8_0'\? \(allowed: f16, f32"
    ):
        model.with_kv_type("q8")


def test_a_model_is_hashable_and_can_be_pickled() -> None:
    """Sweeps run in worker processes and cache by model."""
    model = load_model("smollm2-135m", "q4_k_m")
    copy = pickle.loads(pickle.dumps(model))
    assert copy == model
    assert hash(copy) == hash(model)
    assert len(pickle.dumps(load_model("gpt-3-175b", "f16"))) < 20_000


def test_description_has_a_source_for_every_number() -> None:
    for name in list_models():
        rows = {str(row["key"]): row for row in describe_model(name, "q4_k_m")}
        for key, row in rows.items():
            assert set(row) == {"key", "value", "unit", "scope", "kind", "source"}
            if key not in ("title", "arch"):
                assert str(row["source"]).strip(), (name, key)
            if not isinstance(row["value"], str | bool):
                assert str(row["unit"]).strip(), (name, key)
        assert rows["params"]["value"] == load_model(name, "f16").params
        assert rows["bytes (q4_k_m)"]["value"] == load_model(name, "q4_k_m").bytes
    assert "bytes (q4_k_m)" not in {row["key"] for row in describe_model("llama-2-7b")}


# Mistakes in a data file


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text, old
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (swap("n_layers", "n_layer"), "unknown key 'n_layer'; did you mean 'n_layers'"),
        (lambda text: "\n".join(line for line in text.splitlines() if "vocab" not in line), "missing key 'vocab'"),
        (swap("value = 32,", "value = 32.5,"), r"n_layers.value: expected a whole number of at least 1, got 32.5"),
        (swap("value = 32,", "value = 0,"), r"n_layers.value: expected a whole number of at least 1, got 0"),
        (swap("value = 32,", "value = -32,"), r"n_layers.value: expected a whole number of at least 1, got -32"),
        (swap("value = 32,", 'value = "32",'), r"n_layers.*expected"),
        (swap('unit = "layers"', 'unit = "layer"'), r"n_layers.unit: expected 'layers', got 'layer'"),
        (swap('scope = "sequence", ', ""), "max_context: missing key 'scope'"),
        (swap('kind = "paper"', 'kind = "papers"'), r"kind: unknown kind 'papers'; did you mean 'paper'"),
        (
            swap('value = "swiglu"', 'value = "swiglo"'),
            r"act: unknown 'swiglo'; did you mean 'swiglu'.*allowed: swiglu, ",
        ),
        (swap('value = "rope"', 'value = "alibi"'), r"position: unknown 'alibi' \(allowed: rope, learned, none\)"),
        (swap("post_norm = { value = false", "post_norm = { value = 0"), "post_norm"),
        (
            swap("post_norm = { value = false", 'post_norm = { value = "no"'),
            "post_norm: expected true or false, got 'no'",
        ),
        (swap("n_kv_heads = { value = 8", "n_kv_heads = { value = 7"), "n_kv_heads: 7 must divide n_heads = 32"),
        (
            swap("n_experts_used = { value = 2", "n_experts_used = { value = 9"),
            "n_experts_used: 9 is more than n_experts",
        ),
        (lambda text: "\n".join(line for line in text.splitlines() if "moe_every" not in line), "also needs moe_every"),
        (swap("ffn_bias = { value = false", "ffn_bias = { value = true"), "ffn_bias: must be false in a MoE model"),
        (swap("fused_qkv = { value = false", "fused_qkv = { value = true"), "fused_qkv: must be false unless"),
        (swap('title = "', "title = 7 # "), "title: expected text, got 7"),
        (swap('unit = "parameters"', 'unit = "B"'), "published_params.unit: expected 'parameters', got 'B'"),
        (swap("n_layers = {", "n_layers = {{"), r"not valid TOML.*line"),
    ],
)
def test_mistakes_name_file_and_key(change: Callable[[str], str], expected: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(change((DATA / "mixtral-8x7b.toml").read_text()))
    with pytest.raises(DataError, match=expected) as caught:
        read_model_file(path)
    assert str(caught.value).startswith(str(path))
