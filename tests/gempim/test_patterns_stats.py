"""The shipped pattern statistics are consistent with what a hit rate is, and the loader never guesses."""

from __future__ import annotations

import hashlib
import itertools
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gempim.patterns import PatternError, PatternStats, load_patterns, load_patterns_file
from gempim.patterns.__main__ import main
from gempim.patterns.stats import INPUT_OF_ROLE, KIND_OF_ACTIVATION_TYPE, PHASES, bundled_text

NAME = "smollm2-135m"
ROUNDING = 1e-4  # rates are stored in hits per 10000 lookups

Case = tuple[str, str, str]
CASES = list(itertools.product(PHASES, ("q8_1", "q8_K"), sorted(set(INPUT_OF_ROLE.values()))))


@pytest.fixture(scope="module")
def stats() -> PatternStats:
    return load_patterns(NAME)


def rate(stats: PatternStats, case: Case, nbw: int, bits: int, scope: str, batch: int, entries: int = 32) -> float:
    phase, activation_type, role = case
    return stats.hit_rate(role, nbw, bits, scope, batch, entries, phase=phase, activation_type=activation_type)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_bounds_and_orders(stats: PatternStats, case: Case) -> None:
    """What holds for any hit rate, at every recorded point."""
    for nbw, bits in itertools.product(range(1, 9), range(4, 9)):
        vector = rate(stats, case, nbw, bits, "vector", 1)
        assert 0 <= vector <= 1 - 1 / bits + ROUNDING, "the first lookup of a group cannot hit"
        # Pigeonhole: at most 2^nbw distinct patterns in `bits` lookups of a table that never evicts.
        assert vector >= max(0.0, 1 - 2**nbw / bits) - ROUNDING
        by_batch = [rate(stats, case, nbw, bits, "group", batch) for batch in stats.batches]
        assert by_batch[0] == vector
        for batch, grouped in zip(stats.batches, by_batch, strict=True):
            assert grouped <= 1 - 1 / (bits * batch) + ROUNDING
            assert grouped >= vector - ROUNDING, "reuse across the batch adds to the reuse within a vector"
            if 2**nbw <= 32:
                assert grouped >= 1 - 2**nbw / (bits * batch) - ROUNDING
        if nbw <= 5:
            assert by_batch == sorted(by_batch), "without evictions a longer batch only repeats more"


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_more_entries_hit_more_and_all_patterns_are_enough(stats: PatternStats, case: Case) -> None:
    for bits, batch in itertools.product(range(4, 9), stats.batches):
        four, eight, sixteen, half, many = (rate(stats, case, 4, bits, "group", batch, e) for e in (4, 8, 16, 32, 64))
        assert four <= eight <= sixteen == half == many
    assert rate(stats, case, 4, 8, "group", 32, 4) < rate(stats, case, 4, 8, "group", 32, 8)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_longer_groups_repeat_less(stats: PatternStats, case: Case) -> None:
    """A longer group's pattern contains the shorter one's; NBW 1, 2, 4, 8 divide every block, so no short groups."""
    for bits in range(4, 9):
        rates = [rate(stats, case, nbw, bits, "vector", 1) for nbw in (1, 2, 4, 8)]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] > rates[-1] + 0.1


def test_real_activations_repeat_more_than_noise(stats: PatternStats) -> None:
    """A uniform random group of NBW 4 at 8 bits would show 16(1-(15/16)^8) distinct patterns: a rate of 0.193."""
    uniform = 1 - 16 * (1 - (15 / 16) ** 8) / 8
    for phase in PHASES:
        for role in ("attn_q", "attn_output", "ffn_gate", "ffn_down", "output"):
            assert stats.hit_rate(role, 4, 8, "vector", 1, 32, phase=phase) > uniform + 0.05


def test_standard_deviation(stats: PatternStats) -> None:
    one = stats.hit_rate_std("ffn_down", 4, 8, "group", 1, 32)
    many = stats.hit_rate_std("ffn_down", 4, 8, "group", 32, 32)
    assert 0 < one < 0.5
    assert 0 < many < 0.5
    with pytest.raises(PatternError, match="batch: 5 was not recorded"):
        stats.hit_rate_std("ffn_down", 4, 8, "group", 5, 32)


def test_batch_between_recorded_sizes_interpolates_misses(stats: PatternStats) -> None:
    at = {batch: stats.hit_rate("attn_q", 4, 8, "group", batch, 32) for batch in (8, 10, 12, 16)}
    misses = {batch: (1 - value) * batch for batch, value in at.items()}
    assert misses[12] == pytest.approx((misses[8] + misses[16]) / 2, abs=1e-9)
    assert misses[10] == pytest.approx(0.75 * misses[8] + 0.25 * misses[16], abs=1e-9)
    assert at[8] < at[12] < at[16]


def test_vector_scope_takes_any_batch(stats: PatternStats) -> None:
    assert stats.hit_rate("attn_q", 4, 8, "vector", 1000, 32) == stats.hit_rate("attn_q", 4, 8, "vector", 1, 32)


