"""What of a generation is simulated in detail: regions, checkpoints, and which restored run measures what.

Region 0 of the guest is the load. With `--roi layer` pass p of a model of L layers is the regions 1 + p (L + 2) + s:
s = 0 the start (graph, inputs, embedding), s = 1 .. L the layers, s = L + 1 the head. Pass 0 is the prefill; pass
p > 0 decodes token p - 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from gempim.quantity import DataError

SAMPLES = ("layers", "all", "none")
"""What `--sample` may be: a few layers of chosen passes, all layers of chosen passes, or every pass as it is."""

LOAD = 0
"""Index of the region that loads the model."""

NAMED_PASSES = ("prefill", "first", "middle", "last")


@dataclass(frozen=True)
class Layout:
    """Where the parts of a pass are, for a model of `layers` layers."""

    layers: int

    @property
    def parts(self) -> int:
        """Regions of one pass."""
        return self.layers + 2

    @property
    def head(self) -> int:
        """The last part of a pass."""
        return self.layers + 1

    def region(self, pass_: int, part: int) -> int:
        """Index of a part's region."""
        return 1 + pass_ * self.parts + part

    def place(self, region: int) -> tuple[int, int]:
        """Pass and part of a region above LOAD."""
        return divmod(region - 1, self.parts)

    def label(self, region: int) -> str:
        """What the guest calls the region."""
        if region == LOAD:
            return "load"
        pass_, part = self.place(region)
        name = "start" if part == 0 else "head" if part == self.head else f"layer {part - 1}"
        return f"{pass_label(pass_)} {name}"


def pass_label(pass_: int) -> str:
    """What the guest calls a pass."""
    return "prefill" if pass_ == 0 else f"decode {pass_ - 1}"


@dataclass(frozen=True)
class Restore:
    """One restored run: from a checkpoint at the beginning of region `first` through the last of `measured`.

    The regions before `measured[0]` warm the caches up and are not used.
    """

    first: int
    measured: tuple[int, ...]

    @property
    def last(self) -> int:
        """The region after which the run stops."""
        return self.measured[-1]

    @property
    def regions(self) -> range:
        """All regions that are simulated in detail."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True)
class Plan:
    """What is simulated: the passes that are measured, and the restored runs that do it."""

    passes: tuple[int, ...]
    restores: tuple[Restore, ...]

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Regions at whose beginning a checkpoint is needed."""
        return tuple(r.first for r in self.restores)

    @property
    def measured(self) -> tuple[int, ...]:
        """All measured regions, in order."""
        return tuple(region for r in self.restores for region in r.measured)


def choose_passes(text: str, tokens: int) -> tuple[int, ...]:
    """The passes that `--sample-passes` names, in order: comma separated NAMED_PASSES or numbers (0: the prefill).

    :param tokens: tokens that are generated: passes are 0 to tokens - 1, decode passes 1 to tokens - 1
    :raises DataError: another word, or a pass that there is not
    """
    chosen = set()
    for word in (w.strip() for w in text.split(",")):
        if word == "prefill" or (word in NAMED_PASSES and tokens == 1):
            # One token needs no decode pass: the prefill gives it.
            chosen.add(0)
        elif word in NAMED_PASSES:
            chosen.add({"first": 1, "middle": tokens // 2, "last": tokens - 1}[word])
        elif word.isdecimal() and int(word) < tokens:
            chosen.add(int(word))
        else:
            raise DataError(
                f"--sample-passes {text}: {word!r}: expected {', '.join(NAMED_PASSES)} or a number from 0 to"
                f" {tokens - 1}, comma separated"
            )
    return tuple(sorted(chosen))


def choose_layers(kinds: Sequence[Hashable]) -> tuple[int, ...]:
    """Layers to measure: the first, the middle and the last one, and one of every kind that is not among them.

    Layers are of one kind when their tensors have the same shapes and types; files of mixed types (Q4_K_M) have
    several. Of a kind, the layer nearest to the middle is taken.
    """
    count = len(kinds)
    middle = count // 2
    chosen = {0, middle, count - 1}
    for layer in sorted(range(count), key=lambda i: (abs(i - middle), i)):
        if kinds[layer] not in {kinds[i] for i in chosen}:
            chosen.add(layer)
    return tuple(sorted(chosen))


def plan_layers(kinds: Sequence[Hashable], passes: Sequence[int], *, sample: str, warmup: int) -> Plan:
    """Restored runs that measure start, head and layers of each of `passes`.

    Measured regions of a pass that follow one another are one run, and so are groups between which only warm-up
    regions lie: measuring those costs nothing more. No run goes on into another pass: the weights of a small file would
    still be in the LLC then, and those of the model that it stands for would not.

    :param kinds: the kind of every layer in the file, see :func:`choose_layers`
    :param sample: "layers" or "all"
    :param warmup: regions before the first measured one; never the load, so the start of the prefill has none
    """
    layout = Layout(len(kinds))
    layers = choose_layers(kinds) if sample == "layers" else tuple(range(len(kinds)))
    groups: list[list[int]] = []
    for p in passes:
        groups.append([layout.region(p, 0)])
        for part in (*(layer + 1 for layer in layers), layout.head):
            region, last = layout.region(p, part), groups[-1][-1]
            if region - warmup <= last + 1:
                groups[-1] += range(last + 1, region + 1)
            else:
                groups.append([region])
    restores = tuple(Restore(max(LOAD + 1, g[0] - warmup), tuple(g)) for g in groups)
    return Plan(tuple(passes), restores)
