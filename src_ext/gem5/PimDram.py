# SPDX-License-Identifier: BSD-3-Clause
"""Memory with PIM as a SimObject. Runs inside gem5: standard library and m5 only."""

import json
import os

from m5.objects.AbstractMemory import AbstractMemory
from m5.params import Param, ResponsePort, VectorResponsePort

_PARAM_TYPES = {"int": Param.UInt64, "float": Param.Float, "bool": Param.Bool, "str": Param.String}


def _model_params():
    """One parameter for each of the device model's own and of its DRAM's, from the lists that the models keep.

    `pim_dram_params.json` is written when the plug-in is built: name, unit, description, type. There are no defaults.
    """
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pim_dram_params.json")
    with open(path) as file:
        infos = json.load(file)
    return {i["name"]: _PARAM_TYPES[i["type"]]("{description} [{unit}]".format(**i)) for i in infos}


class PimDram(AbstractMemory):
    """HBM stacks with Logic-PIM: main memory whose pseudo-channels are simulated command by command, and a page of
    registers by which programs give them work.

    `range` is the whole memory, without gaps: its size must be what the DRAM parameters and `stacks` make.
    `port` takes requests (several requestors may have one each), `pio` accesses to the registers, which must reach it
    uncached.
    """

    type = "PimDram"
    cxx_class = "gem5::PimDram"
    cxx_header = "gem5/pim_dram.hh"

    port = VectorResponsePort("Reads and writes of memory")
    pio = ResponsePort("Registers: see src_ext/isa/pimq.h")
    stacks = Param.Unsigned("HBM stacks")
    registers = Param.Addr("Physical address of the page of registers")
    register_latency = Param.Latency("20ns", "Time of an access to a register")
    window_bytes = Param.UInt64(0, "Bytes in the middle of each space that programs have for themselves")

    locals().update(_model_params())
