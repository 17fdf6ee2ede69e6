"""Collectives against a ring that is walked step by step, and against counts of bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gempim.serve.collectives import LinkParams, Links, Transfer

PARAMS = LinkParams(
    link_bytes_per_s=450e9, link_latency_ps=800_000, node_bytes_per_s=400e9, node_latency_ps=500_000, devices_per_node=8
)
LINKS = Links(PARAMS)


def _ring(size: float, devices: int) -> tuple[float, float]:
    """All-reduce walked through: every step each device sends one chunk to its neighbour; time and bytes.

    Chunks start as sets of one device's contribution; the walk checks that in the end every device has all of them.
    """
    have = [[{d} for _ in range(devices)] for d in range(devices)]
    time = sent = 0.0
    for step in range(2 * (devices - 1)):
        moves = []
        for d in range(devices):
            chunk = (d - step) % devices if step < devices - 1 else (d + 1 - (step - (devices - 1))) % devices
            moves.append((d, (d + 1) % devices, chunk, set(have[d][chunk])))
        for _, to, chunk, data in moves:
            have[to][chunk] |= data
            sent += size / devices
        time += PARAMS.link_latency_ps + size / devices / PARAMS.link_bytes_per_s * 1e12
    assert all(chunk == set(range(devices)) for device in have for chunk in device)
    return time, sent


@pytest.mark.parametrize("devices", [2, 3, 4, 8])
@pytest.mark.parametrize("size", [1 << 10, 1 << 20, 123_456_789])
def test_all_reduce(size: int, devices: int) -> None:
    time, sent = _ring(size, devices)
    found = LINKS.all_reduce(size, devices)
    assert found.time_ps == pytest.approx(time, abs=1)
    assert found.link_bytes == pytest.approx(sent)
    assert found.node_bytes == 0


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_all_gather_is_half_of_an_all_reduce(devices: int) -> None:
    gather, reduce = LINKS.all_gather(1 << 20, devices), LINKS.all_reduce(1 << 20, devices)
    assert 2 * gather.time_ps == pytest.approx(reduce.time_ps, abs=2)
    assert 2 * gather.link_bytes == reduce.link_bytes


@pytest.mark.parametrize(("nodes", "per_node"), [(1, 4), (2, 8), (4, 1), (2, 3)])
def test_all_to_all_counts_every_byte_once(nodes: int, per_node: int) -> None:
    """Bytes from device to device, pair by pair: within a node over the links, between nodes over the network."""
    size = 8 * 3 * 1 << 16
    devices = nodes * per_node
    pair = size / devices / devices
    within = sum(pair for a in range(devices) for b in range(devices) if a != b and a // per_node == b // per_node)
    between = sum(pair for a in range(devices) for b in range(devices) if a // per_node != b // per_node)
    found = LINKS.all_to_all(size, nodes, per_node)
    assert found.link_bytes == pytest.approx(within, abs=1)
    assert found.node_bytes == pytest.approx(between, abs=1)
    link_ps = within / devices / PARAMS.link_bytes_per_s * 1e12 + PARAMS.link_latency_ps if per_node > 1 else 0
    node_ps = between / nodes / PARAMS.node_bytes_per_s * 1e12 + PARAMS.node_latency_ps if nodes > 1 else 0
    assert found.time_ps == pytest.approx(max(link_ps, node_ps), abs=1)


def test_send_uses_all_lanes() -> None:
    one, four = LINKS.send(1 << 30, 1), LINKS.send(1 << 30, 4)
    assert one.time_ps - PARAMS.link_latency_ps == pytest.approx(4 * (four.time_ps - PARAMS.link_latency_ps), abs=4)
    assert one.link_bytes == four.link_bytes == 1 << 30


def test_nobody_to_talk_to() -> None:
    for found in (LINKS.all_reduce(99, 1), LINKS.all_gather(99, 1), LINKS.all_to_all(99, 1, 1), LINKS.send(0, 4)):
        assert found == Transfer()


def test_latency_is_paid_per_step() -> None:
    slow = Links(replace(PARAMS, link_latency_ps=PARAMS.link_latency_ps + 1000))
    assert slow.all_reduce(1024, 8).time_ps - LINKS.all_reduce(1024, 8).time_ps == 14 * 1000
    assert slow.all_gather(1024, 8).time_ps - LINKS.all_gather(1024, 8).time_ps == 7 * 1000
