"""Tidy tables of statistics: every number once, exact, with its true unit; in memory, CSV and Parquet alike."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gempim.analysis.source import open_source
from gempim.analysis.stats import StatsError, parse_stats
from gempim.analysis.tidy_counters import COLUMNS, TIDY_SCHEMA, split_name, tidy_stats, write_tidy
from gempim.quantity import DataError
from gempim.statsfile import BEGIN, format_section

DATA = Path(__file__).with_name("stats_data")


def random_stats(folder: Path) -> Path:
    rng = np.random.default_rng(11)
    sections = []
    for _ in range(3):
        stats = [
            (f"system.c{i}.n{j}::e{j}", int(rng.integers(0, 2**62)), "d", "Count") for i in range(4) for j in range(5)
        ]
        stats += [("simTicks", 2**63 + 5, "t", "Tick"), ("a.rate", float(rng.random()), "r", "Ratio")]
        sections.append(format_section([*stats, ("a.nan", math.nan, "", "Ratio")]))
    (folder / "stats.txt").write_text("".join(sections))
    rows = [{"section": i, "label": f"pass {i}", "index": i} for i in range(2)]
    (folder / "roi.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_every_number_once_and_exact(tmp_path: Path) -> None:
    source = open_source(random_stats(tmp_path))
    frame = tidy_stats(source)
    assert list(frame.columns) == list(COLUMNS)
    sections = parse_stats(tmp_path / "stats.txt")
    assert len(frame) == sum(len(s.scalars) for s in sections)
    for row in frame.itertuples():
        name = ".".join(p for p in (row.component, row.statistic) if p) + (f"::{row.element}" if row.element else "")
        value = sections[row.section].get(name)
        assert row.value == float(value) or (math.isnan(value) and math.isnan(row.value))
        if isinstance(value, int) and value < 2**63:
            assert int(row.integer) == value
        else:
            assert row.integer is pd.NA
    assert list(frame.groupby("section")["label"].first()) == ["pass 0", "pass 1", ""]
    assert set(frame["schema_version"]) == {TIDY_SCHEMA}


def test_units_and_status() -> None:
    """pJ and mW where gem5 declares Joule and Watt; unknown energy is NaN, not 0; both values of a double name."""
    hbm = tidy_stats(open_source(DATA / "v24.0-hbm.txt")).set_index("statistic")
    assert hbm.loc["totalEnergy", ["unit", "declared_unit", "status"]].to_list() == ["pJ", "Joule", "unknown"]
    assert math.isnan(hbm.loc["totalEnergy", "value"])
    assert hbm.loc["totalEnergy", "integer"] is pd.NA
    assert hbm.loc["averagePower", "unit"] == "mW"
    assert hbm.loc["dramBytesRead", ["value", "unit", "status"]].to_list() == [20544, "Byte", "known"]
    twice = tidy_stats(open_source(DATA / "v21-v22-two-idle-cycles.txt"))
    idle = twice[twice["statistic"] == "idleCycles"]
    assert idle[["value", "status"]].to_numpy().tolist() == [[0.0, "ambiguous"], [10899.0, "ambiguous"]]


def test_parquet_is_the_frame(tmp_path: Path) -> None:
    """Section by section, with the schema version and the meaning of the columns in the file."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet is an extra: pip install 'gempim[parquet]'")
    source = open_source(random_stats(tmp_path))
    file = tmp_path / "out.parquet"
    frame = tidy_stats(source)
    assert write_tidy(source, file) == len(frame)
    table = parquet.read_table(file)
    about = json.loads(table.schema.metadata[b"gempim"])
    assert about == {"schema_version": TIDY_SCHEMA, "columns": COLUMNS}
    assert parquet.ParquetFile(file).num_row_groups == 3
    assert table["integer"].to_pylist() == [None if v is pd.NA else int(v) for v in frame["integer"]]
    np.testing.assert_array_equal(np.array(table["value"].to_pylist(), float), frame["value"].to_numpy(float))
    for name in ("component", "element", "unit", "label", "status"):
        assert table[name].to_pylist() == frame[name].to_list()


def test_csv_is_the_frame(tmp_path: Path) -> None:
    source = open_source(random_stats(tmp_path))
    write_tidy(source, tmp_path / "out.csv")
    frame = tidy_stats(source)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["integer"] for row in rows] == ["" if v is pd.NA else str(v) for v in frame["integer"]]
    assert [float(row["value"] or "nan") for row in rows] == pytest.approx(frame["value"].to_list(), rel=0, nan_ok=True)


def test_nothing_is_left_of_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text(format_section([("a", 1, "d", "Count")]) + f"\n{BEGIN}\nb 2\n")
    for name in ("o.csv", "o.parquet"):
        if name == "o.parquet":
            pytest.importorskip("pyarrow")
        with pytest.raises(StatsError, match="truncated"):
            write_tidy(open_source(tmp_path / "s.txt"), tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["s.txt"]


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(DATA / "v24.0-hbm.txt")
    with pytest.raises(DataError, match=r"ends in \.parquet or \.csv"):
        write_tidy(source, tmp_path / "o.xlsx")
    with pytest.raises(DataError, match=r"no/o\.csv: cannot be written"):
        write_tidy(source, tmp_path / "no" / "o.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'gempim\[parquet\]'"):
        write_tidy(source, tmp_path / "o.parquet")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("simTicks", ("", "simTicks", "")),
        ("system.cpu.op::IntAlu", ("system.cpu", "op", "IntAlu")),
        ("system.mem.bytes_read::.cpu.data", ("system.mem", "bytes_read", ".cpu.data")),
        ("a.b::0-63", ("a", "b", "0-63")),
    ],
)
def test_names(name: str, parts: tuple[str, str, str]) -> None:
    assert split_name(name) == parts
