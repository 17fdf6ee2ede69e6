"""Run directories: complete ones load, anything half-written, damaged or contradictory is an error naming the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gempim.analysis.run import RunError, load_run
from gempim.quantity import DataError

from .conftest import make_run


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_roi(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    rows = [json.loads(line) for line in (folder / "roi.jsonl").read_text().splitlines()]
    change(rows)
    (folder / "roi.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_loads_what_was_written(sail: Path) -> None:
    run = load_run(sail)
    assert run.system == "sail"
    assert len(run.sections) == len(run.rois) == 5
    assert [r.label for r in run.rois] == ["prefill"] + ["decode"] * 4
    assert run.pim_devices() == ("sram_pim",)
    assert run.lookup("experiment.workload.batch") == 1
    with pytest.raises(RunError, match=r"no key 'experiment.workload.bacth'.*did you mean 'batch'"):
        run.lookup("experiment.workload.bacth")


@pytest.mark.parametrize("name", ["manifest.json", "stats.txt", "roi.jsonl"])
def test_missing_file(n1: Path, name: str) -> None:
    (n1 / name).unlink()
    with pytest.raises(RunError, match=r"incomplete run: no " + name.replace(".", r"\.")):
        load_run(n1)


@pytest.mark.parametrize("name", ["manifest.json", "stats.txt", "roi.jsonl"])
def test_truncated_anywhere(n1: Path, name: str) -> None:
    """Is a file that was cut off at any place refused?"""
    data = (n1 / name).read_bytes().rstrip()
    for share in (0.0, 0.1, 0.35, 0.6, 0.9, 0.99):
        (n1 / name).write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            load_run(n1)


def test_a_last_line_without_its_end_is_truncated(n1: Path) -> None:
    """Cut right after a number, a line can still be JSON by chance; its end of line shows that it is whole."""
    (n1 / "roi.jsonl").write_bytes((n1 / "roi.jsonl").read_bytes()[:-1])
    with pytest.raises(RunError, match=r"roi\.jsonl: the last line does not end"):
        load_run(n1)


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        load_run(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "expect"),
    [
        (lambda m: m.update(status="running"), r"not complete \(status 'running'\)"),
        (lambda m: m.update(schema=2), r"schema 2; this version of gempim reads schema 1"),
        (lambda m: m.pop("experiment"), r"missing key 'experiment'"),
        (lambda m: m["experiment"]["workload"].pop("batch"), r"experiment.workload: missing key 'batch'"),
        (lambda m: m["experiment"]["workload"].update(batch=0), r"batch: expected at least 1, got 0"),
        (lambda m: m["experiment"]["workload"].update(batch=True), r"batch: expected int, got True"),
        (lambda m: m["experiment"]["model"].update(params="7B"), r"params: expected int, got '7B'"),
        (lambda m: m["experiment"].update(price_key=None), r"price_key: expected str, got None"),
    ],
)
def test_bad_manifest(n1: Path, change: Callable[[dict[str, Any]], None], expect: str) -> None:
    edit_manifest(n1, change)
    with pytest.raises(RunError, match=expect) as info:
        load_run(n1)
    assert "manifest.json" in str(info.value)


@pytest.mark.parametrize(
    ("change", "expect"),
    [
        (lambda r: r.pop(), r"has 4 regions of interest but stats.txt has 5 sections"),
        (lambda r: r[1].update(section=3), r"line 2: section 3, expected 1"),
        (lambda r: r[1]["operators"][0].update(time_ps=5), r"operator times add up to"),
        (lambda r: r[1].update(label="warmup"), r"label 'warmup' \(allowed: prefill, decode\)"),
        (lambda r: r[1]["operators"][0].pop("flops"), r"operators\[0\]: missing key 'flops'"),
        (lambda r: r[1]["operators"][0].update(flops=-1), r"flops: expected at least 0, got -1"),
        (lambda r: r[1]["operators"][0].update(flops=1.5), r"flops: expected int, got 1.5"),
        (lambda r: r[1].update(operators=[]), r"no operators"),
        (lambda r: r[1].update(tokens=0), r"tokens: expected at least 1"),
        (lambda r: r[1].update(schema=9), r"schema 9"),
    ],
)
def test_bad_roi(n1: Path, change: Callable[[list[dict[str, Any]]], None], expect: str) -> None:
    edit_roi(n1, change)
    with pytest.raises(RunError, match=expect):
        load_run(n1)


def test_time_of_section_and_region_must_agree(n1: Path) -> None:
    """A roi.jsonl of another run with the same number of regions must not pass."""

    def longer(rows: list[dict[str, Any]]) -> None:
        rows[2]["sim_ps"] += 10
        rows[2]["operators"][0]["time_ps"] += 10

    edit_roi(n1, longer)
    with pytest.raises(RunError, match=r"line 3 \(decode 1\): sim_ps is .* but section 2 of stats.txt says"):
        load_run(n1)


def test_gzipped_statistics(n1: Path) -> None:
    import gzip

    (n1 / "stats.txt.gz").write_bytes(gzip.compress((n1 / "stats.txt").read_bytes()))
    (n1 / "stats.txt").unlink()
    assert len(load_run(n1).sections) == 5


def test_analysis_never_imports_the_simulator() -> None:
    """Does any module of analysis import an engine, the device models or the lowering, directly or by name?"""
    import ast

    import gempim.analysis

    folder = Path(gempim.analysis.__file__).parent
    files = sorted(folder.rglob("*.py"))
    assert len(files) > 8
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [f"{node.module}.{a.name}" for a in node.names]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                assert not name.startswith(("gempim.engines", "gempim._engine", "gempim.models", "gempim.lowering")), (
                    file
                )


def test_two_runs_do_not_share_content(tmp_path: Path) -> None:
    a, b = load_run(make_run(tmp_path / "a", seed=1)), load_run(make_run(tmp_path / "b", seed=2))
    assert a.sections[0].get("system.dram.acts") != b.sections[0].get("system.dram.acts")
