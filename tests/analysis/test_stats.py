"""The statistics reader and writer: what is written reads back exactly, and damage is an error with file and line."""

from __future__ import annotations

import contextlib
import gzip
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gempim.analysis.stats import Section, StatsError, dram_energy_j, iter_stats, notes, parse_stats, total, versions
from gempim.analysis.stats.names import present
from gempim.statsfile import BEGIN, END, format_section

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_.]{0,20}(::[a-z0-9]{1,6})?", fullmatch=True)
NUMBERS = st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=True, allow_infinity=True))
TEXT = st.text(
    alphabet=st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cc", "Cs", "Zl", "Zp"))
)


@settings(max_examples=40, deadline=None)
@given(
    sections=st.lists(st.dictionaries(NAMES, st.tuples(NUMBERS, TEXT), min_size=1, max_size=20), min_size=1, max_size=4)
)
def test_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, sections: list[dict[str, tuple[float, str]]]
) -> None:
    """Does every integer and float come back bit for bit, whatever the description says?"""
    file = tmp_path_factory.mktemp("stats") / "stats.txt"
    file.write_text(
        "".join(format_section((n, v, d, "Count") for n, (v, d) in s.items()) for s in sections), encoding="utf-8"
    )
    read = parse_stats(file)
    assert [s.index for s in read] == list(range(len(sections)))
    for section, wrote in zip(read, sections, strict=True):
        assert list(section.scalars) == list(wrote)
        for name, (value, _) in wrote.items():
            back = section.get(name)
            assert type(back) is type(value)
            assert back == value or (math.isnan(back) and math.isnan(value))


def test_real_gem5_spellings(tmp_path: Path) -> None:
    """Does the reader take what gem5 itself prints: percentages, nested units, one-line vectors, no comment, nan?"""
    file = tmp_path / "stats.txt"
    file.write_text(
        f"\n{BEGIN}\n"
        "simSeconds                                   0.001234                       # Number of seconds (Second)\n"
        "bw                                         1.5e+09                       # bandwidth ((Byte/Second))\n"
        "system.cpu.op::IntAlu      250     25.00%     25.00% # Class of instruction (Count)\n"
        "system.cpu.op::IntMult      750     75.00%    100.00% # Class of instruction (Count)\n"
        "system.cpu.ipc                                      nan # with a note (see text) and more\n"
        "system.x                                       -inf\n"
        "system.lat             |          10     50.00%     50.00% |          7     35.00%     85.00% | # l (Tick)\n"
        "system.bare |10 50.00% 50.00% |nan\n"
        f"\n{END}\n"
    )
    (section,) = parse_stats(file)
    assert section.get("simSeconds") == 0.001234
    assert section.units["simSeconds"] == "Second"
    assert section.units["bw"] == "(Byte/Second)"
    assert section.vector("system.cpu.op") == {"IntAlu": 250, "IntMult": 750}
    assert math.isnan(section.get("system.cpu.ipc"))
    assert "system.cpu.ipc" not in section.units
    assert section.get("system.x") == -math.inf
    assert section.vector("system.lat") == {"0": 10, "1": 7}
    assert section.get("system.bare::0") == 10
    assert math.isnan(section.get("system.bare::1"))
    assert section.line == 2


def test_gzip_reads_the_same(tmp_path: Path) -> None:
    text = format_section([("a.b", 3, "d", "Count"), ("c", 0.1, "e", "Ratio")])
    (tmp_path / "stats.txt").write_text(text)
    (tmp_path / "stats.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert parse_stats(tmp_path / "stats.txt")[0].scalars == parse_stats(tmp_path / "stats.txt.gz")[0].scalars


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        (f"{BEGIN}\na 1\n", r"line 1: section 0 begins here and never ends"),
        (f"{BEGIN}\na 1\n{BEGIN}\n", r"line 3: a section begins inside the one that began on line 1"),
        (f"a 1\n{BEGIN}\n", r"line 1: text outside a section"),
        (f"{END}\n", r"line 1: a section ends that never began"),
        (f"{BEGIN}\na 1\n---------- End Simu\n", r"line 3: damaged begin or end mark"),
        (f"{BEGIN}\na one\n{END}\n", r"line 2: a: expected a number, got 'one'"),
        (f"{BEGIN}\na 1_000\n{END}\n", r"line 2: a: expected a number"),
        (f"{BEGIN}\na {'9' * 500}\n{END}\n", r"line 2: a: expected a number"),
        (f"{BEGIN}\na\n{END}\n", r"line 2: expected 'name value"),
        (f"{BEGIN}\na | |\n{END}\n", r"line 2: a vector without elements"),
        (f"{BEGIN}\n{'a' * (1 << 20)}\n{END}\n", r"line 2: longer than 1048576 bytes"),
        ("\n\n", r"no statistics section"),
    ],
)
def test_damage_names_file_and_line(tmp_path: Path, text: str, expect: str) -> None:
    file = tmp_path / "damaged.txt"
    file.write_text(text)
    with pytest.raises(StatsError, match=expect) as info:
        parse_stats(file)
    assert "damaged.txt" in str(info.value)


def parse_or_documented_error(file: Path) -> list[Section] | None:
    try:
        return parse_stats(file)
    except StatsError as caught:
        message = str(caught)
    assert file.name in message
    return None


def overwrite(file: Path, data: bytes) -> None:
    """Without making the file anew, for which some file systems write to the disk at once: ten thousand times 4 ms."""
    with file.open("r+b" if file.exists() else "wb") as out:
        out.write(data)
        out.truncate()


