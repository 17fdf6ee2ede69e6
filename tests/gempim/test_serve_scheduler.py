"""The scheduler against a plain reference that steps through sequences one by one; memory and tokens are conserved."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gempim.quantity import DataError
from gempim.serve.requests import Lengths, Request
from gempim.serve.scheduler import Scheduler


@dataclass
class Sequence:
    request: Request
    made: int = 0
    token_ps: list[int] = field(default_factory=list)


class Plain:
    """Continuous batching written out: lists of sequences, no arrays, no sums that are kept."""

    def __init__(self, max_batch: int, capacity: int, nodes: int, limit: int) -> None:
        self.max_batch, self.capacity, self.limit = max_batch, capacity, limit
        self.waiting: list[Request] = []
        self.nodes: list[list[Sequence]] = [[] for _ in range(nodes)]
        self.done: list[Sequence] = []

    def held(self, node: int) -> int:
        return sum(s.request.prompt + s.request.output for s in self.nodes[node])

    def admit(self) -> None:
        prompts = joined = 0
        while self.waiting and sum(map(len, self.nodes)) < self.max_batch:
            first = self.waiting[0]
            if self.limit and joined and prompts + first.prompt > self.limit:
                return
            node = min(range(len(self.nodes)), key=self.held)
            if self.held(node) + first.prompt + first.output > self.capacity:
                return
            self.nodes[node].append(Sequence(self.waiting.pop(0)))
            prompts += first.prompt
            joined += 1

    def stage(self) -> list[tuple[list[int], list[int]]]:
        """Of each node: what decoding sequences attend to, and prompts."""
        return [
            (
                [s.request.prompt + s.made for s in node if s.made],
                [s.request.prompt for s in node if not s.made],
            )
            for node in self.nodes
        ]

    def finish(self, now: int) -> None:
        for i, node in enumerate(self.nodes):
            for s in node:
                s.made += 1
                s.token_ps.append(now)
            self.done += [s for s in node if s.made == s.request.output]
            self.nodes[i] = [s for s in node if s.made < s.request.output]


requests = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(0, 60)), min_size=1, max_size=25)


@settings(max_examples=150, deadline=None)
@given(requests, st.integers(1, 6), st.integers(52, 150), st.integers(1, 3), st.sampled_from([0, 30, 60]))
def test_against_the_plain_reference(
    raw: list[tuple[int, int, int]], batch: int, capacity: int, nodes: int, limit: int
) -> None:
    """Same stages, same ends, same gaps; capacity never exceeded; every token made once."""
    every = [Request(i, p, o, at) for i, (p, o, at) in enumerate(sorted(raw, key=lambda r: r[2]))]
    mine = Scheduler(max_batch=batch, capacity_tokens=capacity, nodes=nodes, prefill_tokens=limit)
    plain = Plain(batch, capacity, nodes, limit)
    now, coming, ended, gaps, tokens = 0, list(every), [], {}, 0
    rng = np.random.default_rng(len(raw))
    while len(ended) < len(every):
        arrived = [r for r in coming if r.arrival_ps <= now]
        coming = coming[len(arrived) :]
        mine.add(arrived)
        plain.waiting += arrived
        mine.admit(now)
        plain.admit()
        shapes = mine.shapes()
        assert [(sorted(int(c) for c in s.decode), list(s.prefill)) for s in shapes] == [
            (sorted(d), p) for d, p in plain.stage()
        ]
        assert all(r <= capacity for r in mine.reserved)
        assert mine.reserved == [plain.held(i) for i in range(nodes)]
        # What is cached now is never more than what was reserved.
        for shape, reserved in zip(shapes, mine.reserved, strict=True):
            assert int(shape.decode.sum()) + sum(shape.prefill) <= reserved
        assert mine.running <= batch
        if not any(s.tokens for s in shapes):
            now = coming[0].arrival_ps
            continue
        now += int(rng.integers(1, 20))
        done = mine.finish(now)
        plain.finish(now)
        ended += done.ended
        tokens += done.tokens
        for gap, count in done.gaps.items():
            gaps[gap] = gaps.get(gap, 0) + count
    assert tokens == sum(r.output for r in every)
    assert {t.request.id: (t.first_ps, t.end_ps) for t in ended} == {
        s.request.id: (s.token_ps[0], s.token_ps[-1]) for s in plain.done
    }
    expected: dict[int, int] = {}
    for s in plain.done:
        for a, b in zip(s.token_ps, s.token_ps[1:], strict=False):
            expected[b - a] = expected.get(b - a, 0) + 1
    assert gaps == expected
    assert mine.reserved == [0] * nodes
    assert all(t.request.arrival_ps <= t.admitted_ps < t.first_ps <= t.end_ps for t in ended)


def test_admission_is_in_order_even_if_a_later_request_would_fit() -> None:
    s = Scheduler(max_batch=4, capacity_tokens=100)
    s.add([Request(0, 60, 10), Request(1, 50, 10), Request(2, 5, 5)])
    assert [r.id for r in s.admit(0)] == [0]
    assert len(s.waiting) == 2


def test_a_request_that_no_node_holds_is_an_error() -> None:
    s = Scheduler(max_batch=4, capacity_tokens=100)
    with pytest.raises(DataError, match=r"needs a KV cache of 101 tokens; a node holds 100"):
        s.add([Request(0, 90, 11)])


def test_a_prompt_above_the_stage_limit_still_joins_alone() -> None:
    s = Scheduler(max_batch=4, capacity_tokens=1000, prefill_tokens=50)
    s.add([Request(0, 80, 2), Request(1, 10, 2), Request(2, 40, 2), Request(3, 1, 2)])
    assert [r.id for r in s.admit(0)] == [0]
    s.finish(1)
    assert [r.id for r in s.admit(1)] == [1, 2]


def test_resume_takes_in_the_middle_of_an_answer() -> None:
    s = Scheduler(max_batch=1, capacity_tokens=100)
    assert s.resume(Request(0, 10, 5), 3, 7)
    assert not s.resume(Request(1, 10, 5), 1, 7)
    assert s.shapes()[0].decode.tolist() == [13]
    assert s.finish(9).gaps == {2: 1}
    done = s.finish(12)
    assert [t.request.id for t in done.ended] == [0]
    assert done.gaps == {3: 1}


def test_lengths_feed_the_scheduler() -> None:
    """Nothing of a stream of requests is lost on the way through many stages."""
    lengths = Lengths(50, 20, 0.3, 4).draw()
    every = [Request(i, *next(lengths)) for i in range(300)]
    s = Scheduler(max_batch=16, capacity_tokens=2000, nodes=2)
    s.add(every)
    made = ended = now = 0
    while ended < 300:
        s.admit(now)
        now += 5
        done = s.finish(now)
        made, ended = made + done.tokens, ended + len(done.ended)
    assert made == sum(r.output for r in every)
