"""run.py inside a real gem5: does the baseline machine run programs, count their regions, and say what went wrong?"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from gempim.analysis.stats import Section, parse_stats
from gempim.engines.gem5_se import Gem5Options, instructions, run_gem5_se
from gempim.quantity import DataError
from gempim.systems import load_system

from .conftest import HERE, run_script

pytestmark = pytest.mark.gem5

SUM = "sum 35178345521152"


def _rows(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "roi.jsonl").read_text().splitlines()]


def _sections(out: Path) -> list[Section]:
    return parse_stats(out / "stats.txt")


def _total(section: Section, ending: str) -> float:
    return sum(v for k, v in section.scalars.items() if k.endswith(ending))


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize("cpu", ["atomic_noncaching", "atomic", "timing", "minor", "o3"])
def test_baseline_on_every_cpu_model(gem5: Path, guest: Path, tmp_path: Path, cpu: str, cores: int) -> None:
    done = run_script(
        gem5, tmp_path, "--system=neoverse-n1", f"--cpu={cpu}", f"--cores={cores}", f"--binary={guest}",
        "--args", str(cores),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"hello from {cores} threads" in done.stdout
    assert SUM in done.stdout
    assert SUM in (tmp_path / "guest.out").read_text()
    rows, sections = _rows(tmp_path), _sections(tmp_path)
    assert [r["label"] for r in rows] == ["sum pass 0", "sum pass 1"]
    assert len(sections) == len(rows), "one section a region, and no other"
    for row, section in zip(rows, sections, strict=True):
        assert section.get("simTicks") == row["sim_ps"] > 0
        assert 1 << 14 < instructions(section) < 1 << 18, "every word is loaded, and nothing else is in the section"
    assert not (tmp_path / "syscalls.log").exists()


def test_programs_with_branch_protection(gem5: Path, tmp_path: Path) -> None:
    """Many compilers sign return addresses by default: on a core without pointer authentication that does nothing, on
    gem5's out-of-order core too (a call of a function that calls others must come back)."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("NOT RUN: no aarch64-linux-gnu-gcc (apt-get install gcc-aarch64-linux-gnu)")
    program = tmp_path / "signed"
    flags = ["-O2", "-static", "-pthread", "-mbranch-protection=standard"]
    subprocess.run([compiler, *flags, HERE / "guest.c", "-o", program], check=True)
    done = run_script(gem5, tmp_path / "m5out", "--system=neoverse-n1", "--cpu=o3", f"--binary={program}", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SUM in done.stdout


def test_caches_hold_what_they_should(gem5: Path, guest: Path, tmp_path: Path) -> None:
    """The second pass over 64 KiB: mostly L1 and L2 hits, and what leaves the L2 passes through all slices alike."""
    done = run_script(gem5, tmp_path, "--system=neoverse-n1", "--cpu=timing", f"--binary={guest}")
    assert done.returncode == 0, done.stderr
    first, second = _sections(tmp_path)
    caches = "board.cache_hierarchy"
    assert second.get(f"{caches}.l1d.demandAccesses::total") > 1 << 14
    dram = [_total(s, "mem_ctrl0.dram.dramBytesRead") for s in (first, second)]
    assert dram[1] <= dram[0] + 4096
    config = (tmp_path / "config.ini").read_text()
    assert config.count("type=Cache") == 3 + 32
    assert config.count("addr_ranges=0:4294967296:") >= 32, "slices share the address space"


def test_no_caches(gem5: Path, guest: Path, tmp_path: Path) -> None:
    done = run_script(
        gem5, tmp_path, "--system=neoverse-n1", "--cpu=timing", "--caches=none", "--cores=2", f"--binary={guest}",
        "--args", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert SUM in done.stdout
    assert "type=Cache" not in (tmp_path / "config.ini").read_text()


def test_fast_forward_measures_on_the_detailed_cpu(gem5: Path, guest: Path, tmp_path: Path) -> None:
    done = run_script(
        gem5, tmp_path, "--system=neoverse-n1", "--cpu=o3", "--cores=2", "--fast-forward", f"--binary={guest}",
        "--args", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert SUM in done.stdout
    for section in _sections(tmp_path):
        assert section.get("board.processor.cores0.core.numCycles") > 1000


def test_fast_forward_refuses_threads_made_before_the_first_region(gem5: Path, guest: Path, tmp_path: Path) -> None:
    done = run_script(
        gem5, tmp_path, "--system=neoverse-n1", "--cpu=timing", "--cores=2", "--fast-forward", f"--binary={guest}",
        "--args", "2", "early",
    )  # fmt: skip
    assert done.returncode == 2
    assert "--fast-forward: the guest made threads before its first region" in done.stderr


def test_detailed_from_a_later_region(gem5: Path, guest: Path, tmp_path: Path) -> None:
    """Region 0 leaves nothing; region 1 keeps its index, and is measured as it is when region 0 is measured too."""
    run = ["--system=neoverse-n1", "--cpu=o3", "--fast-forward", f"--binary={guest}"]
    done = run_script(gem5, tmp_path / "later", *run, "--detailed-from-roi=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert SUM in done.stdout
    assert [(r["section"], r["index"], r["label"]) for r in _rows(tmp_path / "later")] == [(0, 1, "sum pass 1")]
    (section,) = _sections(tmp_path / "later")
    assert section.get("simTicks") == _rows(tmp_path / "later")[0]["sim_ps"]
    assert section.get("board.processor.cores.core.numCycles") > 1000
    done = run_script(gem5, tmp_path / "all", *run)
    assert done.returncode == 0, done.stdout + done.stderr
    both = _sections(tmp_path / "all")
    assert instructions(section) == pytest.approx(instructions(both[1]), rel=0.01)
    assert section.get("simTicks") > both[1].get("simTicks"), "its caches are cold: region 0 ran without them"
    for more, status, message in (
        (["--detailed-from-roi=2"], 2, "exited before region 2 of --detailed-from-roi began: it has 2 regions"),
        (["--detailed-from-roi=1", "--cores=2", "--args", "2"], 2, "made threads before region 1, and gem5 cannot"),
    ):
        done = run_script(gem5, tmp_path / "bad", *run, *more)
        assert done.returncode == status, done.stdout + done.stderr
        assert message in done.stderr
        assert not (tmp_path / "bad/roi.jsonl").exists()


def test_stop_after_a_region(gem5: Path, guest: Path, tmp_path: Path) -> None:
    done = run_script(gem5, tmp_path, "--system=neoverse-n1", "--cpu=atomic", "--stop-after-roi=0", f"--binary={guest}")
    assert done.returncode == 0, done.stderr
    assert [r["label"] for r in _rows(tmp_path)] == ["sum pass 0"]
    assert "sum 35178345521152" not in done.stdout


@pytest.mark.parametrize(
    "sets",
    [
        {"memory.standard": "ddr5-4800"},
        {"llc.slices": "1", "memory.channels": "1"},
        {"cpu.clock_hz": "3e9", "cpu.l2_bytes": "524288", "llc.slice_bytes": "1572864"},
    ],
)
def test_other_machines(gem5: Path, guest: Path, tmp_path: Path, sets: dict[str, str]) -> None:
    system = load_system("neoverse-n1")
    for key, value in sets.items():
        system = system.with_override(key, value, origin="--set")
    path = run_gem5_se(system, Gem5Options(binary=guest, cpu="timing"), tmp_path / "runs", gem5=gem5)
    config = (path / "config.ini").read_text()
    channels, slices = int(system.values("memory")["channels"]), int(system.values("llc")["slices"])
    assert config.count("type=DRAMInterface") == channels * int(system.values("dram")["subchannels"])
    assert config.count("type=Cache") == 3 + slices
    assert "does not match the address range" not in (path / "gem5.log").read_text()


def test_a_guest_without_regions_is_one_section(gem5: Path, guest: Path, tmp_path: Path) -> None:
    done = run_script(
        gem5, tmp_path, "--system=neoverse-n1", "--cpu=atomic", f"--binary={guest}", "--args", "1", "quiet"
    )
    assert done.returncode == 0, done.stderr
    assert [r["label"] for r in _rows(tmp_path)] == ["whole run"]
    assert len(_sections(tmp_path)) == 1


def test_json_and_toml_build_the_same_machine(gem5: Path, guest: Path, tmp_path: Path) -> None:
    from gempim.resolve import resolved_values

    file = tmp_path / "n1.json"
    file.write_text(json.dumps(resolved_values(load_system("neoverse-n1"))))
    common = ["--cpu=timing", f"--binary={guest}"]
    for name, option in (("a", "--system=neoverse-n1"), ("b", f"--experiment={file}")):
        done = run_script(gem5, tmp_path / name, option, *common)
        assert done.returncode == 0, done.stderr
    ticks = [[s.get("simTicks") for s in _sections(tmp_path / name)] for name in ("a", "b")]
    assert ticks[0] == ticks[1]


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["1", "exit", "7"], 7, "the guest's exit status is 7"),
        (["1", "abort"], 134, "the guest aborted (SIGABRT)"),
        (["1", "open"], 125, "exited inside region 0: m5_work_end is missing"),
    ],
)
def test_a_guest_that_fails(
    gem5: Path, guest: Path, tmp_path: Path, args: list[str], status: int, message: str
) -> None:
    done = run_script(gem5, tmp_path, "--system=neoverse-n1", "--cpu=atomic", f"--binary={guest}", "--args", *args)
    assert done.returncode == status, done.stdout + done.stderr
    assert message in done.stderr
    assert not (tmp_path / "roi.jsonl").exists()


def test_a_guest_that_reads_nowhere(gem5: Path, guest: Path, tmp_path: Path) -> None:
    done = run_script(
        gem5, tmp_path, "--system=neoverse-n1", "--cpu=atomic", f"--binary={guest}", "--args", "1", "segv"
    )
    assert done.returncode != 0
    assert "panic" in done.stderr or "fatal" in done.stderr
    assert not (tmp_path / "roi.jsonl").exists()


def test_max_ticks(gem5: Path, guest: Path, tmp_path: Path) -> None:
    done = run_script(
        gem5, tmp_path, "--system=neoverse-n1", "--cpu=atomic", f"--binary={guest}", "--max-ticks=1000000"
    )
    assert done.returncode == 124
    assert "reached --max-ticks 1000000 before the guest exited" in done.stderr


@pytest.mark.parametrize("cpu", ["timing", "o3"])
def test_checkpoint_and_restore(gem5: Path, guest: Path, tmp_path: Path, cpu: str) -> None:
    """From the fast CPU, at the second region: the restored run measures that region, by its name, and repeatably."""
    base = ["--system=neoverse-n1", "--cores=2", f"--binary={guest}"]
    saved = tmp_path / "cpt"
    done = run_script(
        gem5, tmp_path / "save", *base, "--cpu=atomic_noncaching", f"--checkpoint={saved}", "--checkpoint-at-roi=1",
        "--args", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"checkpoint written: {saved}" in done.stdout
    results = []
    for name in ("a", "b"):
        done = run_script(gem5, tmp_path / name, *base, f"--cpu={cpu}", f"--restore={saved}", "--args", "2")
        assert done.returncode == 0, done.stdout + done.stderr
        assert SUM in done.stdout
        assert [(r["index"], r["label"]) for r in _rows(tmp_path / name)] == [(1, "sum pass 1")]
        section = _sections(tmp_path / name)[0]
        results.append({k: repr(v) for k, v in section.scalars.items() if not k.startswith("host")})
    assert results[0] == results[1]
    done = run_script(gem5, tmp_path / "c", "--system=neoverse-n1", f"--binary={guest}", f"--restore={saved}")
    assert done.returncode == 2
    assert "its cores is 2, this run's is 1; they must be the same" in done.stderr


def test_checkpoints_of_several_regions(gem5: Path, guest: Path, tmp_path: Path) -> None:
    """One run writes them all, with threads alive; each is restored into the detailed cores, where m5_exit ends it."""
    base = ["--system=neoverse-n1", "--cores=3", "--mem-size=512MiB", f"--binary={guest}"]
    fast = [*base, "--cpu=atomic_noncaching"]
    saved = tmp_path / "cpt"
    done = run_script(
        gem5, tmp_path / "save", *fast, f"--checkpoint={saved}", "--checkpoint-at-roi=0,2", "--args", "3", "pool"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = [line for line in done.stdout.splitlines() if line.startswith("run.py: checkpoint written")]
    assert written == [f"run.py: checkpoint written: {saved}/roi-{n}" for n in (0, 2)]
    assert "roi 2 round 3" in done.stdout
    assert "roi 3 round 4" not in done.stdout, "the last one stops the run"
    assert sorted(p.name for p in saved.iterdir()) == ["roi-0", "roi-2"]
    for first in (0, 2):
        out = tmp_path / f"restored{first}"
        done = run_script(
            gem5, out, *base, "--cpu=o3", f"--restore={saved}/roi-{first}", "--args", "3", "pool", timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert [(r["index"], r["label"]) for r in _rows(out)] == [(n, f"round {n + 1}") for n in range(first, 4)]
        sections = _sections(out)
        assert [s.get("simTicks") for s in sections] == [r["sim_ps"] for r in _rows(out)]
        for section in sections:
            for core in range(3):
                assert section.get(f"board.processor.cores{core}.core.commitStats0.numInsts") > (1 << 14) / 3
        assert done.stdout.count(" right\n") == 4 - first
        assert "wrong" not in done.stdout
    again = run_script(
        gem5, tmp_path / "on", *fast, f"--restore={saved}/roi-2", f"--checkpoint={tmp_path}/more",
        "--checkpoint-at-roi=2,3", "--args", "3", "pool",
    )  # fmt: skip
    assert again.returncode == 2
    assert "--checkpoint-at-roi 2: that region has begun already in --restore" in again.stderr


def test_checkpoints_that_are_never_reached_and_the_run_that_goes_on(gem5: Path, guest: Path, tmp_path: Path) -> None:
    base = ["--system=neoverse-n1", "--cpu=atomic_noncaching", "--mem-size=512MiB", f"--binary={guest}"]
    done = run_script(
        gem5, tmp_path / "a", *base, f"--checkpoint={tmp_path}/a.cpt", "--checkpoint-at-roi=1,4,6",
        "--args", "1", "pool",
    )  # fmt: skip
    assert done.returncode == 2
    assert "the guest exited, and the place of --checkpoint was never reached (region 4, region 6)" in done.stderr
    done = run_script(
        gem5, tmp_path / "b", *base, f"--checkpoint={tmp_path}/b.cpt", "--checkpoint-at-roi=0,1", "--stop-after-roi=2",
        "--checkpoint-continue", "--args", "1", "pool",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [r["label"] for r in _rows(tmp_path / "b")] == ["round 1", "round 2", "round 3"]
    sections = _sections(tmp_path / "b")
    assert [s.get("simTicks") for s in sections] == [r["sim_ps"] for r in _rows(tmp_path / "b")]
    done = run_script(
        gem5, tmp_path / "c", *base, f"--restore={tmp_path}/b.cpt/roi-1", "--stop-after-roi=2", "--args", "1", "pool"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    restored = _sections(tmp_path / "c")
    assert [instructions(s) for s in restored] == [instructions(s) for s in sections[1:]]


def test_checkpoint_in_mid_region_continued_and_restored(gem5: Path, guest: Path, tmp_path: Path) -> None:
    base = ["--system=neoverse-n1", "--cpu=atomic", "--caches=none", f"--binary={guest}"]
    whole = run_script(gem5, tmp_path / "whole", *base)
    assert whole.returncode == 0, whole.stderr
    second = _rows(tmp_path / "whole")[1]
    middle = int(second["begin_ps"]) + int(second["sim_ps"]) // 2  # type: ignore[call-overload]
    saved = tmp_path / "cpt"
    done = run_script(
        gem5, tmp_path / "on", *base, f"--checkpoint={saved}", f"--checkpoint-at-tick={middle}", "--checkpoint-continue"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    restored = run_script(gem5, tmp_path / "restored", *base, f"--restore={saved}")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    rest = [_sections(tmp_path / name)[-1] for name in ("on", "restored")]
    assert [_rows(tmp_path / name)[-1]["label"] for name in ("on", "restored")] == ["sum pass 1"] * 2
    assert instructions(rest[0]) == instructions(rest[1]) > 0
    assert rest[0].get("simTicks") == rest[1].get("simTicks") > 0
    assert rest[0].get("simTicks") < second["sim_ps"]  # type: ignore[operator]


def test_host_side(gem5: Path, guest: Path, tmp_path: Path) -> None:
    options = Gem5Options(binary=guest, args=("2",), cpu="timing", cores=2, mem_size="512MiB")
    path = run_gem5_se(load_system("neoverse-n1"), options, tmp_path / "runs", gem5=gem5)
    result = json.loads((path / "result.json").read_text())
    assert [r["label"] for r in result["rois"]] == ["sum pass 0", "sum pass 1"]
    assert result["rois"][0]["pim"] is None
    with pytest.raises(DataError, match=r"(?s)gem5 ended with status 7.*the guest's exit status is 7") as error:
        run_gem5_se(
            load_system("neoverse-n1"), Gem5Options(binary=guest, args=("1", "exit", "7"), cpu="atomic"),
            tmp_path / "runs", gem5=gem5,
        )  # fmt: skip
    assert ".failed-gem5-neoverse-n1-" in str(error.value)
