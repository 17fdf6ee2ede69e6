# SPDX-License-Identifier: BSD-3-Clause
"""A requestor that streams through memory, as the xPU beside a PIM does. Runs inside gem5: m5 only."""

from gempim_gem5.PimDram import PimDram
from m5.objects.ClockedObject import ClockedObject
from m5.params import NULL, Param, RequestPort, VectorParam
from m5.proxy import Parent


class Xpu(ClockedObject):
    """Reads `bytes`, again and again: whenever a command of `pim` starts, or once at tick `start`.

    Addresses: `ranges` are cut into regions of `block_bytes * columns * blocks`, taken from the ranges in turn. In a
    region come `columns` blocks that are `blocks` blocks apart, then those behind them, until it has been read whole.
    With one block and one column a region is read from its beginning to its end.

    It moves as much as the memory takes: `outstanding` and `interval` are its own limits.
    """

    type = "Xpu"
    cxx_class = "gem5::Xpu"
    cxx_header = "gem5/xpu.hh"

    system = Param.System(Parent.any, "System that it is part of")
    port = RequestPort("Reads: to a port of the memory, or to a coherent bus")
    pim = Param.PimDram(NULL, "Memory whose commands start it; none: it starts by itself")
    start = Param.Tick(0, "When it starts by itself")
    ranges = VectorParam.AddrRange("What is read, in turn; read again from the start when all of it has been")
    bytes = Param.UInt64("Bytes of one stream")
    request_bytes = Param.Unsigned(32, "Bytes of one request")
    block_bytes = Param.UInt64(4096, "Bytes of one block")
    blocks = Param.Unsigned(1, "Blocks between the beginnings of two that follow each other")
    columns = Param.Unsigned(1, "Blocks that follow each other at that distance")
    outstanding = Param.Unsigned(65536, "Requests in flight, those that wait in the memory's queues included")
    interval = Param.Latency("0ns", "Least distance of two requests")


assert PimDram is not None  # Param.PimDram is looked up by name: the class must exist before this one
