"""Mapping files: somebody else's gem5 statistics become a run that is reported beside ours; the unknown is an error."""

from __future__ import annotations

import json
import math
import re
import shutil
import tomllib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gempim.analysis import compare, evaluate, load_energy_table, load_prices, load_run, write_report
from gempim.analysis.foreign_draft import draft_mapping
from gempim.analysis.run import RunError
from gempim.analysis.source import open_source
from gempim.analysis.stats import StatsError, parse_stats
from gempim.quantity import DataError
from gempim.statsfile import format_section

from .conftest import make_run

DATA = Path(__file__).with_name("stats_data")

MAPPING = """
schema = 1
stats = "stats.txt"
gem5 = "v25.0"
[system]
name = "theirs"
cores = 2
clock_hz = 2000000000
memory = "DDR4-3200"
energy_table = "default"
price_key = "aws-c6g-16xlarge"
[model]
name = "llama-2-7b"
quant = "q4_0"
arch = "llama"
params = 6738415616
bytes = 3825065984
n_layers = 32
[workload]
batch = 1
prompt = 512
context = 512
tokens = 4
threads = 16
[[roi]]
section = 0
label = "decode"
tokens = 4
context = 512
[counters]
"system.cpu.busyCycles" = "@cycles"
"system.cpu.idlePs" = { value = 0, why = "numCycles has the idle ones" }
"system.cpu.instructions::load" = "@loads"
"system.cpu.instructions::store" = "@stores"
"system.cpu.instructions::vector" = "@vector_instructions"
"system.cpu.instructions::branch" = { value = 0, why = "counted as scalar" }
"system.cpu.instructions::scalar" = { sum = ["@instructions"], minus = ["@loads", "@stores"] }
"system.dram.acts" = "@dram_precharges"
"system.dram.reads" = "system.mem_ctrls.dram.readBursts"
"system.dram.writes" = { sum = ["system.mem*.dram.writeBursts"] }
"system.dram.refs" = { sum = ["simTicks"], times = 2.5e-7, why = "7.8 us, two ranks" }
"system.dram.act_standby_ps" = { sum = ["simTicks"] }
"system.dram.pre_standby_ps" = { sum = ["simTicks"] }
"system.dram.read_bytes" = "@dram_read_bytes"
"system.dram.write_bytes" = "@dram_write_bytes"
"""


HEAD = MAPPING[: MAPPING.index("[counters]")].replace('gem5 = "v25.0"\n', "") + "[counters]\n"
NOTHING = '{ value = 0, why = "none" }'
DRAM = "".join(
    f'"system.dram.{name}" = {NOTHING}\n'
    for name in ("reads", "writes", "refs", "act_standby_ps", "pre_standby_ps", "read_bytes", "write_bytes")
)
"""Every counter of the DRAM but the activations."""


def mapping(folder: Path, text: str = MAPPING, stats: str = "v25.0-simple") -> Path:
    folder.mkdir(exist_ok=True)
    shutil.copyfile(DATA / f"{stats}.txt", folder / "stats.txt")
    file = folder / "theirs.toml"
    file.write_text(text)
    return file


def test_every_counter_by_hand(tmp_path: Path) -> None:
    """The figures of the excerpt, added up as the mapping says."""
    run = load_run(mapping(tmp_path))
    (roi,) = run.rois
    assert (roi.label, roi.tokens, roi.sim_ps, roi.context) == ("decode", 4, 454646000, 512)
    scalars = run.section_of(roi).scalars
    assert {k: v for k, v in scalars.items() if k.startswith("system.")} == {
        "system.cpu.cores": 2, "system.cpu.threads": 16, "system.cpu.busyCycles": 909292, "system.cpu.idlePs": 0,
        "system.cpu.instructions::load": 1084, "system.cpu.instructions::store": 943,
        "system.cpu.instructions::vector": 0, "system.cpu.instructions::branch": 0,
        "system.cpu.instructions::scalar": 5714 - 1084 - 943, "system.dram.acts": 840, "system.dram.reads": 8207,
        "system.dram.writes": 96, "system.dram.refs": 454646000 * 2.5e-7, "system.dram.act_standby_ps": 454646000,
        "system.dram.pre_standby_ps": 454646000, "system.dram.read_bytes": 525248, "system.dram.write_bytes": 6144,
    }  # fmt: skip
    assert roi.operators[0].dram_read_bytes == 525248
    assert run.system == "theirs"


