"""The benchmark behind the README's llama.cpp table: its rows above a stand-in for gem5."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from fake_llama import FakeGem5
from readme_table import readme_table

from gempim.bench import gem5_llama
from gempim.engines.llama import run_llama
from gempim.engines.llama.request import load_model
from gempim.engines.llama.session import Inputs
from gempim.experiment import resolve
from gempim.output import results
from gempim.simulate import simulate

LAYERS = 2

CONTEXT = 4
"""Tokens in the KV cache of the page's pass: those of the benchmark's prompt."""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGem5:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(gem5_llama.LAYERS, "smollm2-135m", LAYERS)
    stand_in = FakeGem5(LAYERS)
    hashes = {"gem5": "g", "guest": "l", "plugin": "p", "gem5_configs": "c"}

    def run(*args: Any, **more: Any) -> Any:
        return run_llama(*args, **more, inputs=Inputs(Path(__file__), hashes, stand_in))

    monkeypatch.setattr(gem5_llama, "run_llama", run)
    return stand_in


def test_a_row(fake: FakeGem5, tmp_path: Path) -> None:
    """gem5's columns are the run directories', the embedded ones those of `gempim run` for the whole model.

    In q8_0: the shape table's SmolLM2 has its embedding in that type, and a synthetic file has one type.
    """
    runs = tmp_path / "runs"
    (row,) = gem5_llama.table(["smollm2-135m"], ["q8_0"], [2], runs, None).to_dict("records")
    assert [row[key] for key in ("model", "type", "threads")] == ["smollm2-135m", "q8_0", 2]

    rates = {}
    for r in results(sorted(runs.glob("gem5-*")), prices={}, energy=None, utilisation=1.0):
        (decode,) = (p for p in r.phases if p.test.startswith("tg"))
        rates[r.run.system] = decode.tokens_per_s
        context = r.run.rois_of("decode")[0].context
    assert row["N1 in gem5 [t/s]"] == f"{rates['neoverse-n1']:.2f}"
    assert row["SAIL in gem5 [t/s]"] == f"{rates['sail']:.2f}"
    assert row["speedup in gem5"] == f"{rates['sail'] / rates['neoverse-n1']:.2f}x"

    embedded = {}
    for system in ("neoverse-n1", "sail"):
        document = {
            "experiment": {"system": system, "engine": "embedded"},
            "model": {"name": "smollm2-135m", "quant": "q8_0"},
            "workload": {"prompt": 0, "context": context, "tokens": 1, "threads": 2, "batch": 1},
        }
        path = simulate(resolve(document, origin="test"), tmp_path / "embedded", command=[])
        (r,) = results([path], prices={}, energy=None, utilisation=1.0)
        embedded[system] = r.phases[0].tokens_per_s
    assert float(row["N1 embedded [t/s]"]) == pytest.approx(embedded["neoverse-n1"], rel=1e-3)
    assert float(row["SAIL embedded [t/s]"]) == pytest.approx(embedded["sail"], rel=1e-3)
    estimate = embedded["sail"] / embedded["neoverse-n1"]
    assert float(row["speedup embedded"].rstrip("x")) == pytest.approx(estimate, rel=5e-3)
    speedup = rates["sail"] / rates["neoverse-n1"]
    assert float(row["difference"].rstrip("%")) == pytest.approx(100 * (estimate / speedup - 1), abs=1)
    assert 0 < float(row["embedded"].rstrip("%")) < 100


def test_runs_and_files_that_are_there_are_not_made_again(fake: FakeGem5, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = gem5_llama.table(["smollm2-135m"], ["q8_0"], [1], runs, None)
    (file,) = (runs / "models").iterdir()
    made, written = len(fake.runs), file.stat().st_mtime_ns
    again = gem5_llama.table(["smollm2-135m"], ["q8_0"], [1], runs, None)
    assert again.equals(first)
    assert (len(fake.runs), file.stat().st_mtime_ns) == (made, written)
    assert load_model(file).reported.n_layers == 30  # the file has two and stands for all


def test_bad_options_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for option, value, says in (
        ("--shapes", "llama-9", "--shapes llama-9: expected some of smollm2-135m, llama-2-7b"),
        ("--threads", "1,x", "--threads 1,x: expected numbers, comma separated"),
    ):
        monkeypatch.setattr("sys.argv", ["gem5_llama", option, value])
        with pytest.raises(SystemExit) as stop:
            gem5_llama.main()
        assert stop.value.code == 2
        assert says in capsys.readouterr().err


def test_the_readmes_embedded_columns_are_the_engines(tmp_path: Path) -> None:
    """Rows in the benchmark's order, embedded columns of this engine, differences of what stands beside them."""
    rows = readme_table("llama")
    points = [(int(row["threads"]), row["model"], row["type"]) for row in rows]
    whole = itertools.product((1, 4, 16), gem5_llama.LAYERS, gem5_llama.QUANTS)
    assert rows
    assert points == [point for point in whole if point in points]
    for shape, quant, path in gem5_llama.files(["smollm2-135m", "llama-2-7b"], gem5_llama.QUANTS, tmp_path):
        model = load_model(path).reported
        path.unlink()
        for row in rows:
            if (row["model"], row["type"]) != (shape, quant):
                continue
            n1, sail = (gem5_llama.in_embedded(model, s, int(row["threads"]), CONTEXT) for s in gem5_llama.SYSTEMS)
            assert f"{1 / n1.seconds:.2f}" == row["N1 embedded [t/s]"]
            assert f"{1 / sail.seconds:.2f}" == row["SAIL embedded [t/s]"]
            assert f"{sail.products:.0%}" == row["embedded"]
            estimate = n1.seconds / sail.seconds
            assert f"{estimate:.2f}x" == row["speedup embedded"]
            speedup = float(row["speedup in gem5"].rstrip("x"))
            rates = float(row["SAIL in gem5 [t/s]"]), float(row["N1 in gem5 [t/s]"])
            assert rates[0] / rates[1] == pytest.approx(speedup, rel=0.01)
            assert float(row["difference"].rstrip("%")) == pytest.approx(100 * (estimate / speedup - 1), abs=1)
