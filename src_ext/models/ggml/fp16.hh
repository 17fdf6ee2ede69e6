// SPDX-License-Identifier: BSD-3-Clause
// IEEE 754 binary16 <-> binary32, in integer arithmetic only, so that every compiler and host gives the same bits.
#pragma once

#include <bit>
#include <cstdint>

namespace gempim::ggml {

/** Exact widening of a binary16 bit pattern. */
inline float fp16_to_fp32(std::uint16_t h) {
    const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000U) << 16;
    std::uint32_t exponent = (h >> 10) & 0x1FU;
    std::uint32_t fraction = h & 0x3FFU;
    if (exponent == 0x1FU) {
        return std::bit_cast<float>(sign | 0x7F800000U | (fraction << 13));
    }
    if (exponent == 0) {
        if (fraction == 0) {
            return std::bit_cast<float>(sign);
        }
        // Subnormal: shift until the hidden bit appears; binary32 has the range to hold it as a normal number.
        exponent = 1;
        while ((fraction & 0x400U) == 0) {
            fraction <<= 1;
            --exponent; // may wrap below zero: the sum with 112 below brings it back
        }
        fraction &= 0x3FFU;
    }
    return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (fraction << 13));
}

/** Nearest binary16, ties to even; overflow gives infinity, a NaN stays a (quiet) NaN. */
inline std::uint16_t fp32_to_fp16(float value) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000U;
    const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U) {
        return static_cast<std::uint16_t>(sign | 0x7E00U);
    }
    if (magnitude >= 0x47800000U) { // 65536 and above
        return static_cast<std::uint16_t>(sign | 0x7C00U);
    }
    if (magnitude < 0x33000000U) { // below half of the smallest subnormal
        return static_cast<std::uint16_t>(sign);
    }
    std::uint32_t result;
    std::uint32_t rest;
    std::uint32_t half;
    if (magnitude >= 0x38800000U) { // normal in binary16
        result = (magnitude - 0x38000000U) >> 13;
        rest = magnitude & 0x1FFFU;
        half = 0x1000U;
    } else {
        const std::uint32_t exponent = magnitude >> 23;
        const std::uint32_t significand = (magnitude & 0x7FFFFFU) | 0x800000U;
        const std::uint32_t shift = 126U - exponent; // 14 .. 24
        result = significand >> shift;
        rest = significand & ((1U << shift) - 1U);
        half = 1U << (shift - 1U);
    }
    if (rest > half || (rest == half && (result & 1U) != 0)) {
        ++result; // a carry into the exponent is the right answer, up to infinity
    }
    return static_cast<std::uint16_t>(sign | result);
}

} // namespace gempim::ggml
