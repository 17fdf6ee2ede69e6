"""Which runs a figure shows: groups of runs that compare, and a stated choice of them when there are too many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gempim.analysis.result import Phase, Result
from gempim.analysis.table import KEYS, MATCH_KEYS, extra_values
from gempim.quantity import DataError

MAX_GROUPS = 4
"""A figure shows at most this many comparison groups."""

MAX_CASES = 12
"""A figure shows at most this many runs, whatever their groups."""

USUAL_BITS = 4.5
"""Bits per weight of Q4_0 and Q4_K, which most published results use: the width nearest to it stands for a model."""

_KEYS: dict[str, Callable[[Result], Any]] = {
    "model": lambda r: r.run.experiment["model"]["name"],
    "quant": lambda r: r.run.experiment["model"]["quant"],
    "batch": lambda r: r.run.experiment["workload"]["batch"],
    "threads": lambda r: r.run.experiment["workload"]["threads"],
    "engine": lambda r: r.run.experiment["engine"],
}
_WORDS = {"model": "{}", "quant": "{}", "test": "{}", "engine": "{}", "batch": "batch {}", "threads": "{} threads"}
_SHORT = {"batch": "b{}", "threads": "{}t"}
_LONGEST_WORD = 18


def bits_per_weight(result: Result) -> float:
    """Bits of the model file per parameter."""
    model = result.run.experiment["model"]
    return float(model["bytes"] * 8 / model["params"])


def word(name: str, value: Any) -> str:
    """A key's value as people say it: ``batch 8``, ``nbw 4``."""
    if name in _WORDS:
        return _WORDS[name].format(value)
    return f"{name.rpartition('.')[2]} {'–' if value is None else value}"


def labels(results: Sequence[Result], extra_keys: Sequence[str] = ()) -> list[str]:
    """A label a result: the system and those keys in which the results differ, as ``sail, q4_0, b8, 16t``.

    Results that the keys do not tell apart get a number.
    """
    columns: dict[str, list[Any]] = {name: [get(r) for r in results] for name, get in _KEYS.items()}
    columns |= {key: extra_values(results, key) for key in extra_keys}
    varying = [name for name, values in columns.items() if len(set(values)) > 1]
    out = [
        ", ".join([r.run.system, *(_clip(_short(name, columns[name][i])) for name in varying)])
        for i, r in enumerate(results)
    ]
    return _numbered(out)


def _short(name: str, value: Any) -> str:
    return _SHORT[name].format(value) if name in _SHORT else word(name, value)


def _clip(text: str) -> str:
    return text if len(text) <= _LONGEST_WORD else text[: _LONGEST_WORD - 1] + "…"


def _numbered(names: list[str]) -> list[str]:
    return names if len(set(names)) == len(names) else [f"{text} #{i + 1}" for i, text in enumerate(names)]


@dataclass(frozen=True)
class Case:
    """One phase of one run, with the columns that identify it; `name` tells it from the others of its group."""

    result: Result
    phase: Phase
    keys: dict[str, Any]
    name: str = ""

    @property
    def system(self) -> str:
        """Name of the simulated system."""
        return self.result.run.system


@dataclass(frozen=True)
class Group:
    """Runs that compare with each other because they agree in the match columns; the baseline first."""

    title: str
    cases: tuple[Case, ...]

    @property
    def model(self) -> str:
        """The model that all of the group ran."""
        return str(self.cases[0].keys["model"])

    @property
    def bits(self) -> float:
        """Bits per weight of the group's model file."""
        return bits_per_weight(self.cases[0].result)

    @property
    def batch(self) -> int:
        """Sequences at a time."""
        return int(self.cases[0].keys["batch"])


@dataclass(frozen=True)
class Selection:
    """What the figures of one phase show. `note` is the sentence for their captions, empty when nothing is left out."""

    label: str
    groups: tuple[Group, ...]
    systems: tuple[str, ...]
    note: str

    @property
    def cases(self) -> tuple[Case, ...]:
        """All that is shown."""
        return tuple(case for group in self.groups for case in group.cases)


def cases_of(
    results: Sequence[Result], label: str, extra_keys: Sequence[str] = (), baseline: str | None = None
) -> list[Case]:
    """The phases `label` of the results; a baseline's first, systems in their order of appearance.

    Raises DataError when no run has such a phase, and what `table.extra_values` raises.
    """
    extra = {key: extra_values(results, key) for key in extra_keys}
    out = [
        Case(
            result,
            phase,
            {
                **{name: get(result) for name, get in _KEYS.items()},
                "system": result.run.system,
                "test": phase.test,
                **{key: values[i] for key, values in extra.items()},
            },
        )
        for i, result in enumerate(results)
        for phase in result.phases
        if phase.label == label
    ]
    if not out:
        raise DataError(f"no run has a {label} phase")
    systems = systems_of(results, baseline)
    return sorted(out, key=lambda case: systems.index(case.system))


