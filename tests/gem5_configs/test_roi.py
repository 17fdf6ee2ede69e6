"""Regions of interest: one statistics section each, with the name that the guest gave it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from spec import checkpoint
from spec.errors import SpecError
from spec.roi import RoiError, RoiLog, jsonl, labels


class Clock:
    """Counts resets and dumps, with a time that the test sets."""

    def __init__(self) -> None:
        self.tick, self.events = 0, []

    def log(self, first_index: int = 0, measured_from: int = 0) -> RoiLog:
        return RoiLog(
            reset=lambda: self.events.append(("reset", self.tick)),
            dump=lambda: self.events.append(("dump", self.tick)),
            now=lambda: self.tick,
            first_index=first_index,
            measured_from=measured_from,
        )


def test_sections_in_order_with_labels() -> None:
    clock = Clock()
    log = clock.log()
    for begin, end in ((10, 25), (40, 41)):
        clock.tick = begin
        log.begin(7)
        clock.tick = end
        log.end(7)
    log.finish()
    assert clock.events == [("reset", 10), ("dump", 25), ("reset", 40), ("dump", 41)]
    text = jsonl(log.rows, labels("noise\nroi 1 gemv q4_0 batch 1  \nroi 0 warm-up\nroi x\n roi 0 not at the start\n"))
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(r["section"], r["index"], r["label"], r["begin_ps"], r["sim_ps"]) for r in rows] == [
        (0, 0, "warm-up", 10, 15),
        (1, 1, "gemv q4_0 batch 1", 40, 1),
    ]
    assert all(r["schema"] == 1 and r["work_id"] == 7 for r in rows)


def test_a_guest_without_regions_is_one() -> None:
    clock = Clock()
    log = clock.log()
    clock.tick = 99
    log.finish()
    assert clock.events == [("dump", 99)]
    assert json.loads(jsonl(log.rows, {}))["label"] == "whole run"


def test_regions_before_the_measured_ones_count_and_leave_nothing() -> None:
    clock = Clock()
    log = clock.log(measured_from=2)
    for index in range(4):
        clock.tick = 10 * index + 10
        assert log.begin(index) == index
        with pytest.raises(RoiError, match="ends with 9"):
            log.end(9)
        clock.tick += 5 if index >= 2 else 0
        log.end(index)
    log.finish()
    assert [event for event in clock.events if event[0] == "dump"] == [("dump", 35), ("dump", 45)]
    rows = [json.loads(line) for line in jsonl(log.rows, {1: "load", 2: "decode"}).splitlines()]
    assert [(r["section"], r["index"], r["label"]) for r in rows] == [(0, 2, "decode"), (1, 3, "roi 3")]


def test_unnamed_regions_have_a_name() -> None:
    clock = Clock()
    log = clock.log(first_index=3)
    log.begin(0)
    clock.tick = 5
    log.end(0)
    assert json.loads(jsonl(log.rows, {0: "not this one"}))["label"] == "roi 3"


def test_marks_that_do_not_pair_up() -> None:
    clock = Clock()
    log = clock.log()
    with pytest.raises(RoiError, match=r"m5_work_end .* without m5_work_begin"):
        log.end(0)
    log.begin(1)
    with pytest.raises(RoiError, match="region 1 begins inside region 0"):
        log.begin(1)
    with pytest.raises(RoiError, match="began with work id 1, ends with 2"):
        log.end(2)
    with pytest.raises(RoiError, match="region 0 took no simulated time"):
        log.end(1)
    with pytest.raises(RoiError, match="exited inside region 0"):
        log.finish()
    assert clock.events == [("reset", 0)]
    assert RoiError.status == 125


def test_the_rest_of_a_region_after_a_checkpoint() -> None:
    clock = Clock()
    log = clock.log(first_index=2)
    clock.tick = 1000
    log.reopen(1, 4)
    assert log.open_region == {"index": 1, "work_id": 4}
    clock.tick = 1500
    log.end(4)
    assert log.begin(0) == 2
    assert json.loads(jsonl(log.rows, {1: "decode"}))["sim_ps"] == 500


def _facts(elf: Path, **change: object) -> dict[str, object]:
    options = {"binary": str(elf), "caches": "n1", "cores": 4, "mem_bytes": 1 << 30, "args": ["-m", "1"], "env": []}
    return checkpoint.facts({"system": "sail", "sections": {}}, SimpleNamespace(**(options | change)), True)


def test_checkpoint_is_restored_into_its_own_machine_only(elf: Path, tmp_path: Path) -> None:
    checkpoint.save(str(tmp_path), _facts(elf), 2, {"index": 1, "work_id": 0}, "roi 1 decode\n")
    doc = checkpoint.load(str(tmp_path), _facts(elf))
    assert (doc["next_index"], doc["open_region"]["index"], doc["guest_output"]) == (2, 1, "roi 1 decode\n")
    with pytest.raises(SpecError, match="its cores is 4, this run's is 1; they must be the same"):
        checkpoint.load(str(tmp_path), _facts(elf, cores=1))
    with pytest.raises(SpecError, match="its args is"):
        checkpoint.load(str(tmp_path), _facts(elf, args=[]))
    with pytest.raises(SpecError, match=r"not a checkpoint of gempim's run\.py"):
        checkpoint.load(str(tmp_path / "elsewhere"), _facts(elf))
