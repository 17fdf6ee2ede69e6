"""`gempim diff`: what differs between two runs and why one is faster, against the same derived from the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gempim.analysis.diff import diff_runs
from gempim.analysis.run import RunError
from gempim.analysis.stats import StatsError
from gempim.statsfile import format_section

from .conftest import make_run

DATA = Path(__file__).with_name("stats_data")


def operator_times(run: Path, label: str) -> dict[str, float]:
    """ms per token by operator, from roi.jsonl itself."""
    rois = [json.loads(line) for line in (run / "roi.jsonl").read_text().splitlines()]
    tokens = sum(r["tokens"] for r in rois if r["label"] == label)
    out: dict[str, float] = {}
    for roi in rois:
        for op in roi["operators"] if roi["label"] == label else []:
            out[op["name"]] = out.get(op["name"], 0) + op["time_ps"] / tokens * 1e-9
    return out


def test_times_operators_and_amdahl(n1: Path, sail: Path) -> None:
    """Speedup, shares and "alone" of every operator, and that what was saved adds up to all that was saved."""
    found = diff_runs(n1, sail)
    for label in ("prefill", "decode"):
        a, b = operator_times(n1, label), operator_times(sail, label)
        whole, other = sum(a.values()), sum(b.values())
        times = found.times.set_index("part").loc[label]
        assert times["ms_per_token_a"] == pytest.approx(whole, rel=1e-12)
        assert times["speedup"] == pytest.approx(whole / other, rel=1e-12)
        rows = found.operators[found.operators["part"] == label].set_index("operator")
        assert set(rows.index) == set(a)
        for name in a:
            row = rows.loc[name]
            assert row["speedup"] == pytest.approx(a[name] / b[name], rel=1e-12)
            share = a[name] / whole
            assert row["alone"] == pytest.approx(1 / (1 - share + share * b[name] / a[name]), rel=1e-12)
        assert rows["share_a"].sum() == pytest.approx(1, rel=1e-12)
        assert rows["share_of_saved"].sum() == pytest.approx(1, rel=1e-12)
        moved = [name for name in a if rows.loc[name, "device_b"] == "sram_pim"]
        share = sum(a[n] for n in moved) / whole
        factor = sum(a[n] for n in moved) / sum(b[n] for n in moved)
        alone = 1 / (1 - share + share / factor)
        text = "\n".join(found.explanation)
        assert f"{label}, kernel: {len(moved)} operators that changed device" in text
        assert f"= {alone:.4g}x, at most {1 / (1 - share):.4g}x however fast it gets" in text
        # lm_head runs once, everything else in each of 32 layers.
        layer = [n for n in a if n != "lm_head"]
        assert f"{label}, layer: the operators of the layers are {sum(a[n] for n in layer) / whole:.1%}" in text
        assert f"{sum(a[n] for n in layer) / sum(b[n] for n in layer):.4g}x as fast" in text
        assert f"{label}, token: {whole / other:.4g}x." in text


def test_counters_are_per_token(tmp_path: Path) -> None:
    """Runs of 4 and of 8 steps: counts by token, summed over sections; gauges and host times are not in it."""
    a, b = make_run(tmp_path / "a", steps=4, prompt=0), make_run(tmp_path / "b", steps=8, prompt=0)

    def per_token(run: Path, name: str, steps: int) -> float:
        lines = [line.split() for line in (run / "stats.txt").read_text().splitlines()]
        return sum(float(words[1]) for words in lines if words and words[0] == name) / steps

    found = diff_runs(a, b).counters.set_index("counter")
    for name in ("system.dram.acts", "system.cpu.instructions::load", "simTicks"):
        x, y = per_token(a, name, 4), per_token(b, name, 8)
        assert found.loc[name, "a"] == pytest.approx(x, rel=1e-12)
        assert found.loc[name, "ratio"] == pytest.approx(y / x, rel=1e-12)
    assert not {"hostSeconds", "simFreq", "system.cpu.cores", "system.cpu.threads"} & set(found.index)


def test_a_run_against_itself_differs_in_nothing(sail: Path, tmp_path: Path) -> None:
    other = shutil.copytree(sail, tmp_path / "other")
    found = diff_runs(sail, other)
    assert not len(found.operators)
    assert not len(found.counters)
    assert not len(found.parameters)
    assert list(found.times["speedup"]) == [1.0, 1.0]


def test_parameters_that_differ(tmp_path: Path) -> None:
    """By dotted name, with the bare value; sources and titles are not parameters."""
    a = make_run(tmp_path / "a", extra_system={"title": "x", "llc": {"mb": {"value": 32, "unit": "MB", "source": "p"}}})
    b = make_run(tmp_path / "b", extra_system={"title": "y", "llc": {"mb": {"value": 16, "unit": "MB", "source": "q"}}},
                 threads=8)  # fmt: skip
    rows = diff_runs(a, b).parameters.set_index("parameter")
    assert rows.to_dict("index") == {"system.llc.mb": {"a": 32, "b": 16}, "workload.threads": {"a": 16, "b": 8}}


def gem5_output(folder: Path, scale: dict[str, float], sections: int = 1, ini: str = "") -> Path:
    """What somebody else's gem5 leaves, with one core."""
    base = {"simTicks": 10**9, "simFreq": 10**12, "hostSeconds": 3.5, "system.cpu.numCycles": 2_000_000,
            "system.cpu.commitStats0.numInsts": 1_000_000, "system.cpu.clk_domain.clock": 500, "zero": 0}  # fmt: skip
    folder.mkdir()
    stats = {name: int(value * scale.get(name, 1)) for name, value in base.items()}
    ipc = ("system.cpu.ipc", stats["system.cpu.commitStats0.numInsts"] / stats["system.cpu.numCycles"], "i", "Ratio")
    text = format_section([*((n, v, "d", "Tick" if n == "simTicks" else "Count") for n, v in stats.items()), ipc])
    (folder / "stats.txt").write_text(text * sections)
    if ini:
        (folder / "config.ini").write_text(ini)
    return folder / "stats.txt"


