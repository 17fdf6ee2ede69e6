# SPDX-License-Identifier: BSD-3-Clause
"""The AArch64 decoder that knows `lutmm`. Runs inside gem5: m5 only."""

from gempim_gem5.SramPim import SramPim
from m5.objects.ArmDecoder import ArmDecoder
from m5.params import Param


class PimArmDecoder(ArmDecoder):
    """gem5's own decoder and, in the unallocated group of AArch64, `lutmm`.

    A CPU class takes it by `ArchDecoder = PimArmDecoder`; after `createThreads()` its `device` must be set.
    """

    type = "PimArmDecoder"
    cxx_class = "gem5::PimArmDecoder"
    cxx_header = "gem5/pim_arm_decoder.hh"

    device = Param.SramPim("Device that the instruction talks to")


assert SramPim is not None  # Param.SramPim is looked up by name: the class must exist before this one