def test_reported_beside_our_own_run(tmp_path: Path) -> None:
    """Rates against simulated time, energy by the same table, one comparison table, a report with both."""
    prices = load_prices()
    runs = [load_run(make_run(tmp_path / "ours")), load_run(mapping(tmp_path / "m"))]
    results = [evaluate(r, load_energy_table(str(r.experiment["energy_table"])), prices) for r in runs]
    theirs = results[1].decode
    assert theirs is not None
    assert theirs.tokens_per_s == pytest.approx(4 / 454.646e-6, rel=1e-12)
    assert not theirs.energy.unknown
    frame = compare(results, "neoverse-n1")
    row = frame[frame["system"] == "theirs"].iloc[0]
    ours = results[0].decode
    assert ours is not None
    assert row["speedup"] == pytest.approx(theirs.tokens_per_s / ours.tokens_per_s, rel=1e-12)
    page = write_report(results, tmp_path / "out")
    text = page.read_text()
    assert "theirs" in text
    # The table's name and hash are in the report.
    assert theirs.energy.items
    assert results[1].energy_table.sha256[:12] in text


def test_sections_of_a_token_are_parts_of_a_region(tmp_path: Path) -> None:
    """Two sections that made one token: times and counts add up, each is an operator; a third is left out by name."""
    text = (
        MAPPING.replace('gem5 = "v25.0"\n', "")
        .replace("section = 0\nlabel", "label")
        .replace(
            "[counters]",
            '[[roi.part]]\nsection = 0\noperator = "attention"\n[[roi.part]]\nsection = 2\noperator = "ffn"\n'
            '[[skip]]\nsection = 1\nwhy = "warm-up"\n[counters]',
        )
    )
    file = mapping(tmp_path, text)
    whole = (tmp_path / "stats.txt").read_text()
    (tmp_path / "stats.txt").write_text(whole * 3)
    (roi,) = load_run(file).rois
    assert [(op.name, op.time_ps) for op in roi.operators] == [("attention", 454646000), ("ffn", 454646000)]
    assert roi.sim_ps == 2 * 454646000
    scalars = load_run(file).section_of(roi).scalars
    assert scalars["system.dram.reads"] == 2 * 8207
    assert scalars["system.cpu.cores"] == 2


def test_a_mapped_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """40 sections of which one is a region: no more memory than the file with that section alone and another."""
    skips = "".join(f'[[skip]]\nsection = {i}\nwhy = "warm-up"\n' for i in range(1, 40))
    text = (DATA / "v25.0-simple.txt").read_text()
    filler = "".join(f"system.filler.c{i:<30d} {i}  # (Count)\n" for i in range(3000))
    section = text.replace("simFreq ", filler + "simFreq ", 1)

    def peak(sections: int, skip: str) -> int:
        file = mapping(tmp_path, MAPPING.replace("[counters]", skip + "[counters]"))
        (tmp_path / "stats.txt").write_text(section * sections)
        load_run(file)  # what is kept for good (tables, patterns) is not of this file
        tracemalloc.start()
        load_run(file)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(40, skips) < 1.5 * peak(2, skips.split("[[skip]]\nsection = 2")[0])


def test_a_zero_that_gem5_left_out(tmp_path: Path) -> None:
    """`absent` stands for a statistic that a section lacks and another one has; one that none has stays an error."""
    line = '"system.dram.acts" = { sum = ["acts"], absent = 0, why = "zeros are not printed" }\n'
    rois = '[[roi]]\nsection = 1\nlabel = "decode"\ntokens = 1\ncontext = 1\n[counters]'
    file = mapping(tmp_path, HEAD.replace("[counters]", rois) + line + DRAM)
    base = [("simTicks", 10**6, "t", "Tick"), ("simFreq", 10**12, "f", "Hz")]
    stats = tmp_path / "stats.txt"
    stats.write_text(format_section(base) + format_section([*base, ("acts", 8, "a", "Count")]))
    assert [s.get("system.dram.acts") for s in load_run(file).sections] == [0, 8]
    file.write_text(file.read_text().replace('["acts"]', '["act"]'))
    with pytest.raises(StatsError, match=r'acts": in no section: .*no statistic .act.'):
        load_run(file)


def test_another_tick_than_a_picosecond(tmp_path: Path) -> None:
    stats = {"simTicks": 1000, "simFreq": 10**9, "system.cpu.numCycles": 5}
    file = mapping(tmp_path, HEAD + DRAM + f'"system.dram.acts" = {NOTHING}\n')
    (tmp_path / "stats.txt").write_text(format_section((n, v, "d", "Count") for n, v in stats.items()))
    assert load_run(file).rois[0].sim_ps == 1_000_000
    # Another statistic than gem5's own.
    time = '[time]\nticks = "system.cpu.numCycles"\nper_second = 1000\n[model]'
    file.write_text(file.read_text().replace("[model]", time))
    assert load_run(file).rois[0].sim_ps == 5 * 10**9


