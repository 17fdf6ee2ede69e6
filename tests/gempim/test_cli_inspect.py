"""`gempim inspect` and `gempim diff` as a user runs them, in every output format."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gempim.cli import app
from gempim.quantity import DataError

DATA = Path(__file__).parents[1] / "analysis" / "stats_data"


def run(*args: str | Path) -> str:
    """stdout of a command; a DataError is raised as `main` would catch it."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_sections_labels_components_and_what_is_missing(tmp_path: Path) -> None:
    shutil.copyfile(DATA / "v23.0-two-cores.txt", tmp_path / "stats.txt")
    rows = [{"section": 0, "label": "boot"}, {"section": 1, "label": "kernel", "tokens": 3}]
    (tmp_path / "roi.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = run("inspect", tmp_path / "stats.txt")
    assert "| boot " in text
    assert "| kernel" in text
    assert "| system.cpu1" in text
    assert "mapping file" in text
    assert "load_ops, store_ops, vector_ops, scalar_ops: no micro-operations by class" in text
    found = json.loads(run("inspect", tmp_path / "stats.txt", "--section", "boot", "-o", "json"))
    assert [s["label"] for s in found["sections"]] == ["boot", "kernel"]
    assert [s["instructions"] for s in found["sections"]] == [223863550 + 15604422, 40733 + 307970]
    assert found["sections"][1]["tokens"] == 3
    assert found["sections"][0]["sim_us"] == pytest.approx(4794840.918)
    assert found["sections"][0]["gem5"] == "v23.0"
    components = {c["component"]: c for c in found["components of section 0"]}
    lines = [
        w for w in (line.split() for line in (tmp_path / "stats.txt").read_text().split("End")[0].splitlines()) if w
    ]
    for component in ("system.cpu1.dcache", "system.mem_ctrls.dram"):
        own = [float(w[1]) for w in lines if w[0].startswith(f"{component}.")]
        assert components[component]["statistics"] == len(own)
        assert components[component]["non_zero"] == sum(1 for value in own if value and value == value)
    assert components["system.mem_ctrls.dram"]["non_zero"] < components["system.mem_ctrls.dram"]["statistics"]


def test_counters_of_a_component() -> None:
    """Unknown energy is empty, not 0; zeros only when asked for; a component that is not there names the nearest."""
    rows = list(csv.DictReader(io.StringIO(run("inspect", DATA / "v24.0-hbm.txt", "--component", "system.mem_ctrl.dram",
                                              "-o", "csv"))))  # fmt: skip
    by_name = {row["statistic"]: row for row in rows}
    assert by_name["system.mem_ctrl.dram.readBursts"]["value"] == "321"
    assert by_name["system.mem_ctrl.dram.rank0.totalEnergy"]["value"] == ""
    assert by_name["system.mem_ctrl.dram.rank0.totalEnergy"]["unit"] == "pJ"
    assert "system.mem_ctrl.dram.rank0.totalIdleTime" not in by_name
    assert "totalIdleTime" in run("inspect", DATA / "v24.0-hbm.txt", "--component", "*", "--zeros")
    with pytest.raises(DataError, match=r"nothing matches 'system.mem_ctrls.dram'; nearest: system.mem_ctrl.dram"):
        run("inspect", DATA / "v24.0-hbm.txt", "--component", "system.mem_ctrls.dram")


def test_gzip_json_and_text_say_the_same(tmp_path: Path) -> None:
    packed = tmp_path / "stats.txt.gz"
    packed.write_bytes(gzip.compress((DATA / "v25.0-simple.txt").read_bytes()))
    one, two = (json.loads(run("inspect", p, "-o", "json")) for p in (DATA / "v25.0-simple.txt", packed))
    assert one == two
    # By the content, whatever the name.
    other = tmp_path / "stats.txt"
    other.write_bytes(gzip.compress((DATA / "v24.0-timing.json").read_bytes()))
    for file in (DATA / "v24.0-timing.json", other):
        found = json.loads(run("inspect", file, "-o", "json"))
        assert found["sections"][0]["sim_us"] == pytest.approx(150.874)


def test_sections_of_a_serving_run_have_their_stage_as_label(tmp_path: Path) -> None:
    shutil.copyfile(DATA / "v25.0-simple.txt", tmp_path / "stats.txt")
    (tmp_path / "roi.jsonl").write_text('{"section": 0, "stage": "decode", "layer": "moe", "sim_ps": 454646000}\n')
    (tmp_path / "manifest.json").write_text('{"kind": "serve"}')
    found = json.loads(run("inspect", tmp_path, "-o", "json"))
    assert found["sections"][0]["label"] == "decode moe"
    assert found["missing for a report"] == ["nothing"]


def test_a_damaged_roi_file_is_named(tmp_path: Path) -> None:
    shutil.copyfile(DATA / "v25.0-simple.txt", tmp_path / "stats.txt")
    for text, expect in (
        ('{"section": 0', r"roi\.jsonl: line 1: not valid JSON"),
        ('{"section": 0}', r"roi\.jsonl: line 1: expected a section"),
        ('{"section": "0", "label": "x"}', r"roi\.jsonl: line 1: expected a section"),
        ("[1]", "expected a JSON object, got list"),
    ):
        (tmp_path / "roi.jsonl").write_text(text + "\n")
        with pytest.raises(DataError, match=expect):
            run("inspect", tmp_path / "stats.txt")


def test_a_mapping_file_is_no_statistics_file(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text("schema = 1\n")
    with pytest.raises(DataError, match=r"m\.toml: a mapping file; .* gempim report"):
        run("inspect", tmp_path / "m.toml")


def test_no_such_section_names_what_there_is() -> None:
    with pytest.raises(DataError, match=r"no section 'nope': it has 2 \(0 to 1, or last\); no roi.jsonl"):
        run("inspect", DATA / "v23.0-two-cores.txt", "--section", "nope")


def test_tidy_and_mapping(tmp_path: Path) -> None:
    run("inspect", DATA / "v23.0-two-cores.txt", "--tidy", tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert {row["section"] for row in rows} == {"0", "1"}
    assert "price_key = ?" in run("inspect", DATA / "v25.0-simple.txt", "--mapping")


@pytest.mark.parametrize("output", ["md", "csv", "json", "jsonl"])
def test_diff_in_every_format(output: str) -> None:
    a, b = DATA / "v22.1-o3.txt", DATA / "v22.1-minor.txt"
    text = run("diff", a, b, "-o", output)
    speedup = 7607894000 / 31896443000
    if output == "md":
        assert text.index("## explanation") < text.index("## times") < text.index("## counters")
        assert f"{speedup:.6g}" in text
        return
    if output == "json":
        document = json.loads(text)
        assert document["schema_version"] == 1
        times = document["times"]
    else:
        rows = (
            list(csv.DictReader(io.StringIO(text))) if output == "csv" else [json.loads(t) for t in text.splitlines()]
        )
        assert {row["table"] for row in rows} == {"times", "counters", "explanation"}
        times = [row for row in rows if row["table"] == "times"]
    assert float(times[0]["speedup"]) == pytest.approx(speedup, rel=1e-12)
