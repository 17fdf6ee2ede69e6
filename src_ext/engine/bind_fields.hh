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

// One function a field type, not a field: inlined forty times over they took most of the build.

/** Set one field from its key. @throws ParamError naming the key */
template <class T>
[[gnu::noinline]] void set_field(T &field, const py::dict &dict, const std::string &where, const char *name,
                                 const char *unit) {
    if (!dict.contains(name)) {
        throw ParamError(where + " is missing (unit: " + unit + ")");
    }
    try {
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
            // No silent truncation: 4.5 is not 4.
            const double v = dict[name].template cast<double>();
            if (v != std::floor(v)) {
                throw ParamError(where + ": expected a whole number of " + unit);
            }
            if (v < 0 && std::is_unsigned_v<T>) {
                throw ParamError(where + ": must not be negative");
            }
            field = static_cast<T>(v);
        } else {
            field = dict[name].template cast<T>();
        }
    } catch (const py::cast_error &) {
        throw ParamError(where + ": wrong type, expected a value in " + unit);
    }
}

/** Fill a parameter struct from a dict that holds exactly its fields. @throws ParamError naming the key */
template <class P> P params_from_dict(const py::dict &dict, const std::string &device) {
    P params{};
    std::set<std::string> known;
    P::visit(params, [&](const char *name, auto &field, const char *unit, const char *, double, double) {
        known.insert(name);
        set_field(field, dict, device + "." + name, name, unit);
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

[[gnu::noinline]] inline void append_info(py::list &out, const char *name, const char *unit, const char *description,
                                          double min, double max, const char *type) {
    py::dict d;
    d["name"] = name;
    d["unit"] = unit;
    d["description"] = description;
    d["min"] = min;
    d["max"] = max;
    d["type"] = type;
    out.append(d);
}

/** The fields of a parameter struct: a list of {name, unit, description, min, max, type}. */
template <class P> py::list param_info() {
    py::list out;
    P params{};
    P::visit(params, [&](const char *name, auto &field, const char *unit, const char *desc, double min, double max) {
        using T = std::remove_cvref_t<decltype(field)>;
        const char *type = std::is_same_v<T, bool>       ? "bool"
                           : std::is_integral_v<T>       ? "int"
                           : std::is_floating_point_v<T> ? "float"
                                                         : "str";
        append_info(out, name, unit, desc, min, max, type);
    });
    return out;
}

template <class T> [[gnu::noinline]] void put(py::dict &out, const char *name, const T &value) {
    out[name] = value;
}

/** Current values of a counter struct by name. */
template <class C> py::dict counters_to_dict(const C &counters) {
    py::dict out;
    C::visit(counters, [&](const char *name, const auto &value, const char *, const char *) { put(out, name, value); });
    return out;
}

[[gnu::noinline]] inline void append_counter(py::list &out, const char *name, const char *unit,
                                             const char *description) {
    py::dict d;
    d["name"] = name;
    d["unit"] = unit;
    d["description"] = description;
    out.append(d);
}

/** The counters of a device: a list of {name, unit, description}. */
template <class C> py::list counter_info() {
    py::list out;
    C counters{};
    C::visit(counters, [&](const char *name, const auto &, const char *unit, const char *desc) {
        append_counter(out, name, unit, desc);
    });
    return out;
}

} // namespace gempim::bind