BAD: list[tuple[str, str, str]] = [
    ("schema = 1", "schema = 2", "schema: expected 1, got 2"),
    ('stats = "stats.txt"', 'stats = "none.txt"', r"stats: .*none\.txt: no such file"),
    ('gem5 = "v25.0"', 'gem5 = "v22.1"', r"gem5: says v22\.1, but .* has statistics of v23\.1 or later"),
    ('gem5 = "v25.0"', 'gem5 = "new"', 'gem5: expected a version such as "v24.0"'),
    ('gem5 = "v25.0"', 'gem6 = "v25.0"', "unknown key 'gem6'; did you mean 'gem5'"),
    ("clock_hz = 2000000000", "clock_hz = 900000000", "909292 busy cycles .* have 818363 in that time"),
    ("clock_hz = 2000000000\n", "", "system: missing key 'clock_hz'"),
    ('memory = "DDR4-3200"\n', "", "system.memory is missing: energy table default is for ddr4-3200"),
    ("DDR4-3200", "HBM2-2000", "system.memory: HBM2-2000, but energy table default is for ddr4-3200"),
    ("[model]", '[time]\nticks = "finalTicks"\nper_second = 1000000000\n[model]', "no statistic 'finalTicks'"),
    ("[model]", '[time]\nticks = "@time"\nper_second = 1\n[model]', "time.ticks: no quantity '@time'"),
    ("[model]", '[time]\nticks = "simTicks"\n[model]', "time: missing key 'per_second'"),
    ("cores = 2", "cores = 0", r"system\.cores: expected at least 1, got 0"),
    ("cores = 2", 'cores = "2"', r"system\.cores: expected int, got '2'"),
    ("cores = 2", "cores = 2\nclock = 3", r"system: unknown key 'clock'"),
    ('name = "theirs"', 'name = ""', r"system\.name: expected str, got ''"),
    ("n_layers = 32\n", "", "model: missing key 'n_layers'"),
    ("batch = 1", "batch = 0", r"workload\.batch: expected at least 1, got 0"),
    ("section = 0\nlabel", "part = []\nlabel", r"expected at least one \[\[roi.part"),
    ("[counters]", '[[skip]]\nsection = 1\nwhy = "x"\n[counters]', r"skip\[0\]\.section: 1, but .* has 1 sections"),
    ("[counters]", '[[skip]]\nsection = 1\nwhy = "x"\n' * 2 + "[counters]", r"skip\[1\]\.section: 1 is in skip\[0\]"),
    ("threads = 16", "threads = true", r"workload\.threads: expected int, got True"),
    ('label = "decode"', 'label = "decoding"', r"roi\[0\]\.label: 'decoding' .*; did you mean"),
    ("tokens = 4\ncontext = 512\n[counters]", "tokens = 0\ncontext = 512\n[counters]", r"0.\.tokens: expected at"),
    ("section = 0", "section = 1", r"roi\[0\]\.section: 1, but .* has 1 sections"),
    ("section = 0", "", "either section, or"),
    ("section = 0", 'section = 0\ndevice = "tpu"', r"roi\[0\]\.device: 'tpu'"),
    ("section = 0", 'section = 0\ndevice = "sram_pim"', r"sram_pim.commands\" is missing or 0"),
    ("[counters]", '[[skip]]\nsection = 0\nwhy = "x"\n[counters]', r"section: 0 is in skip\[0\] already"),
    ("[counters]", '[[roi]]\nsection = 0\nlabel = "decode"\ntokens = 1\ncontext = 1\n[counters]', "in roi.0. already"),
    ('"@cycles"', '"@cycle"', r"no quantity '@cycle'; did you mean 'cycles'"),
    ('"@cycles"', '"system.cpu.numCycle"', r"busyCycles.*no statistic 'system.cpu.numCycle'; nearest: system.cpu.numC"),
    ("system.mem*.dram.writeBursts", "system.mem*.dram.writeBurst", "nothing matches .*nearest: system.mem_ctrls"),
    ("system.cpu.busyCycles", "system.cpu.busyCycle", "no such counter; did you mean 'system.cpu.busyCycles'"),
    ("system.dram.acts", "system.dram.activations", "no such counter"),
    ('"system.dram.refs" = { sum = ["simTicks"], times = 2.5e-7, why = "7.8 us, two ranks" }\n', "",
     '"system.dram.refs" is missing, which energy table default needs for dram.refresh'),
    (', why = "7.8 us, two ranks"', "", "times needs why"),
    ("times = 2.5e-7", "times = 0", r"times: expected a number above 0, got 0"),
    ("value = 0, why", "value = -1, why", r"value: expected a number from 0, got -1"),
    ('"counted as scalar"', '""', "value needs why"),
    ('{ sum = ["system.mem*.dram.writeBursts"] }', '{ sum = ["simTicks"], absent = 0 }', "absent needs why"),
    ('value = 0, why = "counted', 'value = 0, sum = ["simTicks"], why = "counted', "value stands alone"),
    ('minus = ["@loads", "@stores"]', 'minus = ["simTicks"]', "-4.*in section 0 of .*expected a count"),
    ('minus = ["@loads", "@stores"]', "average = 1", "unknown key 'average'"),
    ('sum = ["@instructions"]', "sum = []", "expected at least one statistic"),
    ('energy_table = "default"', 'energy_table = "defaul"', "no energy table 'defaul'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expect"), BAD)
