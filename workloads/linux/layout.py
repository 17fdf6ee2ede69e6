"""Where everything lies in the simulated machine: the one place that says it.

The boot stub is compiled with these numbers, and they go into `linux.json`, from which gem5's script builds the machine
and its device tree. Addresses are physical.
"""

from __future__ import annotations

BOOT_MEMORY = 0x0
BOOT_MEMORY_BYTES = 64 << 10
"""Memory of the boot stub, outside what Linux manages: the stub stays for as long as the machine runs."""

UART = 0x1C09_0000
UART_INTERRUPT = 37
"""Number at the interrupt controller: the shared interrupt 5."""

GIC_DISTRIBUTOR = 0x2C00_0000
GIC_REDISTRIBUTORS = 0x2C01_0000
GIC_REDISTRIBUTOR_BYTES = 0x2_0000

MEMORY = 0x8000_0000
KERNEL = MEMORY + (2 << 20)
"""Linux wants a multiple of 2 MiB."""

DEVICE_TREE = MEMORY + (62 << 20)
DEVICE_TREE_MOST_BYTES = 2 << 20
INITRAMFS = MEMORY + (64 << 20)
LEAST_MEMORY_BYTES = 192 << 20

MOST_CORES = 64
"""What the stub has room for: the cores of the largest shipped system."""

COUNTER_HZ = 25_000_000
"""Of the system counter, as on the boards of a Neoverse-N1."""

SCRIPT_ENDED = 0x100
"""Code with which the agent ends the simulation, plus the script's exit status (0 to 255)."""
POWERED_OFF = 0x200
"""... the boot stub, when Linux switches the machine off."""
RESET = 0x201
"""... the boot stub, when Linux resets the machine, which it does when it panics."""
NO_SCRIPT = 0x202
"""... the agent, when there is nothing to run or what it was handed cannot be unpacked."""


def codes() -> dict[str, int]:
    """For `linux.json`."""
    return {"script_ended": SCRIPT_ENDED, "powered_off": POWERED_OFF, "reset": RESET, "no_script": NO_SCRIPT}


def addresses() -> dict[str, int]:
    """For `linux.json`."""
    return {
        "boot_memory": BOOT_MEMORY,
        "boot_memory_bytes": BOOT_MEMORY_BYTES,
        "uart": UART,
        "uart_interrupt": UART_INTERRUPT,
        "gic_distributor": GIC_DISTRIBUTOR,
        "gic_redistributors": GIC_REDISTRIBUTORS,
        "gic_redistributor_bytes": GIC_REDISTRIBUTOR_BYTES,
        "memory": MEMORY,
        "device_tree": DEVICE_TREE,
        "device_tree_most_bytes": DEVICE_TREE_MOST_BYTES,
        "initramfs": INITRAMFS,
        "least_memory_bytes": LEAST_MEMORY_BYTES,
        "most_cores": MOST_CORES,
        "counter_hz": COUNTER_HZ,
    }


def defines() -> tuple[str, ...]:
    """The same for the compiler of the boot stub and of the agent."""
    values = {
        "BOOT_KERNEL": KERNEL,
        "BOOT_DEVICE_TREE": DEVICE_TREE,
        "BOOT_GICD": GIC_DISTRIBUTOR,
        "BOOT_GICR": GIC_REDISTRIBUTORS,
        "BOOT_COUNTER_HZ": COUNTER_HZ,
        "BOOT_CORES": MOST_CORES,
        "BOOT_POWERED_OFF": POWERED_OFF,
        "BOOT_RESET": RESET,
        "AGENT_SCRIPT_ENDED": SCRIPT_ENDED,
        "AGENT_NO_SCRIPT": NO_SCRIPT,
    }
    return tuple(f"-D{name}={value:#x}" for name, value in values.items())
