// SPDX-License-Identifier: BSD-3-Clause
// Names of the device's answers, for messages.
#pragma once

#include <cstdint>
#include <iterator>

namespace gempim::micro {

/** The name of a gempim_lutmm_status without its prefix GEMPIM_ (and STATUS_); "unknown" for any other number. */
inline const char *status_name(std::int64_t status) {
    static const char *const names[] = {"PENDING",      "DONE",       "ERR_BUSY",  "ERR_ALIGNMENT", "ERR_VERSION",
                                        "ERR_RESERVED", "ERR_TYPE",   "ERR_SHAPE", "ERR_STRIDE",    "ERR_ADDRESS",
                                        "ERR_OVERLAP",  "ERR_TICKET", "ERR_QUERY", "ERR_MEMORY"};
    return status >= 0 && status < static_cast<std::int64_t>(std::size(names)) ? names[status] : "unknown";
}

} // namespace gempim::micro
