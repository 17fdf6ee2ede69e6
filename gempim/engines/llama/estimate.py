"""From measured regions to whole passes: the layers and passes that were not simulated in detail.

A layer that was not measured takes the mean of the measured layers of its kind (same shapes and types, so the same
work): the ones between the first and the last, since those two may do other work (the last layer of a prefill goes on
with one token only) and the first one's caches hold other things. Not a line between neighbours: in a model whose kinds
alternate, neighbours do different work, and layers of one kind differ by noise, not by depth.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from gempim.engines.llama.counters import Counts, mean, total
from gempim.engines.llama.plan import Layout, Plan
from gempim.quantity import DataError

PARTS = ("start", "layers", "head")
"""Parts of a pass, in order of time."""


@dataclass(frozen=True)
class Shape:
    """What a pass consists of: the kinds of the model's layers, those of the file's, and how much larger the head is.

    A file of the whole model has `model == file` and `head_scale` 1. A synthetic one holds the first layers and a part
    of the vocabulary.
    """

    model: tuple[Hashable, ...]
    file: tuple[Hashable, ...]
    head_scale: float = 1.0

    def file_layer(self, layer: int) -> int | None:
        """The layer of the file that stands at this place of the model; None for one that the file does not have."""
        if layer == len(self.model) - 1:
            return len(self.file) - 1
        return layer if layer < len(self.file) - 1 else None


@dataclass(frozen=True)
class PassEstimate:
    """One pass: its parts, and how they were found.

    `error`: half the range of the measured layers of a kind, over all layers that were not measured, as a share of the
    pass; 0 when all were measured, None when no kind was measured twice. `measured` and `estimated` count regions of
    the model; `measured_instructions` are those of the regions that were simulated in detail and used.
    """

    parts: Mapping[str, Counts]
    layers: int
    error: float | None
    measured: int
    estimated: int
    measured_instructions: float

    @property
    def whole(self) -> Counts:
        """The pass."""
        return total(list(self.parts.values()))

    @property
    def instructions_share(self) -> float:
        """Share of the pass's instructions that was simulated in detail."""
        return self.measured_instructions / max(self.whole.instructions, 1)


def estimate_pass(shape: Shape, measured: Mapping[int, Counts], *, tokens: int) -> PassEstimate:
    """One pass from its measured parts.

    :param measured: counters by part: 0 the start, 1 .. L the file's layers, L + 1 the head
    :param tokens: tokens that are put in: with more than one, the last layer does less than the others
    :raises DataError: a part that is needed was not measured
    """
    layout = Layout(len(shape.file))
    for part, name in ((0, "start"), (layout.head, "head")):
        if part not in measured:
            raise DataError(f"the {name} of a pass was not measured")
    layers: list[Counts] = []
    missing: list[Hashable] = []
    for i, kind in enumerate(shape.model):
        at = shape.file_layer(i)
        if at is not None and at + 1 in measured:
            layers.append(measured[at + 1])
        else:
            missing.append(kind)
    known = len(layers)
    layers += [mean(_representatives(shape, measured, kind, tokens)) for kind in missing]
    parts = {
        "start": measured[0],
        "layers": total(layers),
        "head": measured[layout.head].scaled(shape.head_scale),
    }
    time = total(list(parts.values())).sim_ps
    spread = _spread(shape, measured, missing, tokens)
    return PassEstimate(
        parts=parts,
        layers=len(shape.model),
        error=None if spread is None else spread / time,
        measured=known + 2,
        estimated=len(missing),
        measured_instructions=total(list(measured.values())).instructions,
    )


def _representatives(shape: Shape, measured: Mapping[int, Counts], kind: Hashable, tokens: int) -> list[Counts]:
    """Measured layers that stand for the ones of a kind that were not: the middle ones where there are any."""
    last = len(shape.file) - 1
    same = [i for i, k in enumerate(shape.file) if k == kind and i + 1 in measured]
    choices = [[i for i in same if 0 < i < last], [i for i in same if i < last]]
    if tokens == 1:
        # The last layer does all that the others do, so with few layers its figure is as good as the first one's.
        choices[1] = same
    for choice in choices:
        if choice:
            return [measured[i + 1] for i in choice]
    raise DataError(
        "no measured layer stands for the ones that were not measured"
        + (": the last layer of a prefill computes less; make the model with two layers or more" if same else "")
    )


def _spread(shape: Shape, measured: Mapping[int, Counts], missing: Sequence[Hashable], tokens: int) -> float | None:
    """Half the range of the measured layers' times, over the missing layers [ps]."""
    if not missing:
        return 0.0
    last = len(shape.file) - 1
    relative: dict[Hashable, float] = {}
    for kind in dict.fromkeys(shape.file):
        times = [
            measured[i + 1].sim_ps
            for i, k in enumerate(shape.file)
            if k == kind and i + 1 in measured and (tokens == 1 or i < last)
        ]
        if len(times) > 1:
            relative[kind] = (max(times) - min(times)) / 2 / (sum(times) / len(times))
    if not relative:
        return None
    widest = max(relative.values())
    return sum(
        relative.get(kind, widest) * mean(_representatives(shape, measured, kind, tokens)).sim_ps for kind in missing
    )


def estimate_all(
    shape: Shape, plan: Plan, measured: Mapping[int, Counts], *, prompt: int, tokens: int
) -> dict[int, PassEstimate]:
    """Every pass that can be told: the measured ones, and decode passes between and beyond measured decode passes.

    A decode pass's cost is linear in the tokens that it attends to. Between two measured passes it is on the line
    between them; otherwise it is that of the nearest measured one.

    :param measured: counters by region index
    :param prompt: tokens of the prompt
    :param tokens: tokens generated
    """
    layout = Layout(len(shape.file))
    found: dict[int, PassEstimate] = {}
    for p in plan.passes:
        parts = {s: measured[layout.region(p, s)] for s in range(layout.parts) if layout.region(p, s) in measured}
        found[p] = estimate_pass(shape, parts, tokens=prompt if p == 0 else 1)
    decodes = sorted(p for p in found if p > 0)
    out = {0: found[0]} if 0 in found else {}
    if decodes:
        out.update({p: found.get(p) or _between(found, decodes, p) for p in range(1, tokens)})
    return out


def _between(found: Mapping[int, PassEstimate], decodes: Sequence[int], p: int) -> PassEstimate:
    """The decode pass `p`, which was not measured."""
    below = [q for q in decodes if q < p]
    above = [q for q in decodes if q > p]
    if below and above:
        a, b = below[-1], above[0]
        weight = (p - a) / (b - a)
    else:
        a = b = below[-1] if below else above[0]
        weight = 0.0
    first, second = found[a], found[b]
    errors = [e for e in (first.error, second.error) if e is not None]
    return PassEstimate(
        parts={name: first.parts[name].scaled(1 - weight).plus(second.parts[name], weight) for name in first.parts},
        layers=first.layers,
        error=max(errors) if errors else None,
        measured=0,
        estimated=first.measured + first.estimated,
        measured_instructions=0,
    )
