"""Serving one stream of requests on one system: the loop from stage to stage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gempim.serve.collectives import Links
from gempim.serve.ledger import Ledger
from gempim.serve.requests import Lengths, Request, poisson, progress
from gempim.serve.scheduler import Done, Scheduler, Times
from gempim.serve.stage import NodeShape, StageModel, StageResult

Ints = npt.NDArray[np.int64]

STAGES = ("decode", "mixed", "prefill")
"""Kinds of stages: all sequences decode; some join; only prompts (as far as the batch was empty, or by design)."""


@dataclass
class StageSum:
    """All stages of one kind: how many, their time, tokens that were made and prompt tokens read, what they cost."""

    stages: int = 0
    time_ps: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    batch_sum: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    visits: dict[str, Ints] = field(default_factory=dict)


@dataclass
class Served:
    """Outcome of a run.

    `gaps` has how many tokens followed the one before after so many ps. `requests` are those that ended.
    `most_reserved` is the most KV cache that one node had promised [tokens], `capacity_tokens` what it has.
    """

    makespan_ps: int = 0
    tokens: int = 0
    stages: dict[str, StageSum] = field(default_factory=dict)
    gaps: dict[int, int] = field(default_factory=dict)
    requests: list[Times] = field(default_factory=list)
    loads: Ints | None = None
    most_reserved: int = 0
    capacity_tokens: int = 0
    most_batch: int = 0

    def stage(self, shapes: Sequence[NodeShape], result: StageResult) -> str:
        """Enter a stage's cost; its kind."""
        prompts = sum(sum(s.prefill) for s in shapes)
        decoding = sum(len(s.decode) for s in shapes)
        kind = "decode" if not prompts else "mixed" if decoding else "prefill"
        total = self.stages.setdefault(kind, StageSum())
        total.stages += 1
        total.time_ps += result.time_ps
        total.prompt_tokens += prompts
        total.batch_sum += sum(s.sequences for s in shapes)
        total.ledger.add(result.ledger)
        for unit, visits in result.visits.items():
            total.visits[unit] = _longer_sum(total.visits.get(unit), visits)
        if result.loads is not None:
            self.loads = result.loads if self.loads is None else self.loads + result.loads
        return kind

    def done(self, kind: str, done: Done) -> None:
        """Enter what a stage made."""
        self.tokens += done.tokens
        self.stages[kind].tokens += done.tokens
        for gap, count in done.gaps.items():
            self.gaps[gap] = self.gaps.get(gap, 0) + count
        self.requests += done.ended


def _longer_sum(a: Ints | None, b: Ints) -> Ints:
    if a is None:
        return b.copy()
    if len(a) < len(b):
        a, b = b.copy(), a
    a[: len(b)] += b
    return a


class Arrivals:
    """Where requests come from. `closed`: as many clients as the batch has places; otherwise Poisson at `qps`."""

    def __init__(self, lengths: Lengths, count: int, *, qps: float | None, clients: int) -> None:
        self.count, self.lengths = count, lengths
        self.closed = qps is None
        self._next: Iterator[tuple[int, int]] = lengths.draw()
        self._issued = 0
        self._open = deque(poisson(lengths, qps, count)) if qps is not None else deque()
        self.clients = clients

    def _new(self, now_ps: int) -> Request:
        prompt, output = next(self._next)
        self._issued += 1
        return Request(self._issued - 1, prompt, output, now_ps)

    def first(self) -> list[Request]:
        """Requests of all clients at the start of a closed loop."""
        return [self._new(0) for _ in range(self.clients)] if self.closed else []

    def after(self, ended: int, now_ps: int) -> list[Request]:
        """Requests that have arrived by now, when `ended` requests have just been answered."""
        if self.closed:
            return [self._new(now_ps) for _ in range(ended)]
        out = []
        while self._open and self._open[0].arrival_ps <= now_ps:
            out.append(self._open.popleft())
        return out

    def next_ps(self) -> int | None:
        """When the next request arrives by itself; None when none does."""
        return self._open[0].arrival_ps if self._open else None


def serve(
    model: StageModel,
    scheduler: Scheduler,
    arrivals: Arrivals,
    *,
    steady: bool,
    progressed: Callable[[int, int], None] | None = None,
) -> Served:
    """Serve until `arrivals.count` requests are answered.

    :param steady: start a closed loop with every client somewhere in its answer, as in the middle of a long run
    """
    out = Served(capacity_tokens=scheduler.capacity_tokens)
    now = 0
    _start(scheduler, arrivals, steady=steady)
    while len(out.requests) < arrivals.count:
        scheduler.add(arrivals.after(0, now))
        scheduler.admit(now)
        _watch(out, scheduler)
        shapes = scheduler.shapes()
        if not any(shape.tokens for shape in shapes):
            waited = arrivals.next_ps()
            assert waited is not None, "nothing runs, nothing arrives, and not all requests are answered"
            now = waited
            continue
        result = model.run(shapes)
        now += result.time_ps
        kind = out.stage(shapes, result)
        done = scheduler.finish(now)
        out.done(kind, done)
        if arrivals.closed:
            scheduler.add(arrivals.after(len(done.ended), now))
        if progressed:
            progressed(min(len(out.requests), arrivals.count), arrivals.count)
    out.makespan_ps = now
    return out