def test_roles_that_share_an_input_and_formats_that_share_integers(stats: PatternStats) -> None:
    assert stats.hit_rate("attn_k", 4, 8, "vector", 1, 32) == stats.hit_rate("attn_v", 4, 8, "vector", 1, 32)
    assert stats.hit_rate("ffn_up", 3, 6, "group", 8, 32) == stats.hit_rate("ffn_gate", 3, 6, "group", 8, 32)
    both = [stats.hit_rate("ffn_down", 4, 8, "vector", 1, 32, activation_type=t) for t in ("q8_0", "q8_1")]
    assert both[0] == both[1]
    assert set(KIND_OF_ACTIVATION_TYPE) == {"q8_0", "q8_1", "q8_K"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "attn_score"}, "role: 'attn_score' was not recorded; recorded: attn_q, "),
        ({"nbw": 9}, "nbw: 9 was not recorded; recorded: 1, 2, 3, 4, 5, 6, 7, 8"),
        ({"activation_bits": 3}, "activation_bits: 3 was not recorded; recorded: 4, 5, 6, 7, 8"),
        ({"scope": "global"}, "scope: 'global' was not recorded; recorded: vector, group"),
        ({"batch": 33}, r"batch: 33 was not recorded; recorded: 1\.\.32"),
        ({"batch": 0}, "batch: 0 was not recorded"),
        ({"entries": 7}, r"entries \(at nbw 4, batch 8\): 7 was not recorded; recorded: 4, 8, 32"),
        ({"entries": 64, "nbw": 6}, r"entries \(at nbw 6, batch 8\): 64 was not recorded; recorded: 32"),
        ({"phase": "training"}, "phase: 'training' was not recorded"),
        ({"activation_type": "f16"}, "activation_type: 'f16' was not recorded"),
    ],
)
def test_what_was_not_recorded_is_an_error(stats: PatternStats, change: dict[str, Any], message: str) -> None:
    request: dict[str, Any] = {
        "role": "attn_q",
        "nbw": 4,
        "activation_bits": 8,
        "scope": "group",
        "batch": 8,
        "entries": 32,
    }
    assert 0 < stats.hit_rate(**request) < 1
    with pytest.raises(PatternError, match=f"smollm2-135m.toml: {message}"):
        stats.hit_rate(**{**request, **change})


def test_provenance_says_when_applied_to_another_model(stats: PatternStats) -> None:
    assert stats.applied_to is None
    assert stats.provenance == "pattern reuse measured on SmolLM2-135M-Instruct.Q4_1"
    other = load_patterns(NAME, applied_to="llama-2-7b")
    assert other.applied_to == "llama-2-7b"
    assert other.provenance.endswith("; applied to llama-2-7b")
    assert other.for_model(NAME).applied_to is None
    assert other.hit_rate("output", 4, 8, "vector", 1, 32) == stats.hit_rate("output", 4, 8, "vector", 1, 32)


def test_file_names_what_it_was_made_from(stats: PatternStats) -> None:
    data = tomllib.loads(stats.path.read_text(encoding="utf-8"))
    assert data["text"]["sha256"] == hashlib.sha256(bundled_text().read_bytes()).hexdigest()
    assert data["text"]["licence"] == "public domain"
    assert data["recording"]["command"] == stats.command == "python -m gempim.patterns record --out smollm2-135m.toml"
    assert stats.path.stat().st_size < 100_000


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PatternError, match="no recording named 'llama-9'; available: smollm2-135m"):
        load_patterns("llama-9")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 2", "schema: expected 1, got 2"),
        ("schema = 1", "schema = ", "not a TOML file"),
        ('unit = "hits per 10000 lookups"', 'unit = "percent"', "hit_rate.unit: expected 'hits per 10000 lookups'"),
        ("batch = [1, 4,", "batch = [4, 1,", "axes.batch: expected increasing positive integers"),
        ("batch = [1, 4, 8,", "batch = [2, 4, 8,", "axes.batch: expected to start at 1"),
        ("nbw_2 = { mean = [[", "nbw_2 = { mean = [[1,", r"nbw_2\.mean: expected 5 lists of 5 integers"),
        ("nbw_2 = { mean = [[", "nbw_2 = { mean = [[1", r"nbw_2\.mean: expected 5 lists of 5 integers 0\.\.10000"),
        ("nbw_2 = { mean", "nbw_2 = { median", "expected a table nbw_<n> with mean and std"),
        (
            "[hit_rate.decode.block32.output.",
            "[hit_rate.decode.block32.lm_head.",
            "decode.block32.output: expected dict",
        ),
        ("entries_32]", "entries_many]", "expected a table entries_<size>"),
        ("command = ", "commando = ", "recording.command: expected str, got None"),
    ],
)
def test_broken_files_are_refused_by_key(stats: PatternStats, tmp_path: Path, old: str, new: str, message: str) -> None:
    text = stats.path.read_text(encoding="utf-8")
    assert old in text
    broken = tmp_path / "broken.toml"
    broken.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(PatternError, match=message) as raised:
        load_patterns_file(broken)
    assert "broken.toml" in str(raised.value)


def test_command_line_names_a_bad_model_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(range(200)))
    assert main(["record", "--gguf", str(bad), "--out", str(tmp_path / "out.toml")]) == 2
    assert "bad.gguf" in capsys.readouterr().err
    assert not (tmp_path / "out.toml").exists()


def test_command_line_refuses_a_missing_folder_before_the_long_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--gguf", str(tmp_path / "any.gguf"), "--out", str(tmp_path / "no" / "out.toml")]) == 2
    assert "--out: folder" in capsys.readouterr().err
