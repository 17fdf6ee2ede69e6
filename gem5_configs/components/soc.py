"""What is around the cores when Linux runs: interrupt controller, timers, serial line, and the core's extensions.

A checkpoint of a boot holds the state of all this: a change here makes boots anew (spec/boot.py).
"""

from typing import List, Mapping

from m5.objects import (
    AddrRange,
    ArmPPI,
    ArmSPI,
    GenericTimer,
    Gicv3,
    Pl011,
    Port,
    RealView,
    SimpleMemory,
    SystemCounter,
)
from m5.params import NULL

from components.cores import N1Release
from spec.devicetree import TIMER_INTERRUPTS


class FullSystemRelease(N1Release):
    """A Neoverse-N1 as Linux sees it: all exception levels, and what the kernel uses of Armv8.2-A. Source: TRM."""

    extensions = [
        *N1Release.extensions,
        "SECURITY",
        "VIRTUALIZATION",
        "FEAT_VHE",
        "FEAT_PAN",
        "FEAT_HPDS",
        "FEAT_VMID16",
        "FEAT_UAO",
    ]


def _private(number: int) -> ArmPPI:
    return ArmPPI(num=number, int_type="IRQ_TYPE_LEVEL_LOW")


class GempimPlatform(RealView):
    """Interrupt controller (GICv3), system counter, generic timers, one PL011, and the memory of the boot stub.

    :param addresses: of `linux.json`
    """

    def __init__(self, addresses: Mapping[str, int]) -> None:
        super().__init__()
        self.gic = Gicv3(
            dist_addr=addresses["gic_distributor"],
            redist_addr=addresses["gic_redistributors"],
            maint_int=ArmPPI(num=25),
            its=NULL,
            gicv4=False,
            cpu_max=addresses["most_cores"],
        )
        self.sys_counter = SystemCounter(freqs=[addresses["counter_hz"]])
        self.generic_timer = GenericTimer(
            cntfrq=addresses["counter_hz"],
            int_el3_phys=_private(TIMER_INTERRUPTS["secure"]),
            int_el1_phys=_private(TIMER_INTERRUPTS["physical"]),
            int_el1_virt=_private(TIMER_INTERRUPTS["virtual"]),
            int_el2_ns_phys=_private(TIMER_INTERRUPTS["hypervisor"]),
            int_el2_ns_virt=_private(28),
            int_el2_s_phys=_private(20),
            int_el2_s_virt=_private(19),
        )
        self.uart = Pl011(pio_addr=addresses["uart"], interrupt=ArmSPI(num=addresses["uart_interrupt"]))
        self.boot_memory = SimpleMemory(
            range=AddrRange(start=addresses["boot_memory"], size=f"{addresses['boot_memory_bytes']}B"),
            conf_table_reported=False,
        )

    def ports(self) -> List[Port]:
        """What has to be connected to a bus."""
        return [self.gic.pio, self.uart.pio, self.boot_memory.port]