def test_other_peoples_gem5_output(tmp_path: Path) -> None:
    """Half the instructions at 0.8 of the cycles: 1.25x = 2x by fewer instructions x 0.625x by time per instruction."""
    a = gem5_output(tmp_path / "a", {}, ini="[system.cpu]\nnumROBEntries=128\nwidth=4\n[system]\nmem=a b\n")
    b = gem5_output(
        tmp_path / "b",
        {"system.cpu.commitStats0.numInsts": 0.5, "simTicks": 0.8, "system.cpu.numCycles": 0.8, "hostSeconds": 9},
        ini="[system.cpu]\nnumROBEntries=192\nwidth=4\n[system]\nmem=a b\n",
    )
    found = diff_runs(a, b)
    assert found.parameters.to_dict("records") == [{"parameter": "system.cpu.numROBEntries", "a": "128", "b": "192"}]
    assert found.times["speedup"].iloc[0] == pytest.approx(1.25)
    text = "\n".join(found.explanation)
    assert "1.25x = 2x by fewer instructions on the cores x 0.625x by less time per instruction" in text
    assert "cycles per instruction, over all cores: 2 in A, 3.2 in B" in text
    counters = found.counters.set_index("counter")["ratio"].to_dict()
    assert counters.keys() == {"simTicks", "system.cpu.numCycles", "system.cpu.commitStats0.numInsts", "system.cpu.ipc"}
    assert counters["system.cpu.ipc"] == pytest.approx(0.5 / 0.8)


def test_rates_of_several_sections_are_not_added(tmp_path: Path) -> None:
    """Sections of one label are added up, their IPC is left out."""
    paths = []
    for name, scale in (("a", {}), ("b", {"simTicks": 0.5})):
        paths.append(gem5_output(tmp_path / name, scale, sections=2).parent)
        rows = [{"section": i, "label": "kernel", "index": i} for i in range(2)]
        (paths[-1] / "roi.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = diff_runs(*paths)
    assert found.times[["part", "ms_a", "ms_b"]].to_numpy().tolist() == [["kernel", 2.0, 1.0]]
    assert list(found.counters["counter"]) == ["simTicks"]


def test_real_excerpts_of_two_versions() -> None:
    """v22.1's and v25.0's names are different, instructions are instructions."""
    found = diff_runs(DATA / "v22.1-o3.txt", DATA / "v25.0-simple.txt")
    fewer = 11585134 / 5714
    assert f"{fewer:.4g}x by fewer instructions" in "\n".join(found.explanation)
    assert any("rank0.totalEnergy" in name for name in found.counters["counter"])


def test_unknown_energy_is_no_zero(tmp_path: Path) -> None:
    """HBM's energy of 0 against a real one is not a factor of infinity: A has no value."""
    text = (DATA / "v24.0-hbm.txt").read_text()
    (tmp_path / "b.txt").write_text(text.replace("totalEnergy              0", "totalEnergy              9"))
    (row,) = diff_runs(DATA / "v24.0-hbm.txt", tmp_path / "b.txt").counters.to_dict("records")
    assert row["counter"] == "system.mem_ctrl.dram.rank0.totalEnergy"
    assert row["a"] is None
    assert row["b"] == 9


def test_largest_differences_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    values = rng.integers(10**5, 10**6, 40)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        factor = np.ones(40) if name == "a" else np.where(np.arange(40) == 17, 50.0, rng.uniform(0.9, 1.1, 40))
        stats = [(f"c{i}", int(v * f), "d", "Count") for i, (v, f) in enumerate(zip(values, factor, strict=True))]
        only = [(f"only_{name}", 10**9, "d", "Count")]
        (tmp_path / name / "stats.txt").write_text(format_section([*stats, *only, ("simTicks", 10**6, "t", "Tick")]))
    counters = diff_runs(tmp_path / "a", tmp_path / "b").counters
    assert counters["counter"].iloc[0] == "c17"
    assert set(counters["counter"].iloc[-2:]) == {"only_a", "only_b"}


def test_what_cannot_be_compared(tmp_path: Path, n1: Path) -> None:
    bare = gem5_output(tmp_path / "a", {})
    with pytest.raises(RunError, match="has no tokens, and the other run has: say by a mapping file"):
        diff_runs(bare, n1)
    two = gem5_output(tmp_path / "b", {}, sections=2)
    (two.parent / "roi.jsonl").write_text('{"section": 0, "label": "x"}\n{"section": 1, "label": "y"}\n')
    with pytest.raises(RunError, match="no part in common: section 0 against x, y"):
        diff_runs(bare, two)
    with pytest.raises(RunError, match="no such file or folder"):
        diff_runs(bare, tmp_path / "none")
    (tmp_path / "d.txt").write_text("no statistics\n")
    with pytest.raises(StatsError, match="text outside a section"):
        diff_runs(bare, tmp_path / "d.txt")
    no_time = tmp_path / "t.txt"
    no_time.write_text(format_section([("a", 1, "d", "Count")]))
    with pytest.raises(RunError, match="no simulated time"):
        diff_runs(bare, no_time)
    serve = tmp_path / "s"
    serve.mkdir()
    (serve / "manifest.json").write_text('{"kind": "serve"}')
    with pytest.raises(RunError, match="served requests; compare such runs with: gempim report"):
        diff_runs(n1, serve)
    (bare.parent / "config.ini").write_text("no section\n")
    with pytest.raises(RunError, match=r"config\.ini: cannot be read"):
        diff_runs(bare, bare)