def test_anything_else_is_an_error(tmp_path: Path, old: str, new: str, expect: str) -> None:
    assert old in MAPPING
    file = mapping(tmp_path, MAPPING.replace(old, new, 1))
    with pytest.raises(DataError, match=expect) as caught:
        load_run(file)
    assert tmp_path.name in str(caught.value)


def test_damaged_mappings_raise_only_the_documented_error(tmp_path: Path) -> None:
    """Lines removed, doubled, values replaced by anything that TOML can hold, characters by others."""
    rng = np.random.default_rng(8)
    file = mapping(tmp_path)
    good = MAPPING.strip().splitlines()
    junk = ["1", "-1", "1e400", "nan", "true", '"x"', "[]", "{}", "[1, 2]", "{ a = 1 }", '["*"]', "2024-01-01", '""',
            "[{}]", "9" * 22, '"\\u0000"', "[[]]", '"@cycles"']  # fmt: skip
    refused = 0
    for _ in range(300):
        lines = list(good)
        for _ in range(int(rng.integers(1, 4))):
            at, kind = int(rng.integers(0, len(lines))), int(rng.integers(0, 4))
            new = junk[int(rng.integers(0, len(junk)))]
            if kind == 0:
                del lines[at]
            elif kind == 1:
                lines.insert(int(rng.integers(0, len(lines))), lines[at])
            elif kind == 2 and " = " in lines[at]:
                lines[at] = lines[at].split(" = ", 1)[0] + " = " + new
            else:
                cut = int(rng.integers(0, len(lines[at]) + 1))
                lines[at] = lines[at][:cut] + new + lines[at][cut + 1 :]
        file.write_text("\n".join(lines))
        caught: DataError | None = None
        try:
            load_run(file)
        except DataError as error:
            caught = error
        refused += caught is not None
        assert caught is None or str(tmp_path) in str(caught)
    assert refused > 150


def test_a_section_that_nobody_names_is_an_error(tmp_path: Path) -> None:
    """Never averaged, never dropped silently."""
    file = mapping(tmp_path, MAPPING.replace('gem5 = "v25.0"\n', ""))
    stats = tmp_path / "stats.txt"
    stats.write_text(stats.read_text() * 2)
    with pytest.raises(DataError, match=r"section 1 of .* is in no \[\[roi\]\]"):
        load_run(file)


def test_random_sums_against_numpy(tmp_path: Path) -> None:
    """sum, minus, times and patterns over random statistics, against the same in numpy."""
    rng = np.random.default_rng(3)
    values = rng.integers(1, 10**6, 12)
    stats: list[tuple[str, int, str, str]] = [
        (f"system.mc{i}.acts", int(v), "d", "Count") for i, v in enumerate(values)
    ]
    stats += [("simTicks", 1000, "t", "Tick"), ("simFreq", 10**12, "t", "Tick"), ("off", 17, "d", "Count")]
    line = '"system.dram.acts" = { sum = ["system.mc*.acts"], minus = ["off"], times = 3, why = "three" }\n'
    file = mapping(tmp_path, HEAD + line + DRAM)
    (tmp_path / "stats.txt").write_text(format_section(stats))
    assert load_run(file).sections[0].get("system.dram.acts") == 3 * (int(values.sum()) - 17)


