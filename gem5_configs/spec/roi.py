"""Regions of interest: which statistics section belongs to which part of the guest.

The guest brackets a region with gem5's m5_work_begin and m5_work_end operations, and says what it is with a line
``roi <index> <label>`` on its stdout; the index counts the regions from 0.
"""

import json
import re
from typing import Any, Callable, Dict, List, Optional

from spec.errors import SpecError

SCHEMA = 1
"""Schema version of roi.jsonl, the same as that of gempim's run directories."""

WHOLE_RUN = "whole run"
"""Label of the only section of a guest that marks no region."""

_LABEL = re.compile(r"^roi (\d+) (\S.*?)\s*$", re.MULTILINE)


class RoiError(SpecError):
    """The guest's marks do not pair up. `status`: the process's exit status."""

    status = 125


class RoiLog:
    """Resets the statistics when a region begins, dumps them when it ends, and remembers what each dump was."""

    def __init__(
        self,
        reset: Callable[[], None],
        dump: Callable[[], None],
        now: Callable[[], int],
        first_index: int = 0,
        measured_from: int = 0,
    ) -> None:
        """
        :param now: gives the tick
        :param first_index: index of the next region (above 0 after a restored checkpoint)
        :param measured_from: regions with a lower index are counted and paired, and leave no section
        """
        self._reset, self._dump, self._now = reset, dump, now
        self.next_index = first_index
        self._measured_from = measured_from
        self.start_tick = 0
        """Where this run began: above 0 after a restored checkpoint."""
        self.rows: List[Dict[str, Any]] = []
        self._open: Optional[Dict[str, Any]] = None

    @property
    def open_region(self) -> Optional[Dict[str, int]]:
        """`index` and `work_id` of the region that has begun and not ended."""
        return None if self._open is None else {k: int(self._open[k]) for k in ("index", "work_id")}

    def begin(self, work_id: int) -> int:
        """A region begins. :return: its index. :raises RoiError: the one before it has not ended"""
        if self._open is not None:
            raise RoiError(
                f"guest: region {self.next_index} begins inside region {self._open['index']}; only one thread marks"
                " regions, and they do not nest"
            )
        self._open = {"index": self.next_index, "work_id": work_id, "begin_tick": self._now()}
        self.next_index += 1
        self._reset()
        return int(self._open["index"])

    def end(self, work_id: int) -> int:
        """The region ends.

        :return: its index
        :raises RoiError: none has begun, another one has, or no simulated time has passed in a measured one
        """
        if self._open is None:
            raise RoiError(f"guest: m5_work_end (work id {work_id}) without m5_work_begin")
        if work_id != self._open["work_id"]:
            raise RoiError(
                f"guest: region {self._open['index']} began with work id {self._open['work_id']}, ends with {work_id}"
            )
        index = int(self._open["index"])
        if index >= self._measured_from:
            self._finish(self._open)
        self._open = None
        return index

    def reopen(self, index: int, work_id: int) -> None:
        """Measure the rest of a region only: from now, after a checkpoint inside it was written or restored."""
        self._open = {"index": index, "work_id": work_id, "begin_tick": self._now()}
        self.next_index = index + 1
        self._reset()

    def finish(self) -> None:
        """The guest has exited: without any region the whole run is one.

        :raises RoiError: a region is still open
        """
        if self._open is not None:
            raise RoiError(f"guest: it exited inside region {self._open['index']}: m5_work_end is missing")
        if not self.rows:
            self._finish({"index": self.next_index, "work_id": None, "begin_tick": self.start_tick, "label": WHOLE_RUN})

    def _finish(self, row: Dict[str, Any]) -> None:
        now = self._now()
        if now == row["begin_tick"]:
            raise RoiError(f"guest: region {row['index']} took no simulated time")
        self._dump()
        self.rows.append({"section": len(self.rows), **row, "end_tick": now})


def labels(guest_output: str) -> Dict[int, str]:
    """Labels by index from the guest's stdout; the last line of an index counts."""
    return {int(index): label for index, label in _LABEL.findall(guest_output)}


def jsonl(rows: List[Dict[str, Any]], names: Dict[int, str]) -> str:
    """`roi.jsonl`: one line a section, with its label; a region that the guest did not name is ``roi <index>``.

    Ticks are gem5's default of 1 ps.
    """
    out = []
    for row in rows:
        index = row["index"]
        out.append(
            {
                "schema": SCHEMA,
                "section": row["section"],
                "label": row.get("label") or names.get(index, f"roi {index}"),
                "index": index,
                "work_id": row["work_id"],
                "begin_ps": row["begin_tick"],
                "sim_ps": row["end_tick"] - row["begin_tick"],
            }
        )
    return "".join(json.dumps(row) + "\n" for row in out)
