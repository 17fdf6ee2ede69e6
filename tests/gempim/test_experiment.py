"""Experiments, systems and sweeps: a wrong file must name itself, the key and what is allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gempim.experiment import experiment_hash, load_experiment, resolve
from gempim.quantity import DataError
from gempim.sweep import load_sweep
from gempim.systems import DATA, list_systems, load_system, section_schema

GOOD = """
[experiment]
system = "sail"
[model]
name = "llama-2-7b"
quant = "q4_0"
[workload]
batch = 2
prompt = 0
context = 32
tokens = 1
threads = 4
"""


def _write(tmp_path: Path, text: str, name: str = "x.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("batch = 2", "bach = 2", ["workload.bach", "unknown key", "batch"]),
        ("batch = 2", 'batch = "2"', ["workload.batch", "integer"]),
        ("batch = 2", "batch = 0", ["workload.batch", "greater than or equal to 1"]),
        ("tokens = 1", "tokens = 0", ["workload", "nothing to simulate"]),
        ("threads = 4", "threads = 65", ["workload.threads", "64 cores"]),
        ("context = 32", "context = 5000", ["context", "4096"]),
        ('quant = "q4_0"', "", ["model", "quant is missing"]),
        ('quant = "q4_0"', 'quant = "q4_9"', ["q4_9"]),
        ('name = "llama-2-7b"', 'name = "llama-2-7c"', ["llama-2-7c", "llama-2-7b"]),
        ('system = "sail"', 'system = "snail"', ["snail", "sail"]),
        ('system = "sail"', 'system = "sail"\nengine = "gem5-se"', ["experiment.engine", "embedded"]),
        ('system = "sail"', "", ["experiment.system", "missing"]),
        ("[workload]", '[set]\n"sram_pim.nbv" = 4\n[workload]', ["sram_pim.nbv", "nbw"]),
        ("[workload]", '[set]\n"sram_pim.nbw" = 9\n[workload]', ["sram_pim.nbw", "out of range", "1 to 8"]),
        ("[workload]", '[set]\n"sram_pim.nbw" = 2.5\n[workload]', ["sram_pim.nbw", "whole number"]),
        ("[workload]", '[set]\n"sram_pin.nbw" = 4\n[workload]', ["no section", "sram_pim"]),
        ("[workload]", '[set]\n"memory.standard" = "ddr9"\n[workload]', ["ddr9", "ddr4-3200"]),
        ("[workload]", "[workload", ["not valid TOML"]),
        ("[workload]", "[extra]\na = 1\n[workload]", ["extra", "unknown key"]),
    ],
)
def test_a_wrong_experiment_names_file_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, names: list[str]
) -> None:
    assert old in GOOD
    path = _write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(DataError) as caught:
        load_experiment(path)
    for name in names:
        assert name in str(caught.value)
    if "llama-2-7c" not in names and "snail" not in names and "q4_9" not in names and "ddr9" not in names:
        assert str(path) in str(caught.value)


def test_the_good_experiment_loads(tmp_path: Path) -> None:
    e = load_experiment(_write(tmp_path, GOOD))
    assert (e.system.name, e.model.name, e.workload.batch) == ("sail", "llama-2-7b", 2)


def test_hash_names_values_not_where_they_were_set(tmp_path: Path) -> None:
    same = load_experiment(_write(tmp_path, GOOD + '[set]\n"sram_pim.nbw" = 4\n'))
    plain = load_experiment(_write(tmp_path, GOOD, "y.toml"))
    other = load_experiment(_write(tmp_path, GOOD + '[set]\n"sram_pim.nbw" = 3\n', "z.toml"))
    assert experiment_hash(same, {}) == experiment_hash(plain, {}) != experiment_hash(other, {})
    assert experiment_hash(plain, {"engine": "a"}) != experiment_hash(plain, {"engine": "b"})


@pytest.mark.parametrize("name", list_systems())
def test_every_number_of_a_shipped_system_has_unit_scope_and_source(name: str) -> None:
    for section, params in load_system(name).sections.items():
        for key, q in params.items():
            if isinstance(q.value, str | bool):
                continue
            assert q.unit, f"{section}.{key}"
            assert q.scope, f"{section}.{key}"
            assert len(q.source) > 10, f"{section}.{key}"


def test_sail_changes_nothing_of_its_baseline() -> None:
    """The speedup is against the same socket: cores, caches and memory must be the very same numbers."""
    base, sail = load_system("neoverse-n1"), load_system("sail")
    for section in base.sections:
        assert sail.values(section) == base.values(section)
    assert set(sail.sections) - set(base.sections) == {"sram_pim", "pim_host"}


def _sail_with(tmp_path: Path, old: str, new: str) -> Path:
    text = (DATA / "systems/sail.toml").read_text()
    assert old in text
    return _write(tmp_path, text.replace(old, new, 1), "mine.toml")


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("nbw = {", "nbv = {", ["sram_pim", "nbv", "nbw"]),
        ('unit = "weights", scope = "array"', 'unit = "bits", scope = "array"', ["sram_pim.nbw", "weights", "bits"]),
        ("nbw = { value = 4", "nbw = { value = 40", ["sram_pim.nbw", "1 to 8"]),
        ("nbw = { value = 4", 'nbw = { value = "four"', ["sram_pim.nbw"]),
        ('kind = "cpu+sram_pim"', 'kind = "cpu"', ["sram_pim"]),
        ('kind = "cpu+sram_pim"', 'kind = "tpu"', ["tpu", "gpu-roofline"]),
        ('extends = "neoverse-n1"', 'extends = "neoverse-n7"', ["neoverse-n7", "neoverse-n1"]),
        ("[pim_host]", "[pim_hots]", ["pim_hots"]),
        ("issue_cycles = { value = 79, ", "issue_cycles = { ", ["issue_cycles", "value"]),
        ('title = "', 'tilte = "', ["tilte", "title"]),
    ],
)
def test_a_wrong_system_names_file_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, names: list[str]
) -> None:
    path = _sail_with(tmp_path, old, new)
    with pytest.raises(DataError) as caught:
        load_system(str(path))
    for name in (str(path), *names):
        assert name in str(caught.value)


def test_a_system_of_ones_own(tmp_path: Path) -> None:
    """The guide `add a system`: a file that extends a shipped one and changes one number."""
    path = _write(
        tmp_path,
        """
