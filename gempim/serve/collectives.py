"""Communication between devices: ring all-reduce and all-gather, all-to-all, transfers, over NVLink and a network.
network.

Every function gives the time until the slowest device has its data [ps] and the bytes that crossed each kind of link,
summed over all devices. A node's devices talk through a switch that carries all of them at full rate; between nodes all
devices of a node share the node's network rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PS = 1_000_000_000_000


def _f(unit: str, description: str, lo: float, hi: float) -> dict[str, object]:
    return {"unit": unit, "description": description, "min": lo, "max": hi}


@dataclass(frozen=True)
class LinkParams:
    """The links of a system."""

    link_bytes_per_s: float = field(metadata=_f("byte/s", "link of one device within a node, one way", 1e6, 1e15))
    link_latency_ps: int = field(metadata=_f("ps", "latency of one step within a node", 0, 1e9))
    node_bytes_per_s: float = field(metadata=_f("byte/s", "network of one node, one way", 1e6, 1e15))
    node_latency_ps: int = field(metadata=_f("ps", "latency of one step between nodes", 0, 1e12))
    devices_per_node: int = field(metadata=_f("devices", "most devices in one node", 1, 64))


@dataclass(frozen=True)
class Transfer:
    """Time [ps] and bytes over the links within nodes and between them, summed over all devices."""

    time_ps: int = 0
    link_bytes: int = 0
    node_bytes: int = 0

    def __add__(self, other: Transfer) -> Transfer:
        """One after the other."""
        return Transfer(
            self.time_ps + other.time_ps, self.link_bytes + other.link_bytes, self.node_bytes + other.node_bytes
        )


class Links:
    """Times of collectives on one system's links."""

    def __init__(self, params: LinkParams) -> None:
        self.params = params

    def _steps(self, steps: int, each_bytes: float) -> int:
        p = self.params
        return round(steps * (p.link_latency_ps + each_bytes / p.link_bytes_per_s * PS))

    def all_reduce(self, size: int, devices: int) -> Transfer:
        """Sum of `size` bytes over `devices` of one node, on every one: a ring of 2 (P - 1) steps of size / P."""
        if devices < 2 or not size:
            return Transfer()
        steps = 2 * (devices - 1)
        return Transfer(self._steps(steps, size / devices), steps * size)

    def all_gather(self, size: int, devices: int) -> Transfer:
        """`size` bytes, of which each of `devices` of one node has a P-th, to every one: a ring of P - 1 steps."""
        if devices < 2 or not size:
            return Transfer()
        return Transfer(self._steps(devices - 1, size / devices), (devices - 1) * size)

    def all_to_all(self, size: int, nodes: int, per_node: int) -> Transfer:
        """`size` bytes that lie evenly over all devices, each to a device that is any of them with equal chance.

        Both kinds of link work at the same time; the slower one decides.
        """
        devices = nodes * per_node
        if devices < 2 or not size:
            return Transfer()
        p = self.params
        within = size / devices * (per_node - 1) / devices  # bytes a device sends to others of its node
        between = size / nodes * (nodes - 1) / nodes  # bytes a node sends to other nodes
        link_ps = p.link_latency_ps + within / p.link_bytes_per_s * PS if per_node > 1 else 0
        node_ps = p.node_latency_ps + between / p.node_bytes_per_s * PS if nodes > 1 else 0
        return Transfer(round(max(link_ps, node_ps)), round(within * devices), round(between * nodes))

    def send(self, size: int, lanes: int) -> Transfer:
        """`size` bytes from one group of devices of a node to another, over `lanes` links at the same time."""
        if not size:
            return Transfer()
        return Transfer(self._steps(1, size / lanes), size)
