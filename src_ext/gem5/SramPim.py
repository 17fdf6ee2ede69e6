# SPDX-License-Identifier: BSD-3-Clause
"""The SRAM-PIM as a SimObject. Runs inside gem5: standard library and m5 only."""

import json
import os

from m5.objects.ClockedObject import ClockedObject
from m5.params import Param, RequestPort, VectorRequestPort
from m5.proxy import Parent

_PARAM_TYPES = {"int": Param.UInt64, "float": Param.Float, "bool": Param.Bool, "str": Param.String}


def _model_params():
    """One parameter for each of the device model's own, from the list that the model itself keeps.

    `sram_pim_params.json` is written when the plug-in is built: name, unit, description, type, default.
    """
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sram_pim_params.json")
    with open(path) as file:
        infos = json.load(file)
    return {i["name"]: _PARAM_TYPES[i["type"]](i["default"], "{description} [{unit}]".format(**i)) for i in infos}


class SramPim(ClockedObject):
    """C-SRAM arrays beside the slices of a last-level cache, driven by the `lutmm` instruction.

    `weight_side` streams weights: plain reads of whole lines, slice s through port s modulo the number of ports;
    connect it to the coherent crossbar on the core side of the last-level cache. `data_side` reads activations and
    writes results and status words: behind a small cache, which makes its writes coherent, or on a bus without caches.
    """

    type = "SramPim"
    cxx_class = "gem5::SramPim"
    cxx_header = "gem5/sram_pim.hh"

    system = Param.System(Parent.any, "System that the device is part of")
    weight_side = VectorRequestPort("Reads of weights")
    data_side = RequestPort("Reads of activations, writes of results and status words")
    tickets = Param.Unsigned(64, "Commands that may be outstanding")
    requests_per_port = Param.Unsigned(16, "Lines in flight on one weight port; over all ports 960 at most")
    data_requests = Param.Unsigned(16, "Lines in flight on the data port")

    locals().update(_model_params())
