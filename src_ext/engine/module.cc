// SPDX-License-Identifier: BSD-3-Clause
// The Python module `gempim._engine`: one bind function a device.
#include <pybind11/pybind11.h>

#include "models/common/info.hh"
#include "models/common/memory_port.hh"

namespace py = pybind11;

namespace gempim::bind {
void bind_dram(py::module_ &m);
void bind_logic_pim(py::module_ &m);
void bind_sram_pim(py::module_ &m);
} // namespace gempim::bind

PYBIND11_MODULE(_engine, m) {
    m.doc() = "Device models of gempim under the embedded engine.";
    py::register_exception<gempim::ParamError>(m, "ParamError", PyExc_ValueError);
    py::class_<gempim::MemoryPort>(m, "MemoryPort", "Abstract timing of bulk memory transfers.");
    gempim::bind::bind_dram(m);
    gempim::bind::bind_logic_pim(m);
    gempim::bind::bind_sram_pim(m);
}
