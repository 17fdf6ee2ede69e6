"""Continuous batching: who joins the next stage, who decodes in it, and who is done after it.

Requests are admitted in the order of arrival when the batch has a place and a node has room for all the KV cache that
the request will need (its whole prompt and output are reserved, so that nothing is ever thrown out again). A stage
decodes one token of every running sequence and prefills the whole prompts of those that join.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gempim.quantity import DataError
from gempim.serve.requests import Request
from gempim.serve.stage import NodeShape

Ints = npt.NDArray[np.int64]


def _ints() -> Ints:
    return np.zeros(0, dtype=np.int64)


@dataclass
class Times:
    """When one request arrived, was admitted, had its first token, and its last [ps]."""

    request: Request
    node: int
    admitted_ps: int
    first_ps: int = -1
    end_ps: int = -1


@dataclass
class _Node:
    """Running sequences of one node; the arrays go together."""

    ids: Ints = field(default_factory=_ints)
    context: Ints = field(default_factory=_ints)
    left: Ints = field(default_factory=_ints)
    last_ps: Ints = field(default_factory=_ints)
    reserved: int = 0
    joining: list[Request] = field(default_factory=list)

    def put(self, request: Request, made: int, now_ps: int) -> None:
        """A sequence that has made `made` tokens and goes on decoding."""
        self.ids = np.append(self.ids, request.id)
        self.context = np.append(self.context, request.prompt + made - 1)
        self.left = np.append(self.left, request.output - made)
        self.last_ps = np.append(self.last_ps, now_ps)


@dataclass(frozen=True)
class Done:
    """What a stage did: tokens made, gaps between tokens of one sequence (ps to how often), requests that ended."""

    tokens: int
    gaps: dict[int, int]
    ended: list[Times]


class Scheduler:
    """The state of continuous batching on one set of devices.

    :param max_batch: most sequences at a time, over all nodes
    :param capacity_tokens: KV cache of one node [tokens]
    :param prefill_tokens: most prompt tokens that join one stage (one prompt always may); 0 is no limit
    """

    def __init__(self, *, max_batch: int, capacity_tokens: int, nodes: int = 1, prefill_tokens: int = 0) -> None:
        self.max_batch, self.capacity_tokens, self.prefill_tokens = max_batch, capacity_tokens, prefill_tokens
        self.waiting: deque[Request] = deque()
        self.times: dict[int, Times] = {}
        self.nodes = [_Node() for _ in range(nodes)]

    @property
    def running(self) -> int:
        """Sequences that decode or join."""
        return sum(len(node.ids) + len(node.joining) for node in self.nodes)

    @property
    def reserved(self) -> list[int]:
        """Tokens of KV cache that are taken, by node."""
        return [node.reserved for node in self.nodes]

    def add(self, requests: Iterable[Request]) -> None:
        """Requests that have arrived. Raises DataError for one that no empty node could hold."""
        for request in requests:
            if request.tokens > self.capacity_tokens:
                raise DataError(
                    f"request {request.id} needs a KV cache of {request.tokens} tokens; a node holds"
                    f" {self.capacity_tokens} beside the weights: use more devices or shorter lengths"
                )
            self.waiting.append(request)

    def admit(self, now_ps: int) -> list[Request]:
        """Move waiting requests into the next stage, in order, as far as batch, memory and stage allow."""
        joined: list[Request] = []
        tokens = 0
        while self.waiting and self.running < self.max_batch:
            request = self.waiting[0]
            if self.prefill_tokens and joined and tokens + request.prompt > self.prefill_tokens:
                break
            index = self._reserve(request)
            if index is None:
                break
            self.waiting.popleft()
            self.nodes[index].joining.append(request)
            self.times[request.id] = Times(request, index, now_ps)
            tokens += request.prompt
            joined.append(request)
        return joined

    def resume(self, request: Request, made: int, now_ps: int) -> bool:
        """Take in a sequence that has made `made` tokens elsewhere; false when there is no place for it now."""
        if self.running >= self.max_batch:
            return False
        index = self._reserve(request)
        if index is None:
            return False
        self.times[request.id] = Times(request, index, now_ps)
        self.nodes[index].put(request, made, now_ps)
        return True

    def _reserve(self, request: Request) -> int | None:
        """The node with the fewest reserved tokens, if the request fits there."""
        index = min(range(len(self.nodes)), key=lambda i: self.nodes[i].reserved)
        node = self.nodes[index]
        if node.reserved + request.tokens > self.capacity_tokens:
            return None
        node.reserved += request.tokens
        return index

    def shapes(self) -> list[NodeShape]:
        """The next stage, node by node: a decoding sequence attends to its cache and its own new token."""
        return [NodeShape(node.context + 1, tuple(r.prompt for r in node.joining)) for node in self.nodes]

    def finish(self, now_ps: int) -> Done:
        """The stage of `shapes` has ended."""
        gaps: dict[int, int] = {}
        ended: list[Times] = []
        made = 0
        for node in self.nodes:
            made += len(node.ids) + len(node.joining)
            if len(node.ids):
                for gap, count in zip(*np.unique(now_ps - node.last_ps, return_counts=True), strict=True):
                    gaps[int(gap)] = gaps.get(int(gap), 0) + int(count)
                node.context = node.context + 1
                node.left = node.left - 1
                node.last_ps = np.full_like(node.last_ps, now_ps)
                if not node.left.all():
                    ended += [self._end(node, self.times[int(i)], now_ps) for i in node.ids[node.left == 0]]
                    keep = node.left > 0
                    node.ids, node.context, node.left, node.last_ps = (
                        a[keep] for a in (node.ids, node.context, node.left, node.last_ps)
                    )
            for request in node.joining:
                self.times[request.id].first_ps = now_ps
                if request.output == 1:
                    ended.append(self._end(node, self.times[request.id], now_ps))
                else:
                    node.put(request, 1, now_ps)
            node.joining = []
        return Done(made, gaps, ended)

    @staticmethod
    def _end(node: _Node, times: Times, now_ps: int) -> Times:
        times.end_ps = now_ps
        node.reserved -= times.request.tokens
        return times
