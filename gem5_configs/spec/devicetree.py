"""The device tree of the full-system machine, as the blob that Linux reads. Format: Devicetree Specification 0.4."""

import struct
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

_MAGIC = 0xD00DFEED
_BEGIN, _END, _PROPERTY, _LAST = 1, 2, 3, 9
_VERSION, _COMPATIBLE_WITH = 17, 16

Value = Union[None, str, Sequence[str], Sequence[int], int]
"""Of a property: nothing, a string, strings, or 32-bit cells."""


class Node:
    """A node: its properties in order, and its children.

    :param name: with its unit address, such as `cpu@0`
    """

    def __init__(self, name: str, properties: Optional[Mapping[str, Value]] = None) -> None:
        self.name = name
        self.properties: Dict[str, Value] = dict(properties or {})
        self.children: List[Node] = []

    def add(self, child: "Node") -> "Node":
        """Append a child. :return: the child"""
        self.children.append(child)
        return child


def cells(value: int) -> List[int]:
    """A 64-bit number as two cells."""
    return [value >> 32, value & 0xFFFFFFFF]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _encoded(value: Value) -> bytes:
    if value is None:
        return b""
    if isinstance(value, int):
        value = [value]
    if isinstance(value, str):
        value = [value]
    return b"".join(item.encode() + b"\0" if isinstance(item, str) else struct.pack(">I", item) for item in value)


def blob(root: Node) -> bytes:
    """The flattened tree."""
    names: Dict[str, int] = {}
    strings = bytearray()

    def offset(name: str) -> int:
        if name not in names:
            names[name] = len(strings)
            strings.extend(name.encode() + b"\0")
        return names[name]

    def flat(node: Node) -> bytes:
        out = struct.pack(">I", _BEGIN) + _padded(node.name.encode() + b"\0")
        for name, value in node.properties.items():
            data = _encoded(value)
            out += struct.pack(">III", _PROPERTY, len(data), offset(name)) + _padded(data)
        for child in node.children:
            out += flat(child)
        return out + struct.pack(">I", _END)

    structure = flat(root) + struct.pack(">I", _LAST)
    reserved = bytes(16)  # no memory is reserved: the boot stub lies outside Linux's
    header_bytes = 40
    at_structure = header_bytes + len(reserved)
    at_strings = at_structure + len(structure)
    total = at_strings + len(strings)
    header = (
        _MAGIC,
        total,
        at_structure,
        at_strings,
        header_bytes,
        _VERSION,
        _COMPATIBLE_WITH,
        0,
        len(strings),
        len(structure),
    )
    return struct.pack(">10I", *header) + reserved + structure + bytes(strings)


_GIC, _CLOCK = 1, 2
"""Handles by which nodes refer to each other."""

_SHARED, _PRIVATE = 0, 1
_LEVEL_HIGH, _LEVEL_LOW = 4, 8
_FIRST_SHARED, _FIRST_PRIVATE = 32, 16

TIMER_INTERRUPTS = {"secure": 29, "physical": 30, "virtual": 27, "hypervisor": 26}
"""Private interrupts of the generic timer, as in the Base System Architecture (DEN 0094)."""


def machine(
    addresses: Mapping[str, Any], *, cores: int, memory_bytes: int, initramfs_bytes: int, command_line: str
) -> Node:
    """The tree of the machine.

    :param addresses: of `linux.json`
    """
    root = Node(
        "",
        {
            "#address-cells": 2,
            "#size-cells": 2,
            "interrupt-parent": _GIC,
            "compatible": "gempim,machine",
            "model": "gempim",
        },
    )
    start = addresses["initramfs"]
    root.add(
        Node(
            "chosen",
            {
                "bootargs": command_line,
                "stdout-path": f"/serial@{addresses['uart']:x}",
                "linux,initrd-start": cells(start),
                "linux,initrd-end": cells(start + initramfs_bytes),
            },
        )
    )
    root.add(
        Node(
            f"memory@{addresses['memory']:x}",
            {"device_type": "memory", "reg": cells(addresses["memory"]) + cells(memory_bytes)},
        )
    )
    root.add(Node("psci", {"compatible": "arm,psci-0.2", "method": "smc"}))
    cpus = root.add(Node("cpus", {"#address-cells": 1, "#size-cells": 0}))
    for i in range(cores):
        cpus.add(
            Node(
                f"cpu@{i:x}",
                {"device_type": "cpu", "compatible": "arm,neoverse-n1", "reg": i, "enable-method": "psci"},
            )
        )
    interrupts: List[int] = []
    for number in TIMER_INTERRUPTS.values():
        interrupts += [_PRIVATE, number - _FIRST_PRIVATE, _LEVEL_LOW]
    root.add(Node("timer", {"compatible": "arm,armv8-timer", "interrupts": interrupts, "always-on": None}))
    distributor, redistributors = addresses["gic_distributor"], addresses["gic_redistributors"]
    root.add(
        Node(
            f"interrupt-controller@{distributor:x}",
            {
                "compatible": "arm,gic-v3",
                "#interrupt-cells": 3,
                "interrupt-controller": None,
                "reg": cells(distributor)
                + cells(0x10000)
                + cells(redistributors)
                + cells(cores * addresses["gic_redistributor_bytes"]),
                "phandle": _GIC,
            },
        )
    )
    root.add(
        Node(
            "clock", {"compatible": "fixed-clock", "#clock-cells": 0, "clock-frequency": 24_000_000, "phandle": _CLOCK}
        )
    )
    root.add(
        Node(
            f"serial@{addresses['uart']:x}",
            {
                "compatible": ["arm,pl011", "arm,primecell"],
                "reg": cells(addresses["uart"]) + cells(0x1000),
                "interrupts": [_SHARED, addresses["uart_interrupt"] - _FIRST_SHARED, _LEVEL_HIGH],
                "clocks": [_CLOCK, _CLOCK],
                "clock-names": ["uartclk", "apb_pclk"],
            },
        )
    )
    return root
