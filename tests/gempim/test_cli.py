"""The commands as a user runs them: exit codes, stdout that a program can read, kills that lose nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = [
    "--model",
    "smollm2-135m",
    "--quant",
    "q4_0",
    "--prompt",
    "0",
    "--context",
    "16",
    "--tokens",
    "2",
    "--threads",
    "4",
]


def gempim(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gempim.cli", *args], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def test_compare_is_parseable_in_every_format(tmp_path: Path) -> None:
    def compare(fmt: str) -> str:
        done = gempim("compare", "neoverse-n1", "sail", *SMALL, "-o", fmt, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    rows = list(csv.DictReader(io.StringIO(compare("csv"))))
    document = json.loads(compare("json"))
    lines = [json.loads(line) for line in compare("jsonl").splitlines()]
    table = [line for line in compare("md").splitlines() if line.startswith("|")]
    assert [r["system"] for r in rows] == ["neoverse-n1", "sail"]
    assert document["rows"] == lines
    assert len(table) == 4
    assert float(rows[0]["speedup"]) == 1.0
    base, sail = (float(r["tokens_per_s"]) for r in rows)
    assert float(rows[1]["speedup"]) == pytest.approx(sail / base)
    assert [float(r["tokens_per_s"]) for r in rows] == [pytest.approx(line["tokens_per_s"]) for line in lines]


def test_progress_and_notes_are_on_stderr_only(tmp_path: Path) -> None:
    done = gempim("run", "--system", "sail", *SMALL, "-o", "json", cwd=tmp_path)
    json.loads(done.stdout)
    assert "run: " in done.stderr
    assert "no verified source" in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "--system", "snail", *SMALL], ["snail", "sail"]),
        (["run", *SMALL, "--set", "system.sram_pim.nbv=4"], ["nbv", "nbw"]),
        (["run", *SMALL, "--set", "nonsense"], ["--set", "KEY=VALUE"]),
        (["run", "--model", "llama-2-7b"], ["quant"]),
        (["run", "missing.toml"], ["missing.toml"]),
        (["run", "--gguf", "missing.gguf"], ["missing.gguf"]),
        (["run", *SMALL, "--price", "v100=cheap"], ["v100=cheap"]),
        (["run", *SMALL, "--energy", "nowhere"], ["nowhere"]),
        (["compare", "sail", *SMALL], ["baseline"]),
        (["report", "nowhere"], ["nowhere"]),
        (["explain", "nowhere"], ["nowhere"]),
        (["models", "show"], ["NAME"]),
        (["systems", "show", "snail"], ["snail"]),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, args: list[str], words: list[str]) -> None:
    done = gempim(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    message = done.stderr.replace("\n", " ")
    assert "Traceback" not in message
    for word in words:
        assert word in message


def test_broken_gguf_is_one_clear_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + (1 << 60).to_bytes(8, "little") + (1).to_bytes(8, "little"))
    done = gempim("run", "--gguf", str(bad), cwd=tmp_path)
    assert done.returncode == 2
    assert "bad.gguf" in done.stderr
    assert "Traceback" not in done.stderr


def test_explain_shows_the_numbers_of_the_run(tmp_path: Path) -> None:
    done = gempim("run", "--system", "sail", *SMALL, "-o", "json", cwd=tmp_path)
    row = json.loads(done.stdout)["rows"][0]
    text = gempim("explain", f"runs/{row['run']}", cwd=tmp_path).stdout
    assert "sram_pim" in text
    assert "USD/h" in text
    assert f"{row['tokens_per_s']:.4g}"[:4] in text


@pytest.mark.parametrize(
    "command", ["run", "compare", "sweep", "report", "explain", "models", "systems", "doctor", "fetch"]
)
def test_help_has_a_working_example(tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gempim.cli", command, "--help"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    assert done.returncode == 0
    example = re.search(rf"Example: (gempim [^│\n]*{command}[^│\n]*)", done.stdout)
    assert example, done.stdout


def test_doctor_knows_what_is_there(tmp_path: Path) -> None:
    done = gempim("doctor", cwd=tmp_path)
    assert done.returncode == 0
    assert re.search(r"^ok +embedded engine", done.stdout, re.M)
    assert "gem5.opt" in done.stdout


def test_models_and_systems_show_sources(tmp_path: Path) -> None:
    rows = json.loads(gempim("systems", "show", "sail", "-o", "json", cwd=tmp_path).stdout)
    assert {r["parameter"] for r in rows} >= {"sram_pim.nbw", "cpu.cores", "dram.tREFI_ps"}
    rows = json.loads(gempim("models", "show", "llama-2-7b", "-o", "json", cwd=tmp_path).stdout)
    assert {r["key"] for r in rows} >= {"d_model", "n_layers"}


SWEEP = """
[sweep]
baseline = "neoverse-n1"
[base.model]
name = "llama-2-7b"
quant = "q4_0"
[base.workload]
prompt = 0
tokens = 1
threads = 8
[axes]
"experiment.system" = ["neoverse-n1", "sail"]
"model.quant" = ["q2_k", "q3_k", "q4_0", "q8_0"]
"workload.context" = [16, 64, 256]
"""


def test_a_killed_sweep_loses_nothing_and_counts_nothing_half(tmp_path: Path) -> None:
    """Kill -9 in the middle: finished runs stay as they are, half-finished ones are done again, the end is the same."""
    (tmp_path / "s.toml").write_text(SWEEP)
    command = [sys.executable, "-m", "gempim.cli", "sweep", "s.toml", "-j", "1", "-o", "csv"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    runs = tmp_path / "runs"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len([p for p in runs.glob("*") if not p.name.startswith(".")]) < 3:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done_before = {p.name: (p / "manifest.json").stat().st_mtime_ns for p in runs.iterdir() if p.name[0] != "."}
    assert 3 <= len(done_before) < 24
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(io.StringIO(again.stdout)))
    assert len(rows) == 24
    after = {p.name: (p / "manifest.json").stat().st_mtime_ns for p in runs.iterdir() if p.name[0] != "."}
    assert {k: after[k] for k in done_before} == done_before
    assert len(after) == 24
    assert not [p for p in runs.iterdir() if p.name.startswith(".partial")]


def test_a_sweep_over_a_parameter_of_one_system_is_tabulated_and_compared(tmp_path: Path) -> None:
    """nbw is an axis of SAIL alone, channels one of both: each row has its nbw, and the baseline of its channels."""
    text = SWEEP.partition("[axes]")[0].replace("llama-2-7b", "smollm2-135m") + (
        '[axes]\n"experiment.system" = ["neoverse-n1", "sail"]\n"set.memory.channels" = [2, 8]\n'
        '"set.sram_pim.nbw" = { values = [2, 4], only_systems = ["sail"] }\n'
    )
    (tmp_path / "s.toml").write_text(text)
    done = gempim("sweep", "s.toml", "-o", "csv", "--report", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    nbw, channels = "experiment.system.sram_pim.nbw", "experiment.system.memory.channels"
    assert sorted((r["system"], r[channels], r[nbw]) for r in rows) == [
        ("neoverse-n1", "2", ""),
        ("neoverse-n1", "8", ""),
        *(("sail", c, n) for c in ("2", "8") for n in ("2", "4")),
    ]
    base = {r[channels]: float(r["tokens_per_s"]) for r in rows if r["system"] == "neoverse-n1"}
    assert base["2"] < base["8"]
    for r in rows:
        assert float(r["speedup"]) == pytest.approx(float(r["tokens_per_s"]) / base[r[channels]])


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ('baseline = "neoverse-n1"', 'baseline = "nope"', ["sweep.baseline", "nope", "sail"]),
        ("[16, 64, 256]", '{ values = [16, 64], only_systems = ["snail"] }', ["only_systems", "snail", "sail"]),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_runs(tmp_path: Path, old: str, new: str, names: list[str]) -> None:
    assert old in SWEEP
    (tmp_path / "s.toml").write_text(SWEEP.replace(old, new))
    done = gempim("sweep", "s.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert all(name in done.stderr for name in names), done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", [("--batch", "64"), ("--threads", "3"), ("--system", "v100"), ("--set", "x.y=1")])
def test_an_option_beside_an_experiment_file_is_refused_not_ignored(tmp_path: Path, option: tuple[str, str]) -> None:
    (tmp_path / "e.toml").write_text(
        '[experiment]\nsystem = "sail"\n[model]\nname = "smollm2-135m"\nquant = "q4_0"\n[workload]\ntokens = 1\n'
    )
    done = gempim("run", "e.toml", *option, cwd=tmp_path)
    assert done.returncode == 2
    assert "e.toml" in done.stderr
    assert option[0] in done.stderr