[system]
name = "sail-fast"
title = "SAIL at 2 GHz"
kind = "cpu+sram_pim"
extends = "sail"
description = "faster arrays"
[sram_pim]
clock_ps = { value = 500, unit = "ps", scope = "array", source = "what if", kind = "choice" }
""",
    )
    mine, sail = load_system(str(path)), load_system("sail")
    assert mine.values("sram_pim") == {**sail.values("sram_pim"), "clock_ps": 500}
    assert mine.not_modelled == sail.not_modelled


def test_every_device_parameter_is_described() -> None:
    for section in ("cpu", "llc", "dram", "sram_pim", "pim_host", "gpu"):
        for spec in section_schema(section).values():
            assert len(spec.description) > 5, f"{section}.{spec.name}"


SWEEP = """
[sweep]
baseline = "neoverse-n1"
[base.experiment]
system = "sail"
[base.model]
name = "smollm2-135m"
quant = "q4_0"
[base.workload]
prompt = 0
context = 8
tokens = 1
threads = 2
[axes]
"experiment.system" = ["neoverse-n1", "sail"]
"workload.batch" = [1, 2]
"set.sram_pim.nbw" = { values = [2, 4], only_systems = ["sail"] }
"""


def test_sweep_is_the_product_without_repeats(tmp_path: Path) -> None:
    plan = load_sweep(_write(tmp_path, SWEEP))
    found: list[Any] = []
    for p in plan.points:
        nbw = p.system.values("sram_pim")["nbw"] if p.system.name == "sail" else None
        found.append((p.system.name, p.workload.batch, nbw))
    expected = [("neoverse-n1", b, None) for b in (1, 2)] + [("sail", b, n) for b in (1, 2) for n in (2, 4)]
    assert sorted(found, key=str) == sorted(expected, key=str)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("[axes]", "[axis]", ["axis", "axes"]),
        ('"workload.batch" = [1, 2]', '"workload.batch" = []', ["workload.batch", "non-empty"]),
        ('"workload.batch" = [1, 2]', '"workload.bach" = [1, 2]', ["workload.bach"]),
        ('"workload.batch" = [1, 2]', '"load.batch" = [1, 2]', ["load.batch", "workload"]),
        ('only_systems = ["sail"]', 'only = ["sail"]', ["only_systems"]),
        (', only_systems = ["sail"]', "", ["neoverse-n1", "sram_pim"]),
        ("baseline =", "base_line =", ["base_line"]),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_runs(tmp_path: Path, old: str, new: str, names: list[str]) -> None:
    assert old in SWEEP
    path = _write(tmp_path, SWEEP.replace(old, new))
    with pytest.raises(DataError) as caught:
        load_sweep(path)
    for name in (str(path), *names):
        assert name in str(caught.value)


def test_document_from_the_command_line_is_as_strict() -> None:
    with pytest.raises(DataError, match=r"command line: workload\.threads"):
        resolve(
            {
                "experiment": {"system": "sail"},
                "model": {"name": "llama-2-7b", "quant": "q4_0"},
                "workload": {"threads": 100},
            },
            origin="command line",
        )


def test_another_memory_brings_its_own_energy_table_and_keeps_what_was_set(tmp_path: Path) -> None:
    """DDR4 joules for DDR5 commands would be an error; a timing that was set must survive whatever the order is."""
    sets = ['"dram.tREFI_ps" = 1950000', '"memory.standard" = "ddr5-4800"']
    timings = []
    for name, order in (("a.toml", sets), ("b.toml", sets[::-1])):
        e = load_experiment(_write(tmp_path, GOOD + "[set]\n" + "\n".join(order) + "\n", name))
        assert e.system.energy_table == "ddr5-4800"
        timings.append(e.system.values("dram"))
    plain = load_experiment(_write(tmp_path, GOOD + f"[set]\n{sets[1]}\n", "c.toml")).system.values("dram")
    assert timings[0] == timings[1] == {**plain, "tREFI_ps": 1950000}


def test_a_child_inherits_the_timings_its_parent_changed(tmp_path: Path) -> None:
    head = '[system]\nname = "{0}"\ntitle = "t"\nkind = "cpu"\ndescription = "d"\nextends = "{1}"\n'
    slow = '[dram]\ntREFI_ps = { value = 3900000, unit = "ps", scope = "rank", source = "hot", kind = "choice" }\n'
    _write(tmp_path, head.format("parent", "neoverse-n1") + slow, "parent.toml")
    child = load_system(str(_write(tmp_path, head.format("child", "parent"), "child.toml")))
    assert child.values("dram")["tREFI_ps"] == 3900000 != load_system("neoverse-n1").values("dram")["tREFI_ps"]


@pytest.mark.parametrize("name", ["../out", "a/b", "", "a" * 65, ".hidden", "a b"])
def test_a_system_cannot_name_a_folder_elsewhere(tmp_path: Path, name: str) -> None:
    path = _sail_with(tmp_path, 'name = "sail"', f'name = "{name}"')
    with pytest.raises(DataError, match=r"system\.name"):
        load_system(str(path))


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e999"])
@pytest.mark.parametrize("key", ["sram_pim.nbw", "llc.slices", "cpu.clock_hz"])
def test_numbers_that_are_none_are_refused(key: str, value: str) -> None:
    with pytest.raises(DataError, match=key):
        load_system("sail").with_override(key, value, origin="--set")


def test_a_gpu_must_hold_the_kv_cache_too(tmp_path: Path) -> None:
    """Llama-2-7B q4_0 fits a 16 GB V100; 32 sequences of 4096 tokens need 64 GiB more."""
    one = GOOD.replace('"sail"', '"v100"').replace("context = 32", "context = 4000")
    assert load_experiment(_write(tmp_path, one.replace("batch = 2", "batch = 1"))).system.name == "v100"
    with pytest.raises(DataError, match="KV cache"):
        load_experiment(_write(tmp_path, one.replace("batch = 2", "batch = 32"), "y.toml"))


def test_hash_names_the_tables_a_result_is_made_with(tmp_path: Path) -> None:
    mine = _sail_with(tmp_path, 'extends = "neoverse-n1"', 'extends = "neoverse-n1"\nprice = "gcp-v100"')
    other = load_experiment(_write(tmp_path, GOOD.replace('"sail"', f'"{mine.name}"'), "z.toml"))
    plain = load_experiment(_write(tmp_path, GOOD))
    assert other.system.name == plain.system.name
    assert experiment_hash(other, {}) != experiment_hash(plain, {})


def test_slug_is_a_file_name_whatever_a_gguf_calls_itself(tmp_path: Path) -> None:
    e = load_experiment(_write(tmp_path, GOOD))
    for name in ("x" * 5000, "../../etc/é", "a\nb"):
        slug = replace(e, model=replace(e.model, name=name)).slug()
        assert len(slug.encode()) < 200
        assert "/" not in slug
        assert slug.isascii()
        assert slug.isprintable()
