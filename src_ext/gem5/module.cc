// SPDX-License-Identifier: BSD-3-Clause
// The plug-in as a Python extension module that gem5's own interpreter imports.
//
// gem5 binds its SimObjects while it starts; by the time a config script runs that is over, so the plug-in binds its
// own here. The pybind11 of the same gem5 tree shares its type registry with the binary.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "gem5/bind_sim_objects.hh" // generated, as is the next
#include "gem5/plugin_identity.hh"

/** What this file was built for and from. The loader reads it out of the file before it lets gem5 map the code. */
extern "C" __attribute__((visibility("default"), used)) const char gempim_plugin_identity[] =
    "GEMPIM-PLUGIN-IDENTITY " GEMPIM_PLUGIN_IDENTITY "\n";

PYBIND11_MODULE(_gempim_gem5, m) {
    m.doc() = "SimObjects of gempim for the gem5 that this file was built against.";
    m.attr("identity") = GEMPIM_PLUGIN_IDENTITY;
    gem5::bind_sim_objects(m);
}
