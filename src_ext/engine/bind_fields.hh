// SPDX-License-Identifier: BSD-3-Clause
// Turns a model's `visit` list into Python dictionaries, strictly: an unknown or a missing key is an error that names
// it.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <set>
#include <string>
#include <type_traits>

#include "models/common/info.hh"

namespace gempim::bind {

namespace py = pybind11;

/** Fill a parameter struct from a dict that holds exactly its fields. @throws ParamError naming the key */
template <class P> P params_from_dict(const py::dict &dict, const std::string &device) {
    P params{};
    std::set<std::string> known;
    P::visit(params, [&](const char *name, auto &field, const char *unit, const char *, double, double) {
        known.insert(name);
        if (!dict.contains(name)) {
            throw ParamError(device + "." + name + " is missing (unit: " + unit + ")");
        }
        using T = std::remove_cvref_t<decltype(field)>;
        try {
            if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
                // No silent truncation: 4.5 is not 4.
                const double v = dict[name].template cast<double>();
                if (v != std::floor(v)) {
                    throw ParamError(device + "." + name + ": expected a whole number of " + unit);
                }
                if (v < 0 && std::is_unsigned_v<T>) {
                    throw ParamError(device + "." + name + ": must not be negative");
                }
                field = static_cast<T>(v);
            } else {
                field = dict[name].template cast<T>();
            }
        } catch (const py::cast_error &) {
            throw ParamError(device + "." + name + ": wrong type, expected a value in " + unit);
        }
    });
    for (const auto &item : dict) {
        const auto key = item.first.cast<std::string>();
        if (!known.count(key)) {
            std::string all;
            for (const auto &k : known) {
                all += (all.empty() ? "" : ", ") + k;
            }
            throw ParamError(device + "." + key + ": unknown key; allowed are " + all);
        }
    }
    return params;
}

/** The fields of a parameter struct: a list of {name, unit, description, min, max, type}. */
template <class P> py::list param_info() {
    py::list out;
    P params{};
    P::visit(params, [&](const char *name, auto &field, const char *unit, const char *desc, double min, double max) {
        using T = std::remove_cvref_t<decltype(field)>;
        py::dict d;
        d["name"] = name;
        d["unit"] = unit;
        d["description"] = desc;
        d["min"] = min;
        d["max"] = max;
        d["type"] = std::is_same_v<T, bool>       ? "bool"
                    : std::is_integral_v<T>       ? "int"
                    : std::is_floating_point_v<T> ? "float"
                                                  : "str";
        out.append(d);
    });
    return out;
}

/** Current values of a counter struct by name. */
template <class C> py::dict counters_to_dict(const C &counters) {
    py::dict out;
    C::visit(counters, [&](const char *name, const auto &value, const char *, const char *) { out[name] = value; });
    return out;
}

/** The counters of a device: a list of {name, unit, description}. */
template <class C> py::list counter_info() {
    py::list out;
    C counters{};
    C::visit(counters, [&](const char *name, const auto &, const char *unit, const char *desc) {
        py::dict d;
        d["name"] = name;
        d["unit"] = unit;
        d["description"] = desc;
        out.append(d);
    });
    return out;
}

} // namespace gempim::bind
