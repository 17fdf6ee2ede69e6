// SPDX-License-Identifier: BSD-3-Clause
// What every device model says of itself: its parameters and its event counters.
//
// A parameter or counter struct has one static function template `visit(self, f)` that calls
// `f(name, field, unit, description)` for a counter, or with `, min, max` after it for a parameter. Every host (the
// Python binding, gem5 stats, the reference page) walks that one list, so none of them can disagree with the model.
//
// Headers of models are C++17 where the gem5 plug-in includes them: gem5's own do not compile as C++20.
#pragma once

#include <cmath>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace gempim {

/** Simulated time in picoseconds: the same as gem5's default tick. */
using Ps = std::uint64_t;

/** A parameter outside its range, or a combination that no hardware could have. The message names the parameter. */
class ParamError : public std::invalid_argument {
  public:
    using std::invalid_argument::invalid_argument;
};

/** Throw ParamError unless every field of `params` lies in the range its `visit` states. */
template <class P> void check_ranges(const P &params, const std::string &device) {
    P::visit(params, [&](const char *name, const auto &value, const char *unit, const char *, double min, double max) {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_arithmetic_v<T>) {
            const double v = static_cast<double>(value);
            if (std::isnan(v) || v < min || v > max) {
                std::ostringstream msg;
                msg << device << "." << name << " = " << v << " " << unit << ": allowed are " << min << " to " << max;
                throw ParamError(msg.str());
            }
        }
    });
}

} // namespace gempim