def test_a_cut_off_file_never_passes_as_complete(tmp_path: Path) -> None:
    """What is left of a cut is either whole sections or the documented error."""
    rng = np.random.default_rng(7)
    text = format_section([(f"s.c{i}", int(rng.integers(1, 10**9)), "d", "Count") for i in range(30)]) * 2
    plain = text.replace("\n\n\n", "\n\n").encode()
    packed = gzip.compress(plain)
    last_end = plain.rindex(b"-") + 1
    file = tmp_path / "s.txt"
    for data in (plain, packed):
        for cut in rng.integers(0, len(data), 300):
            overwrite(file, data[:cut])
            sections = parse_or_documented_error(file)
            if sections is not None:
                # Complete sections only: a cut at a section's end is a shorter, whole file.
                assert all(len(s.scalars) == 30 for s in sections)
                assert data is plain or cut >= last_end


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """`data` cut, with bytes flipped, removed, doubled, moved or replaced by tokens that statistics are made of."""
    tokens = (b"|", b"#", b"::", b"nan", b"-inf", b"1e999", b"9" * 40, b"\x00", b"\xff", b'{"', b"}", b"[", b"null",
              b'"type"', b"----------", b"\n", b"\t", b"\xe2\x80\x8b", b"_", b"-0", b"Begin Simulation")  # fmt: skip
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(out) + 1))
        to = min(len(out), at + int(rng.integers(1, 60)))
        kind = int(rng.integers(0, 6))
        if kind == 0:
            del out[at:]
        elif kind == 1:
            del out[at:to]
        elif kind == 2:
            out[at:at] = out[at:to]
        elif kind == 3:
            out[at : at + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 4:
            out[at:to] = tokens[int(rng.integers(0, len(tokens)))]
        else:
            piece = out[at:to]
            del out[at:to]
            to = int(rng.integers(0, len(out) + 1))
            out[to:to] = piece
    return bytes(out)


def test_ten_thousand_damaged_files_raise_only_the_documented_error(tmp_path: Path) -> None:
    """Text, gzip and JSON: reading and, in every third, versions, traps and quantities work or raise StatsError."""
    rng = np.random.default_rng(20)
    data = Path(__file__).with_name("stats_data")
    seeds = [(data / f"{name}.txt").read_bytes() for name in ("v21-v22-two-idle-cycles", "v24.0-hbm", "v25.0-simple")]
    seeds += [(data / "v24.0-timing.json").read_bytes()[:2500], (data / "v24.0-timing.json").read_bytes()]
    seeds += [gzip.compress(seeds[0]), gzip.compress(seeds[-1])]
    file = tmp_path / "s.txt"
    refused = 0
    for case in range(10_000):
        overwrite(file, damaged(rng, seeds[case % len(seeds)]))
        sections = parse_or_documented_error(file)
        refused += sections is None
        for section in (sections or []) if case % 3 == 0 else []:
            present(section)
            for ask in (versions, notes, dram_energy_j, lambda s: total(s, "instructions")):
                with contextlib.suppress(StatsError):
                    ask(section)
    assert 2_000 < refused < 10_000  # otherwise the damage does nothing, or nothing is read at all


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """60 sections of 2000 statistics take no more memory than 3 of them; with `keep`, one section of 120000 neither."""
    lines = "".join(f"system.cpu{i % 7}.c{i:<40d} {i * 977} # count number {i % 50} (Count)\n" for i in range(2000))
    small, large, wide = (tmp_path / name for name in ("small.txt", "large.txt", "wide.txt"))
    small.write_text(f"\n{BEGIN}\n{lines}\n{END}\n" * 3)
    large.write_text(f"\n{BEGIN}\n{lines}\n{END}\n" * 60)
    with wide.open("w") as out:
        out.write(f"\n{BEGIN}\n")
        out.writelines(f"s.c{i} {i} # (Count)\n" for i in range(120_000))
        out.write(f"\n{END}\n")

    def peak(file: Path, keep: object = None) -> int:
        tracemalloc.start()
        count = sum(len(section.scalars) for section in iter_stats(file, keep))  # type: ignore[arg-type]
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count
        return found

    one = peak(small)
    assert peak(large) < 1.2 * one
    assert peak(wide, lambda name: name.endswith("9999")) < one
    assert large.stat().st_size > 6 * one


def test_missing_statistic_names_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "stats.txt"
    file.write_text(format_section([("system.dram.reads", 5, "r", "Count"), ("system.v::a", 1, "v", "Count")]))
    (section,) = iter_stats(file)
    with pytest.raises(StatsError, match=r"no statistic 'system.dram.read'; nearest: system.dram.reads"):
        section.get("system.dram.read")
    with pytest.raises(StatsError, match=r"no vector 'system.w'; nearest: system.v"):
        section.vector("system.w")


@pytest.mark.parametrize("name", ["", "a b", "a#b", "a\tb"])
def test_writer_refuses_names_that_would_not_read_back(name: str) -> None:
    with pytest.raises(ValueError, match="must be one word"):
        format_section([(name, 1, "d", "Count")])


def test_writer_refuses_duplicates_and_non_numbers() -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        format_section([("a", 1, "d", "Count"), ("a", 2, "d", "Count")])
    with pytest.raises(TypeError, match="int or a float"):
        format_section([("a", True, "d", "Count")])
