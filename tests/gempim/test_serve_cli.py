"""The commands that serve, as a user types them: tables on stdout, notes on stderr, one line for a wrong option."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

TOML = """
[serve]
systems = ["gpu-h100", "duplex-pe-et"]
devices = 4
[model]
name = "mixtral-8x7b"
[requests]
arrivals = "poisson"
qps = [20, 60]
count = 8
input = 100
output = 12
[scheduler]
max_batch = 8
"""


def _gempim(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "gempim.cli", *words], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "e.toml").write_text(TOML)
    done = _gempim("serve", "e.toml", "-o", "csv", "--report", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv(io.StringIO(done.stdout))
    assert rows["system"].tolist() == ["gpu-h100", "gpu-h100", "duplex-pe-et", "duplex-pe-et"]
    assert rows["qps"].tolist() == [20, 60, 20, 60]
    assert (rows[["tokens_per_s", "ttft_p50_ms", "tbt_p99_ms", "e2e_p90_ms", "j_per_token"]] > 0).all().all()
    assert "has no verified source" in done.stderr
    return folder


def test_the_report_has_both_systems_and_both_roofs(served: Path) -> None:
    page = (served / "out" / "report.html").read_text()
    for text in ("duplex-pe-et x4", "Latency against the rate of requests", "experts on logic_pim", "not a paper"):
        assert text in page
    assert len(json.loads((served / "out" / "report.json").read_text())["results"]) == 4


def test_report_and_explain_know_serving_runs(served: Path) -> None:
    runs = sorted(str(p) for p in (served / "runs").iterdir())
    done = _gempim("report", *runs, "--baseline", "gpu-h100", "--out", "again", cwd=served)
    assert done.returncode == 0, done.stderr
    assert "speedup" in (served / "again" / "report.html").read_text()
    text = _gempim("explain", runs[0], "--energy", "duplex-full-path", cwd=served).stdout
    assert "logic_pim.memory: system.logic_pim.pim_reads" in text
    assert "the whole path inside the DRAM die" in text
    assert "pim_path_pj_per_bit = pim_cell_pj_per_bit + " in text


def test_compare(served: Path) -> None:
    words = ("compare", "gpu-h100", "gpu-h100@8", "duplex", "--model", "mixtral-8x7b", "--batch", "4,8", "--lin", "64")
    done = _gempim(*words, "--lout", "16", "--set", "duplex:policy.moe=op_b", "-o", "json", cwd=served)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(r["system"], r["devices"], r["max_batch"]) for r in rows] == [
        (s, d, b) for b in (4, 8) for s, d in (("gpu-h100", 4), ("gpu-h100", 8), ("duplex", 4))
    ]
    assert [r["speedup"] for r in rows if (r["system"], r["devices"]) == ("gpu-h100", 4)] == [1.0, 1.0]
    duplex = json.loads(next((served / "runs").glob("serve-duplex-x4*/manifest.json")).read_text())
    assert duplex["experiment"]["system"]["policy"]["moe"]["value"] == "op_b"


def test_seeds_are_one_row_when_they_are_named(served: Path) -> None:
    """Two files that differ in a seed: an error before anything is simulated, a row with an interval, a report."""
    files = []
    for seed in (1, 2):
        files.append(f"seed{seed}.toml")
        text = TOML.replace("output = 12", f"output = 12\nseed = {seed}").replace("[20, 60]", "60")
        (served / files[-1]).write_text(text)
    key = "experiment.requests.seed"
    done = _gempim("serve", *files, "--runs", "seeds", cwd=served)
    assert done.returncode == 2
    assert f"seed1.toml: serve-gpu-h100-x4-mixtral-8x7b-b8-in100-out12-qps60 has {key} = 1, seed2.toml" in done.stderr
    assert f"--repeats {key}" in done.stderr
    assert not (served / "seeds").exists()
    words = ("serve", *files, "--runs", "seeds", "--report", "seeds-out", "-o", "json")
    done = _gempim(*words, "--repeats", key, cwd=served)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(r["system"], r["repeats"]) for r in rows] == [("gpu-h100", 2), ("duplex-pe-et", 2)]
    assert all(r["tokens_per_s_low"] < r["tokens_per_s"] < r["tokens_per_s_high"] for r in rows)
    assert 'id="uncertainty-table"' in (served / "seeds-out" / "report.html").read_text()
    runs = sorted(str(p) for p in (served / "seeds").iterdir())
    words = ("report", *runs, "--baseline", "gpu-h100", "--out", "seeds-report")
    assert f"--key {key}" in _gempim(*words, cwd=served).stderr
    assert _gempim(*words, "--repeats", key, cwd=served).returncode == 0
    found = pd.read_csv(served / "seeds-report" / "report.csv")
    assert found.loc[found["system"] == "duplex-pe-et", ["speedup_low", "speedup_high"]].notna().all().all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compare", "gpu-h100", "duplex", "-m", "mixtral-8x7b", "--lin", "64"), "--lout is missing"),
        (
            ("compare", "gpu-h100", "duplex", "-m", "mixtral-8x7b", "--lin", "64", "--lout", "4", "-q", "q4_0"),
            "--quant",
        ),
        (("compare", "gpu-h100", "duplex", "--lin", "64", "--lout", "4"), "--model is missing"),
        (("compare", "gpu-h100", "sail", "-m", "mixtral-8x7b", "--lin", "64", "--lout", "4"), "sail has no xPU"),
        (("compare", "gpu-h100", "duplex", "-m", "mixtral-8x7b", "--lin", "a", "--lout", "4"), "whole numbers"),
        (("run", "--system", "duplex", "-m", "mixtral-8x7b", "-q", "f16"), "serves streams of requests"),
        (("serve", "missing.toml"), "missing.toml: cannot be read"),
    ],
)
def test_wrong_options(served: Path, words: tuple[str, ...], message: str) -> None:
    done = _gempim(*words, cwd=served)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_serving_runs_and_others_do_not_share_a_report(served: Path) -> None:
    run = _gempim("run", "-s", "v100", "-m", "smollm2-135m", "-q", "q8_0", "-d", "8", "-n", "1", cwd=served)
    assert run.returncode == 0, run.stderr
    dirs = [str(p) for p in (served / "runs").iterdir()]
    done = _gempim("report", *dirs, "--out", "mixed", cwd=served)
    assert done.returncode == 2
    assert "served requests, other runs did not" in done.stderr
