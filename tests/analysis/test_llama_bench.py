"""llama-bench's files: read as written, refused when anything about them is not as it should be, shown beside runs."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.llama_bench import load_llama_bench
from gempim.analysis.report import write_report
from gempim.analysis.result import evaluate
from gempim.analysis.run import load_run
from gempim.analysis.uncertainty import rounded
from gempim.cli import app
from gempim.output import make_report
from gempim.quantity import DataError

from .conftest import make_run

ENERGY, PRICES = load_energy_table("default"), load_prices()


def bench_row(seed: int = 1, **changes: Any) -> dict[str, Any]:
    """A row with the fields of llama-bench, random samples, and a mean and deviation that are theirs."""
    rng = np.random.default_rng(seed)
    row: dict[str, Any] = {
        "build_commit": "0a1b2c3d", "build_number": 5163, "cpu_info": "Some CPU, 64 cores", "gpu_info": "",
        "backends": "CPU", "model_filename": "models/7b.gguf", "model_type": "llama 7B Q4_0",
        "model_size": 3825065984, "model_n_params": 6738415616, "n_batch": 2048, "n_ubatch": 512, "n_threads": 16,
        "cpu_mask": "0x0", "cpu_strict": False, "poll": 50, "type_k": "f16", "type_v": "f16", "n_gpu_layers": -1,
        "n_cpu_moe": 0, "split_mode": "layer", "main_gpu": 0, "no_kv_offload": False, "flash_attn": -1,
        "devices": "auto", "tensor_split": "0.00", "tensor_buft_overrides": "none", "use_mmap": True,
        "embeddings": False, "no_op_offload": 0, "n_prompt": 512, "n_gen": 0, "n_depth": 0,
        "test_time": "2025-04-24T11:58:50Z",
    }  # fmt: skip
    row |= changes
    tokens = row["n_prompt"] + row["n_gen"]
    rates = rng.uniform(90, 110, 5)
    times = tokens / rates * 1e9
    row |= {
        "avg_ns": int(times.mean()),
        "stddev_ns": int(times.std(ddof=1)),
        "avg_ts": float(rates.mean()),
        "stddev_ts": float(rates.std(ddof=1)),
        "samples_ns": [int(t) for t in times],
        "samples_ts": [float(r) for r in rates],
    }
    return row | {name: value for name, value in changes.items() if name in row}


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    text = json.dumps(rows, indent=2) if file.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    file.write_text(text)
    return file


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_rows_are_read_as_written(tmp_path: Path, ending: str) -> None:
    rows = [
        bench_row(1),
        bench_row(2, n_prompt=0, n_gen=128, n_depth=512),
        bench_row(3, n_prompt=64, n_gen=32, gpu_info="Some GPU", backends="CUDA", model_type="qwen2 7B Q4_K - Medium"),
        bench_row(4, gpu_info="Some GPU", n_gpu_layers=0, model_type="llama 7B mostly F16"),
    ]
    found = load_llama_bench([write(tmp_path / f"a.{ending}", rows)])
    assert [m.test for m in found] == ["pp512", "tg128 @ d512", "pp64+tg32", "pp512"]
    assert [m.machine for m in found] == ["Some CPU, 64 cores"] * 2 + ["Some GPU", "Some CPU, 64 cores"]
    assert [(m.model, m.quant) for m in found] == [
        ("llama 7B", "q4_0"),
        ("llama 7B", "q4_0"),
        ("qwen2 7B", "q4_k_m"),
        ("llama 7B", "f16"),
    ]
    for m, row in zip(found, rows, strict=True):
        assert (m.tokens_per_s, m.tokens_per_s_std) == (row["avg_ts"], row["stddev_ts"])
        assert m.repeats == 5
        samples = row["samples_ts"]
        half = m.error.half
        assert half == pytest.approx(2.776 * np.std(samples, ddof=1) / math.sqrt(5) / np.mean(samples))
        assert m.build == "0a1b2c3d (5163)"


def _set(**changes: Any) -> Callable[[list[dict[str, Any]]], object]:
    return lambda rows: rows[1].update(changes)


@pytest.mark.parametrize(
    ("change", "expect"),
    [
        (lambda rows: rows[1].pop("n_threads"), r"row 2: missing field 'n_threads'"),
        (lambda rows: rows[1].update(n_thread=rows[1].pop("n_threads")), r"n_thread: 16, but 'missing' in row 1"),
        (_set(avg_ts="fast"), r"row 2: avg_ts: expected int or float, got 'fast'"),
        (_set(model_size=True), r"row 2: model_size: expected int, got True"),
        (_set(avg_ts=0.0), r"row 2: avg_ts: expected a number above zero, got 0.0"),
        (_set(avg_ts=float("nan")), r"row 2: avg_ts: expected a number above zero"),
        (_set(avg_ts=140.0), r"row 2: avg_ts is 140, the mean of samples_ts"),
        (_set(samples_ts=[1, None]), r"row 2: samples_ts: expected a list of rates above zero"),
        (_set(n_prompt=0, n_gen=0), r"row 2: n_prompt 0, n_gen 0, n_depth 0: no test of tokens"),
        (_set(model_type="my model"), r"row 2: model_type: expected a name that ends with the weights' type"),
        (_set(turbo=True), r"row 2: turbo: True, but 'missing' in row 1, and this version of gempim does not know"),
        (lambda rows: [r.update(turbo=i) for i, r in enumerate(rows)], r"row 2: turbo: 1, but 0 in row 1"),
        (lambda rows: rows.append(dict(rows[0])), r"two rows of llama 7B pp512 on Some CPU, 64 cores"),
        (lambda rows: rows.append(3), r"row 3: expected an object of llama-bench, got int"),
        (lambda rows: rows.clear(), r"no test in it"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, change: Callable[[list[Any]], object], expect: str) -> None:
    rows = [bench_row(1), bench_row(2, n_prompt=0, n_gen=128)]
    change(rows)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "x.json")) + ".*" + expect):
        load_llama_bench([write(tmp_path / "x.json", rows)])


def test_unreadable_files(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(bench_row(1)) + "\n| model | size |\n")
    with pytest.raises(DataError, match=r"x.jsonl: line 2: not JSON as llama-bench"):
        load_llama_bench([file])
    file.write_text('[{"a": 1}')
    with pytest.raises(DataError, match=r"x.jsonl: not JSON as llama-bench"):
        load_llama_bench([file])
    with pytest.raises(DataError, match=r"none.json: cannot be read"):
        load_llama_bench([tmp_path / "none.json"])
    # A field that nobody knows, the same in every row, can mislead nobody.
    assert len(load_llama_bench([write(tmp_path / "new.json", [bench_row(1, turbo=1)])])) == 1


def test_measured_rows_stand_beside_simulated_ones(tmp_path: Path) -> None:
    """In the page, the Markdown, the CSV and the JSON; a ratio only where model, type, test and batch agree."""
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", batch=4, seed=2)]
    results = [evaluate(load_run(run), ENERGY, PRICES) for run in runs]
    rows = [
        bench_row(1),
        bench_row(2, n_prompt=0, n_gen=128),
        bench_row(3, model_n_params=1_000_000, model_type="tiny 1M Q4_0", model_filename="tiny.gguf"),
    ]
    measured = load_llama_bench([write(tmp_path / "m.json", rows)])
    page = write_report(results, tmp_path / "out", measured=measured, png=False)
    text = page.read_text(encoding="utf-8")
    table = text[text.index('id="measured-table"') :]
    found = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table[: table.index("</table>")].split("<tr")[2:]]
    assert [(cells[0], cells[4]) for cells in found] == [
        ("simulated", "pp512"),
        ("measured", "pp512"),
        ("measured", "tg128"),
        ("simulated", "tg4 @ d512"),
    ]
    assert results[0].prefill is not None
    ratio = float(found[0][7].split("x")[0])
    assert ratio == pytest.approx(results[0].prefill.tokens_per_s / rows[0]["avg_ts"], rel=5e-3)
    assert [cells[7] for cells in found[1:]] == ["–"] * 3
    assert "1 measured rows are of other models" in text
    assert "0a1b2c3d (5163)" in page.with_suffix(".md").read_text(encoding="utf-8")
    read = list(csv.DictReader((page.parent / "measured.csv").open()))
    assert [float(row["tokens_per_s"]) for row in read] == [row["avg_ts"] for row in rows]
    assert len(json.loads(page.with_suffix(".json").read_text())["measured"]) == 3
    only = load_llama_bench([write(tmp_path / "t.json", rows[2:])])
    with pytest.raises(DataError, match=r"t.json: no measured model \(tiny 1M\) has the parameters of a simulated"):
        write_report(results, tmp_path / "out2", measured=only, png=False)


def test_the_command_takes_files(tmp_path: Path) -> None:
    """`gempim report RUN --llama-bench FILE`."""
    run = make_run(tmp_path / "a")
    file = write(tmp_path / "m.jsonl", [bench_row(1)])
    options: dict[str, Any] = {"baseline": None, "prices": {}, "energy": None, "utilisation": 1.0}
    page = make_report([run], tmp_path / "out", llama_bench=[file], **options)
    assert "measured-table" in page.read_text(encoding="utf-8")


def test_compare_takes_files_too(tmp_path: Path) -> None:
    """`gempim compare ... --report DIR --llama-bench FILE`; without a report there is nowhere to put them."""
    file = write(tmp_path / "m.jsonl", [bench_row(1, n_prompt=0, n_gen=1, n_depth=512)])
    words = ["compare", "neoverse-n1", "sail", "-m", "llama-2-7b", "-q", "q4_0", "-p", "0", "-n", "1"]
    words += ["--runs", str(tmp_path / "runs"), "--llama-bench", str(file)]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, DataError)
    assert "it needs --report" in str(done.exception)
    done = CliRunner().invoke(app, [*words, "--report", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["table"]["rows"]
    rate = rows[1]["tokens_per_s"] / bench_row(1, n_prompt=0, n_gen=1, n_depth=512)["avg_ts"]
    assert f"{rounded(rate)}x Some CPU, 64 cores" in (tmp_path / "out" / "report.md").read_text()
