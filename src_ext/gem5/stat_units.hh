// SPDX-License-Identifier: BSD-3-Clause
// The unit of a model's counter as gem5 knows it.
#pragma once

#include <string>

#include "base/stats/units.hh"

namespace gem5 {

inline const statistics::units::Base *stat_unit(const std::string &unit) {
    if (unit == "cycles" || unit == "clocks") {
        return statistics::units::Cycle::get();
    }
    if (unit == "bytes") {
        return statistics::units::Byte::get();
    }
    if (unit == "bits") {
        return statistics::units::Bit::get();
    }
    if (unit == "ps") {
        return statistics::units::Tick::get();
    }
    return statistics::units::Count::get();
}

} // namespace gem5