def test_a_draft_is_no_mapping_and_names_what_the_file_has(tmp_path: Path) -> None:
    source = open_source(DATA / "v22.1-o3.txt")
    text = draft_mapping(source, parse_stats(source.stats)[0])
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(text)
    assert '"system.dram.acts" = "@dram_precharges"' not in text
    assert '"system.dram.reads" = "@dram_read_bursts"' in text
    assert '# "system.dram.refs" = ?' in text
    assert tomllib.loads(re.sub(r"\?", "1", text))["system"]["cores"] == 1


def test_a_filled_draft_is_a_mapping_with_the_pim_in_it(tmp_path: Path) -> None:
    """Everything that a PIM's statistics file has is drafted; what is left needs a number or a reason."""
    stats = {"simTicks": 10**6, "simFreq": 10**12, "system.cpu.numCycles": 500}
    ours = [row.stat for row in load_energy_table("default").rows if row.stat.startswith("system.sram_pim.")]
    stats |= {name.replace("system.", "board.x.", 1): 5 + i for i, name in enumerate(ours)}
    stats |= {"board.x.sram_pim.commands": 3}
    (tmp_path / "stats.txt").write_text(format_section((n, v, "d", "Count") for n, v in stats.items()))
    source = open_source(tmp_path / "stats.txt")
    text = draft_mapping(source, parse_stats(source.stats)[0])
    known = {
        "quant": '"q4_0"',
        "arch": '"llama"',
        "price_key": '"aws-c6g-16xlarge"',
        "label": '"decode"',
        "name": '"n"',
    }
    known |= {"clock_hz": "500000000", "memory": '"DDR4-3200"'}
    lines = []
    for line in text.splitlines():
        key = line.split(" = ")[0]
        if line.startswith("# "):
            line = f"{key[2:]} = {NOTHING}" if line.endswith(" = ?") else line
        elif " = ?" in line:
            line = f"{key} = {known.get(key, 1)}"
        lines += [line, 'device = "sram_pim"\noperator = "gemv"\nflops = 77'] if key == "section" else [line]
    (tmp_path / "m.toml").write_text("\n".join(lines).replace("cores = 1 ", "cores = 1"))
    (roi,) = load_run(tmp_path / "m.toml").rois
    assert (roi.operators[0].device, roi.operators[0].pim_commands, roi.operators[0].flops) == ("sram_pim", 3, 77)
    scalars = load_run(tmp_path / "m.toml").sections[0].scalars
    for name, value in stats.items():
        if name.startswith("board.x."):
            assert scalars[name.replace("board.x.", "system.")] == value


def test_a_report_of_mappings_alone(tmp_path: Path) -> None:
    """Nothing has a FLOP count then: the roofline is empty, and is drawn."""
    run = load_run(mapping(tmp_path))
    result = evaluate(run, load_energy_table("default"), load_prices())
    assert write_report([result], tmp_path / "out").is_file()


def guest_run(folder: Path) -> Path:
    """What `gempim run --engine gem5-se --binary GUEST` leaves: counters and times, no model."""
    folder.mkdir(parents=True)
    shutil.copyfile(DATA / "v25.0-simple.txt", folder / "stats.txt")
    (folder / "roi.jsonl").write_text(
        '{"schema": 1, "section": 0, "label": "whole run", "index": 0, "sim_ps": 454646000}\n'
    )
    experiment = {"engine": "gem5-se", "system": {"name": "sail"}, "gem5": {"binary": "gemv", "cpu": "timing"},
                  "energy_table": "default", "price_key": "x"}  # fmt: skip
    manifest: dict[str, Any] = {"schema": 1, "status": "complete", "kind": "gem5-se", "experiment": experiment,
                                "experiment_hash": "0", "created": "now", "versions": {}}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_guest_programs_run_is_refused_with_what_to_use(tmp_path: Path) -> None:
    """It failed with "missing key 'model'"."""
    folder = guest_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"guest program gemv.*no model and no tokens.*gempim inspect.*gempim diff") as e:
        load_run(folder)
    assert "missing key" not in str(e.value)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["kind"] = "embedded"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="missing key 'model'"):
        load_run(folder)


def test_a_statistic_of_nan_is_no_count(tmp_path: Path) -> None:
    file = mapping(tmp_path, MAPPING.replace('"@cycles"', '"bad"'))
    stats = tmp_path / "stats.txt"
    stats.write_text(stats.read_text().replace("simFreq ", "bad nan\nsimFreq ", 1))
    assert math.isnan(parse_stats(stats)[0].get("bad"))
    with pytest.raises(StatsError, match=r"busyCycles.*nan in section 0"):
        load_run(file)