def serve_split(
    prefill: StageModel,
    decode: StageModel,
    scheduler: Scheduler,
    arrivals: Arrivals,
    links: Links,
    *,
    kv_bytes: int,
    prefill_capacity: int,
    steady: bool,
    progressed: Callable[[int, int], None] | None = None,
) -> Served:
    """Serve with one set of devices that prefills and one that decodes (Duplex paper, section VIII-A).

    A prompt is read when the decoding devices have room for its whole KV cache, which is sent to them afterwards while
    both sets go on. `scheduler` is that of the decoding devices; prompts are read in order, as many at a time as
    have room.

    :param kv_bytes: bytes of K and V of one token, all layers
    :param prefill_capacity: tokens of KV cache that the prefilling devices hold
    """
    out = Served(capacity_tokens=scheduler.capacity_tokens)
    _start(scheduler, arrivals, steady=steady)
    now = 0
    reading: list[Request] = []
    read_end = decode_end = None
    moving: deque[tuple[int, Request, int, int]] = deque()
    promised = 0
    decode_kind = "decode"
    link_free = 0
    while len(out.requests) < arrivals.count:
        scheduler.add(arrivals.after(0, now))
        if read_end is None:
            places = scheduler.max_batch - scheduler.running - len(moving)
            reading, promised = _to_read(scheduler, places, promised, prefill_capacity, now)
            if reading:
                shape = NodeShape(np.zeros(0, dtype=np.int64), tuple(r.prompt for r in reading))
                result = prefill.run([shape])
                out.stage([shape], result)
                read_end = now + result.time_ps
        if decode_end is None:
            while moving and moving[0][0] <= now:
                _, request, first, admitted = moving.popleft()
                promised -= request.tokens
                taken = scheduler.resume(request, 1, first)
                assert taken, "the KV cache of a prompt that was read is reserved"
                scheduler.times[request.id] = Times(request, scheduler.times[request.id].node, admitted, first_ps=first)
            shapes = scheduler.shapes()
            if any(shape.tokens for shape in shapes):
                result = decode.run(shapes)
                decode_kind = out.stage(shapes, result)
                decode_end = now + result.time_ps
        _watch(out, scheduler, promised)
        nexts = [
            t for t in (read_end, decode_end, arrivals.next_ps(), moving[0][0] if moving else None) if t is not None
        ]
        nexts = [t for t in nexts if t > now]
        assert nexts, "nothing runs, nothing arrives, and not all requests are answered"
        now = min(nexts)
        ended = 0
        if read_end is not None and read_end <= now:
            for request in reading:
                out.tokens += 1
                out.stages["prefill"].tokens += 1
                times = scheduler.times.pop(request.id)
                times.first_ps = now
                if request.output == 1:
                    times.end_ps = now
                    promised -= request.tokens
                    out.requests.append(times)
                    ended += 1
                else:
                    # One cache after the other: they share the links.
                    sent = links.send(request.prompt * kv_bytes, prefill.placement.per_node)
                    link_free = max(link_free, now) + sent.time_ps
                    out.stages["prefill"].ledger.count("communication", {"system.link.bytes": sent.link_bytes})
                    moving.append((link_free, request, now, times.admitted_ps))
            reading, read_end = [], None
        if decode_end is not None and decode_end <= now:
            done = scheduler.finish(now)
            out.done(decode_kind, done)
            ended += len(done.ended)
            decode_end = None
        if arrivals.closed and ended:
            scheduler.add(arrivals.after(ended, now))
        if progressed:
            progressed(min(len(out.requests), arrivals.count), arrivals.count)
    out.makespan_ps = now
    return out


def _to_read(
    scheduler: Scheduler, places: int, promised: int, prefill_capacity: int, now_ps: int
) -> tuple[list[Request], int]:
    """Waiting requests to prefill now, and the tokens that the decoding devices have promised to those and others."""
    reading: list[Request] = []
    prompts = 0
    while scheduler.waiting and len(reading) < places:
        request = scheduler.waiting[0]
        if sum(scheduler.reserved) + promised + request.tokens > scheduler.capacity_tokens:
            break
        if prompts + request.prompt > prefill_capacity and reading:
            break
        if scheduler.prefill_tokens and reading and prompts + request.prompt > scheduler.prefill_tokens:
            break
        scheduler.waiting.popleft()
        scheduler.times[request.id] = Times(request, 0, now_ps)
        reading.append(request)
        prompts += request.prompt
        promised += request.tokens
    return reading, promised


def _start(scheduler: Scheduler, arrivals: Arrivals, *, steady: bool) -> None:
    first = arrivals.first()
    if not (steady and first):
        scheduler.add(first)
        return
    made = progress(arrivals.lengths.seed, np.array([r.output for r in first], dtype=np.int64))
    for request, tokens in zip(first, made, strict=True):
        # A request that has made all its tokens is over; one token before that is the last place to be.
        if request.output < 2 or not scheduler.resume(request, min(int(tokens), request.output - 1), 0):
            scheduler.add([request])


def _watch(out: Served, scheduler: Scheduler, promised: int = 0) -> None:
    out.most_reserved = max(out.most_reserved, max(scheduler.reserved) + promised)
    out.most_batch = max(out.most_batch, scheduler.running)