def systems_of(results: Iterable[Result], baseline: str | None = None) -> list[str]:
    """The systems, the baseline first, then in order of appearance: the order of colours, bars and rows."""
    names = list(dict.fromkeys(r.run.system for r in results))
    return sorted(names, key=lambda name: name != baseline)


def grouped(cases: Sequence[Case], columns: Sequence[str]) -> list[Group]:
    """Cases that agree in `columns` together; by model in order of appearance, then bit width, batch and the rest."""
    models = list(dict.fromkeys(case.keys["model"] for case in cases))
    together: dict[tuple[Any, ...], list[Case]] = {}
    for case in cases:
        together.setdefault(tuple(case.keys[name] for name in columns), []).append(case)
    out = [
        Group(title, tuple(_named(members)))
        for title, members in zip(_titles(list(together), columns), together.values(), strict=True)
    ]
    return sorted(out, key=lambda g: (models.index(g.model), g.bits if "quant" in columns else 0.0, g.batch))


def _titles(keys: list[tuple[Any, ...]], columns: Sequence[str]) -> list[str]:
    """A title a group: model, width and batch, and of the rest only what is needed to tell the groups apart."""
    said = [name for name in columns if name in ("model", "quant", "batch")]
    rest = [name for name in columns if name not in said]

    def of(key: tuple[Any, ...]) -> str:
        values = dict(zip(columns, key, strict=True))
        head = " ".join(str(values[name]) for name in ("model", "quant") if name in said)
        return ", ".join([head, *(word(name, values[name]) for name in said if name not in ("model", "quant"))])

    while rest and len({of(key) for key in keys}) < len(keys):
        said.append(rest.pop())
    return [of(key) for key in keys]


def _named(cases: list[Case]) -> list[Case]:
    keys = [k for k in cases[0].keys if k not in ("system", "model") and len({c.keys[k] for c in cases}) > 1]
    names = _numbered([", ".join([c.system, *(_clip(_short(k, c.keys[k])) for k in keys)]) for c in cases])
    return [replace(case, name=name) for case, name in zip(cases, names, strict=True)]


def select(
    results: Sequence[Result],
    label: str = "decode",
    *,
    match: Sequence[str] = MATCH_KEYS,
    extra_keys: Sequence[str] = (),
    baseline: str | None = None,
) -> Selection:
    """The groups that figures show: all when they are few, otherwise by a rule that the note states.

    The rule: of each model the bit width nearest to `USUAL_BITS`, at its smallest and then at its largest batch, models
    in turn, until `MAX_GROUPS` groups or `MAX_CASES` runs are reached. Raises what `cases_of` raises.
    """
    columns = [name for name in (*KEYS, *extra_keys) if name in match]
    cases = cases_of(results, label, extra_keys, baseline)
    every = grouped(cases, columns)
    chosen = every if len(every) <= MAX_GROUPS and len(cases) <= MAX_CASES else _chosen(every)
    shown: list[Group] = []
    left = MAX_CASES
    for group in chosen:
        # A group is shown whole or not at all, unless it alone is too large.
        if shown and len(group.cases) > left:
            continue
        shown.append(replace(group, cases=group.cases[:left]))
        left -= len(shown[-1].cases)
    shown.sort(key=lambda group: [g.title for g in every].index(group.title))
    return Selection(label, tuple(shown), tuple(systems_of(results, baseline)), _note(shown, every, len(cases), label))


def _chosen(every: list[Group]) -> list[Group]:
    turns: list[list[Group]] = [[], []]
    for model in dict.fromkeys(group.model for group in every):
        of_model = [group for group in every if group.model == model]
        width = min((group.bits for group in of_model), key=lambda bits: (abs(bits - USUAL_BITS), bits))
        of_width = [group for group in of_model if group.bits == width]
        small = min(of_width, key=lambda group: group.batch)
        large = max(of_width, key=lambda group: group.batch)
        turns[0].append(small)
        if large is not small and large.batch != small.batch:
            turns[1].append(large)
    return (turns[0] + turns[1])[:MAX_GROUPS]


def _note(shown: list[Group], every: list[Group], cases: int, label: str) -> str:
    count = sum(len(group.cases) for group in shown)
    if count == cases:
        return ""
    titles = "; ".join(group.title for group in shown)
    rule = (
        f" Chosen: of each model the bit width nearest to {USUAL_BITS:g} bits per weight, at its smallest and largest "
        "batch."
        if len(shown) < len(every)
        else ""
    )
    return (
        f"Shown: {titles}: {count} of {cases} {label} runs.{rule} All values are in report.csv, report.json and the "
        "operator table."
    )
