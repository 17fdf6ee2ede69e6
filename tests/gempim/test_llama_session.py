"""A generation from request to run directory, above a stand-in for gem5: what gem5 is asked, and what comes of it."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_llama import CYCLE_PS, FakeGem5, region_time
from gguf_files import TinyModel
from typer.testing import CliRunner

from gempim.analysis.run import load_run
from gempim.analysis.stats import parse_stats
from gempim.cli import app
from gempim.engines.llama import LlamaRequest, session
from gempim.engines.llama.plan import Layout
from gempim.engines.llama.session import Inputs, run_llama
from gempim.experiment import resolve
from gempim.models import synth
from gempim.output import results
from gempim.quantity import DataError
from gempim.simulate import simulate
from gempim.systems import System, load_system

SAIL, N1 = load_system("sail"), load_system("neoverse-n1")
LAYERS = 9
LAYOUT = Layout(LAYERS)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    TinyModel(n_layers=LAYERS).write(path)
    return path


def inputs(fake: FakeGem5) -> Inputs:
    guest = Path(__file__)  # any file: the stand-in does not run it
    return Inputs(guest, {"gem5": "g", "guest": "l", "plugin": "p", "gem5_configs": "c"}, fake)


def generate(request: LlamaRequest, system: System, fake: FakeGem5, root: Path, **more: Any) -> session.Outcome:
    return run_llama(request, system, root, inputs=inputs(fake), **more)


def test_layers_of_the_last_decode_pass(gguf: Path, tmp_path: Path) -> None:
    fake, steps = FakeGem5(LAYERS), []
    request = LlamaRequest(gguf, "Once", tokens=4, threads=2)
    outcome = generate(request, SAIL, fake, tmp_path / "runs", progress=lambda done, total: steps.append((done, total)))
    first = LAYOUT.region(3, 0)
    # Layer 0 is of a kind of its own in this model; 4 is the middle one, 8 the last.
    groups = [(first - 1, first + 1), (first + 4, first + 5), (first + 8, first + 10)]
    functional, *restored = fake.runs
    assert (functional.cpu, functional.cores, functional.checkpoint_continue) == ("atomic_noncaching", 2, True)
    assert functional.checkpoint_at_roi == tuple(a for a, _ in groups)
    assert sorted((r.cpu, r.restore.name, r.stop_after_roi) for r in restored if r.restore) == [
        ("o3", f"roi-{a}", b) for a, b in groups
    ]
    assert functional.args[:8] == ("--model", "model.gguf", "--prompt", "Once", "--tokens", "4", "--threads", "2")
    assert dict(zip(functional.args[8:14:2], functional.args[9:14:2], strict=True)) == {
        "--device": "lutmm", "--roi": "layer", "--flash-attn": "auto"
    }  # fmt: skip
    assert all(r.args == functional.args for r in restored)
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert (outcome.tokens, outcome.text) == ((100, 101, 102, 103), " héllo\N{REPLACEMENT CHARACTER}")

    assert outcome.run is not None
    run = load_run(outcome.run)
    # Decode passes that were not simulated must not look like measurements that agree: all are one region.
    assert [(r.label, r.index, r.tokens, r.context) for r in run.rois] == [("decode", 0, 3, 3)]
    t = region_time
    # Of layers 1 .. 8 the middle one stands for those that were not measured.
    expected = sum(t(first + s) for s in (0, 1, 9, 10)) + 7 * t(first + 5)
    assert run.rois[0].sim_ps == 3 * expected, "the decode passes before it cost as much"
    assert run.manifest["sampling"]["passes"]["decode 2"]["how"] == "estimated from layers"
    assert run.manifest["sampling"]["passes"]["decode 1"]["how"] == "estimated"
    assert run.manifest["llama"]["tokens"] == [100, 101, 102, 103]
    assert run.manifest["experiment"]["gem5"]["prompt"] == "Once"
    section = run.sections[0]
    n = 3 * [first, first + 1, first + 9, first + 10, *[first + 5] * 7]
    assert section.get("system.dram.reads") == sum(8 * 40 * (i + 1) for i in n)
    assert section.get("system.sram_pim.lookups") == sum(3 * (i + 1) for i in n)
    assert section.get("system.cpu.instructions::scalar") == sum(2 * (50 + 2 - 7) * (i + 1) for i in n)
    busy = section.get("system.cpu.busyCycles")
    assert busy == 2 * 3 * expected // CYCLE_PS
    assert section.get("system.cpu.idlePs") == 64 * 3 * expected - busy * CYCLE_PS
    assert section.get("system.cpu.cores") == 64, "price and idle power are the socket's"
    parts = {(o.name, o.device): o.time_ps for o in run.rois[0].operators}
    assert list(parts) == [
        (name, device)
        for part in ("start", "layers", "head")
        for name, device in ((f"{part}, products", "sram_pim"), (part, "cpu"))
    ]
    assert parts["head, products", "sram_pim"] + parts["head", "cpu"] == 3 * t(first + 10)
    assert parts["head, products", "sram_pim"] == 3 * (t(first + 10) // 4)
    # gem5's own files are beside: statistics, log, output.
    kept = outcome.run / "gem5" / f"roi-{first + 4}"
    assert sorted(p.name for p in kept.iterdir()) == ["gem5.log", "guest.out", "roi.jsonl", "stats.txt.gz"]
    assert len(parse_stats(kept / "stats.txt.gz")) == 2


def test_what_is_there_is_not_run_again(gguf: Path, tmp_path: Path) -> None:
    fake = FakeGem5(LAYERS)
    request = LlamaRequest(gguf, "Once", tokens=4)
    first = generate(request, N1, fake, tmp_path / "runs")
    count = len(fake.runs)
    assert generate(request, N1, fake, tmp_path / "runs").run == first.run
    assert len(fake.runs) == count
    # Another folder of runs: the functional run is in the cache.
    assert generate(request, N1, fake, tmp_path / "others").tokens == first.tokens
    assert [r.cpu for r in fake.runs[count:]] == ["o3"] * 3
    # Another CPU model is restored from the same checkpoints.
    generate(replace(request, cpu="timing"), N1, fake, tmp_path / "runs")
    assert {r.cpu for r in fake.runs[count + 3 :]} == {"timing"}
    # What decides a functional run makes another one: prompt, model, system, cores.
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "else.gguf"
    moved.write_bytes(gguf.read_bytes())
    count = len(fake.runs)
    assert generate(replace(request, gguf=moved), N1, fake, tmp_path / "runs").run == first.run, (
        "a path decides nothing"
    )
    assert len(fake.runs) == count
    TinyModel(n_layers=LAYERS, d_ff=64).write(moved)
    slower = N1.with_override("cpu.clock_hz", "2e9", origin="--set")
    for changed, system in (
        (replace(request, prompt="Twice"), N1),
        (replace(request, gguf=moved), N1),
        (replace(request, threads=2), N1),
        (request, slower),
    ):
        count = len(fake.runs)
        assert generate(changed, system, fake, tmp_path / "runs").run != first.run
        assert fake.runs[count].cpu == "atomic_noncaching"


def test_what_a_killed_session_left_in_the_cache_is_removed(gguf: Path, tmp_path: Path) -> None:
    request = LlamaRequest(gguf, "Once", tokens=2)
    entry = generate(request, N1, FakeGem5(LAYERS), tmp_path / "runs").cached
    assert entry is not None
    (entry / "entry.json").unlink()  # a folder of that name that is no entry
    left, other = (entry.with_name(f".partial-{entry.name}-{end}") for end in ("left", "other"))
    left.mkdir()
    other.mkdir()
    holder = os.open(other, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert generate(request, N1, FakeGem5(LAYERS), tmp_path / "others").cached == entry
    os.close(holder)
    assert (entry / "entry.json").is_file()
    assert not left.exists()
    assert other.exists(), "another session that is still at it"


def test_every_pass_in_detail(gguf: Path, tmp_path: Path) -> None:
    fake = FakeGem5(LAYERS)
    request = LlamaRequest(gguf, "Once", tokens=4, sample="none")
    outcome = generate(request, N1, fake, tmp_path / "runs")
    (only,) = fake.runs
    assert (only.cpu, only.fast_forward, only.detailed_from_roi) == ("o3", True, 1)
    assert only.args[only.args.index("--roi") + 1] == "pass"
    assert outcome.run is not None
    run = load_run(outcome.run)
    assert [(r.label, r.tokens, r.sim_ps) for r in run.rois] == [
        ("prefill", 3, region_time(1)),
        *(("decode", 1, region_time(n)) for n in (2, 3, 4)),
    ]
    assert run.manifest["sampling"]["share_of_instructions"] == 1
    # With threads, gem5 cannot change the CPU model: a checkpoint after the load, and the same figures.
    fake.runs.clear()
    outcome = generate(replace(request, threads=4), N1, fake, tmp_path / "runs")
    functional, restored = fake.runs
    assert (functional.checkpoint_at_roi, functional.checkpoint_continue) == ((1,), False)
    assert (restored.cpu, restored.cores, restored.stop_after_roi, restored.fast_forward) == ("o3", 4, None, False)
    assert outcome.tokens == (100, 101, 102, 103)
    assert outcome.run is not None
    assert [r.sim_ps for r in load_run(outcome.run).rois] == [region_time(n) for n in (1, 2, 3, 4)]


def test_all_layers_leave_nothing_to_estimate(gguf: Path, tmp_path: Path) -> None:
    request = LlamaRequest(gguf, "Once", tokens=2, sample="all", sample_passes="prefill,last")
    outcome = generate(request, N1, FakeGem5(LAYERS), tmp_path / "runs")
    assert outcome.run is not None
    run = load_run(outcome.run)
    for p, roi in enumerate(run.rois):
        assert roi.sim_ps == sum(region_time(LAYOUT.region(p, s)) for s in range(LAYOUT.parts))
    assert [p["error"] for p in run.manifest["sampling"]["passes"].values()] == [0.0, 0.0]
    assert not [n for n in run.manifest["not_modelled"] if "were not simulated in detail" in n]


def test_a_functional_run_claims_no_rate(gguf: Path, tmp_path: Path) -> None:
    fake = FakeGem5(LAYERS)
    outcome = generate(LlamaRequest(gguf, "Once", tokens=3, cpu="atomic"), N1, fake, tmp_path / "runs")
    assert (outcome.run, outcome.tokens) == (None, (100, 101, 102))
    assert [(r.cpu, r.checkpoint, r.restore) for r in fake.runs] == [("atomic", None, None)]
    assert not (tmp_path / "runs").exists()
    assert outcome.cached is not None
    assert sorted(p.name for p in outcome.cached.iterdir()) == ["entry.json", "gem5.log", "guest.out"]


def test_a_synthetic_file_is_reported_as_its_model(tmp_path: Path) -> None:
    path = tmp_path / "two.gguf"
    synth.write(synth.plan("smollm2-135m", "q4_0", layers=2, vocab=512), path)
    request = LlamaRequest(path, "Once", tokens=2)
    outcome = generate(request, N1, FakeGem5(2), tmp_path / "runs")
    assert outcome.run is not None
    run = load_run(outcome.run)
    assert run.lookup("experiment.model.n_layers") == 30
    assert run.lookup("experiment.model.name") == "smollm2-135m"
    whole = synth.plan("smollm2-135m", "q4_0")
    assert run.lookup("experiment.model.bytes") == whole.bytes
    first = Layout(2).region(1, 0)
    t = region_time
    mean = (t(first + 1) + t(first + 2)) / 2
    parts = {o.name: o.time_ps for o in run.rois[0].operators}
    assert parts == {
        "start": t(first),
        "layers": pytest.approx(t(first + 1) + t(first + 2) + 28 * mean),
        "head": pytest.approx(t(first + 3) * 49152 / 512),
    }
    assert run.manifest["sampling"]["warnings"] == [], "the model's weights do not fit into the LLC, only the file's"
    notes = " ".join(run.manifest["not_modelled"])
    assert "2 of the 30 layers" in notes
    assert "512 of the 49152 tokens" in notes
    # The same rows as the embedded engine's for the whole model, so that the two can be put beside each other.
    row = results([outcome.run], prices={}, energy=None, utilisation=1.0)[0].decode
    assert row is not None
    assert row.test == "tg1 @ d3"
    assert not row.energy.is_lower_bound
    # Whole passes are those of the file.
    outcome = generate(replace(request, sample="none"), N1, FakeGem5(2), tmp_path / "runs")
    assert outcome.run is not None
    run = load_run(outcome.run)
    assert run.lookup("experiment.model.n_layers") == 2
    assert run.rois_of("decode")[0].sim_ps == region_time(2)
    assert "random weights" in " ".join(run.manifest["not_modelled"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "--prompt is empty"),
        ({"tokens": 0}, "--tokens 0: expected at least 1"),
        ({"threads": 65}, "--threads 65: expected 1 to 64, the cores of neoverse-n1"),
        ({"cpu": "fast"}, "--cpu fast: expected one of atomic_noncaching"),
        ({"sample": "some"}, "--sample some: expected one of layers, all, none"),
        ({"flash_attn": "yes"}, "--flash-attn yes: expected one of auto, on, off"),
        ({"sample_passes": "tenth"}, "--sample-passes tenth"),
        ({"warmup": -1}, "--warmup-regions -1"),
        ({"context": 10**6}, r"--context 1000000: .* was trained for"),
        ({"tokens": 10, "context": 9}, "--tokens 10: prompt and tokens need more than the 9 tokens of context"),
        ({"gguf": Path("gone.gguf")}, "--gguf gone.gguf: no such file"),
        ({"gguf": Path(__file__)}, "GGUF"),
    ],
)
def test_bad_input_is_refused_before_gem5_starts(
    gguf: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    fake = FakeGem5(LAYERS)
    request = replace(LlamaRequest(gguf, "Once", tokens=3), **change)
    with pytest.raises(DataError, match=message):
        generate(request, N1, fake, tmp_path / "runs")
    assert fake.runs == []


def test_a_gpu_is_not_built_in_gem5(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="v100 is of kind gpu-roofline"):
        generate(LlamaRequest(gguf, "Once", tokens=3), load_system("v100"), FakeGem5(LAYERS), tmp_path / "runs")


def test_failures_say_why_and_leave_nothing_but_the_log(gguf: Path, tmp_path: Path) -> None:
    request = LlamaRequest(gguf, "Once", tokens=3)
    runs, cached = tmp_path / "runs", tmp_path / "cache" / "gempim" / "llama"

    def left() -> list[str]:
        return [p.name for p in (*runs.glob("*"), *cached.glob("*")) if not p.name.startswith(".failed-")]

    said = "warn: something\nllama: --context 4: a prompt of 9 tokens and 3 more need 11"
    with pytest.raises(DataError, match=r"the guest: --context 4: a prompt of 9 tokens .*\(log: .*\.failed-gem5-") as e:
        generate(request, N1, FakeGem5(LAYERS, fail=lambda options: (2, said)), runs)
    log = Path(str(e.value).rsplit("log: ", 1)[1].rstrip(")"))
    assert said in log.read_text()
    assert left() == []
    with pytest.raises(DataError, match=r"(?s)gem5 was ended by signal 11; the log is .*panic: no"):
        generate(
            request, N1, FakeGem5(LAYERS, fail=lambda options: (-11, "panic: no") if options.restore else None), runs
        )
    assert len(left()) == 1, "the functional run is good and stays"
    short = FakeGem5(LAYERS, ends_after=2)
    with pytest.raises(
        DataError, match=r"--tokens 4: the model ends the text after 2 tokens.*--tokens 2, or --ignore-eos"
    ):
        generate(LlamaRequest(gguf, "Once", tokens=4), N1, short, runs)
    with pytest.raises(DataError, match=r"guest\.out: region \d+ is '.*', expected 'decode 1 "):
        # A file whose layers the guest counts otherwise.
        generate(replace(request, prompt="layers-2"), N1, FakeGem5(LAYERS + 1), runs, jobs=1)


def test_a_region_without_statistics_is_an_error(gguf: Path, tmp_path: Path) -> None:
    request = LlamaRequest(gguf, "Once", tokens=3)
    last = LAYOUT.region(2, LAYOUT.head)
    with pytest.raises(DataError, match=rf"roi-\d+: regions \[{last - 2}, {last - 1}\], expected .*{last}\]"):
        generate(request, N1, FakeGem5(LAYERS, lost=last), tmp_path / "runs")
    with pytest.raises(
        DataError, match=r"passes: regions \[1, 3\], expected one a pass: \{1: 'prefill', 2: 'decode 0'"
    ):
        generate(replace(request, sample="none"), N1, FakeGem5(LAYERS, lost=2), tmp_path / "runs")


def test_a_detailed_run_that_says_another_token_is_an_error(gguf: Path, tmp_path: Path) -> None:
    request = LlamaRequest(gguf, "Once", tokens=3)
    with pytest.raises(DataError, match=r"guest.out: token \d is 9\d+, the functional run says \(100, 101, 102\)"):
        generate(request, N1, FakeGem5(LAYERS, misread=True), tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("gem5-*"))


def test_a_command_that_ends_late_is_not_a_part_of_its_own(gguf: Path, tmp_path: Path) -> None:
    head = LAYOUT.region(1, LAYOUT.head)
    request = LlamaRequest(gguf, "Once", tokens=2)
    outcome = generate(request, SAIL, FakeGem5(LAYERS, late=(head,)), tmp_path / "runs")
    assert outcome.run is not None
    run = load_run(outcome.run)
    assert [(o.device, o.time_ps) for o in run.rois[0].operators if o.name.startswith("head")] == [
        ("cpu", region_time(head))
    ]
    assert sum(o.dram_read_bytes for o in run.rois[0].operators) == run.sections[0].get("system.dram.read_bytes")


def test_operations_are_those_of_the_embedded_engine(gguf: Path, tmp_path: Path) -> None:
    experiment = resolve(
        {
            "experiment": {"system": "sail"},
            "model": {"gguf": str(gguf)},
            "workload": {"prompt": 3, "context": 3, "tokens": 2, "threads": 2},
        },
        origin="test",
    )
    embedded = [sum(o.flops for o in r.operators) for r in load_run(simulate(experiment, tmp_path / "runs")).rois]
    for sample in ("all", "none"):
        request = LlamaRequest(gguf, "Once", tokens=3, sample=sample, sample_passes="0,1,2")
        outcome = generate(request, SAIL, FakeGem5(LAYERS), tmp_path / "runs")
        assert outcome.run is not None
        assert [sum(o.flops for o in r.operators) for r in load_run(outcome.run).rois] == embedded


def test_a_pim_that_did_nothing_is_an_error(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sram_pim"):
        generate(LlamaRequest(gguf, "Once", tokens=3), SAIL, FakeGem5(LAYERS, idle_pim=True), tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("[!.]*"))


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(session, "real_inputs", lambda *args: inputs(FakeGem5(LAYERS)))

    def call(*args: str) -> Any:
        base = ["run", "--engine", "gem5-se", "--gguf", str(gguf), "--runs", str(tmp_path / "runs")]
        return CliRunner().invoke(app, [*base, *args])

    return call


def test_the_command_prints_text_tokens_and_rates(command: Any, tmp_path: Path) -> None:
    args = ("--system", "sail", "--prompt", "Once", "--tokens", "3", "--threads", "2")
    done = command(*args)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Once héllo\N{REPLACEMENT CHARACTER}\n\ntokens 100 101 102\n\n| model")
    assert "tg2 @ d3" in done.stdout
    assert "sampled: 5 regions" in done.stderr
    assert "weights fit into the LLC of 33554432 bytes" in done.stderr, "a sampled run would read them from DRAM"
    done = command(*args, "-o", "json", "--sample-passes", "prefill,last")
    rows = json.loads(done.stdout)["rows"]
    assert [(r["test"], r["threads"], r["engine"]) for r in rows] == [("pp3", 2, "gem5-se"), ("tg2 @ d3", 2, "gem5-se")]
    assert all(r["j_per_token"] > 0 and not r["energy_is_lower_bound"] for r in rows)
    assert "tokens 100 101 102" in done.stderr
    done = command(*args, "--cpu", "atomic_noncaching", "-o", "csv")
    assert done.stdout == "token,id\n0,100\n1,101\n2,102\n"
    assert "no rates: --cpu atomic_noncaching" in done.stderr


def test_gem5_and_embedded_runs_in_one_report(command: Any, gguf: Path, tmp_path: Path) -> None:
    args = ("--prompt", "Once", "--tokens", "3", "--threads", "2", "--sample-passes", "prefill,last")
    assert command("--system", "sail", *args).exit_code == 0
    assert command("--system", "neoverse-n1", *args).exit_code == 0
    runner, runs = CliRunner(), tmp_path / "runs"
    embedded = ["run", "--gguf", str(gguf), "--prompt", "3", "--context", "3", "--tokens", "2", "--threads", "2"]
    done = runner.invoke(app, [*embedded, "--system", "sail", "--runs", str(runs)])
    assert done.exit_code == 0, done.output
    paths = [str(p) for p in sorted(runs.iterdir()) if not p.name.startswith(".")]
    assert len(paths) == 3

    def speedups() -> dict[tuple[str, str, str], float]:
        done = runner.invoke(app, ["report", *paths, "--baseline", "neoverse-n1", "--out", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        rows = json.loads((tmp_path / "out" / "report.json").read_text())["table"]["rows"]
        return {(r["system"], r["engine"], r["test"]): r["speedup"] for r in rows}

    one = speedups()
    assert len(one) == 6
    assert "| engine " in (tmp_path / "out" / "report.md").read_text(), "rows can be told apart"
    # With the baseline from both engines, each run is held against its own engine's.
    done = runner.invoke(app, [*embedded, "--system", "neoverse-n1", "--runs", str(runs)])
    assert done.exit_code == 0, done.output
    paths = [str(p) for p in sorted(runs.iterdir()) if not p.name.startswith(".")]
    both = speedups()
    assert len(both) == 8
    assert {k: v for k, v in both.items() if k[1] == "gem5-se"} == {k: v for k, v in one.items() if k[1] == "gem5-se"}
    assert both["neoverse-n1", "embedded", "pp3"] == 1
    assert both["sail", "embedded", "pp3"] != one["sail", "embedded", "pp3"]
    done = runner.invoke(app, ["explain", paths[1]])
    assert done.exit_code == 0, done.output
    assert "J/token" in done.stdout or "joule" in done.stdout.lower()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], '--prompt "TEXT" is missing'),
        (["--prompt", "a", "--model", "x"], "--model does not go with it"),
        (["--prompt", "a", "--cores", "2"], "--cores does not go with it"),
        (["--prompt", "a", "--batch", "2"], "--batch does not go with it"),
    ],
)
def test_options_that_do_not_go_together(command: Any, args: list[str], message: str) -> None:
    done = command(*args)
    assert isinstance(done.exception, DataError)
    assert message in str(done.exception)


def test_a_text_is_no_number_of_tokens(gguf: Path) -> None:
    done = CliRunner().invoke(app, ["run", "--gguf", str(gguf), "--prompt", "Once"])
    assert isinstance(done.exception, DataError)
    assert "--prompt 'Once': expected a number of tokens" in str(done.exception)
    done = CliRunner().invoke(app, ["run", "--gguf", str(gguf), "--sample", "all"])
    assert "--sample goes with --engine gem5-se" in str(done.exception)
    done = CliRunner().invoke(app, ["run", "--engine", "gem5-se", "--binary", str(gguf), "--ignore-eos"])
    assert "--ignore-eos goes with --gguf" in str(done.exception)
