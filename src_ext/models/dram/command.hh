// SPDX-License-Identifier: BSD-3-Clause
// DRAM commands, and the bounded record of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "models/common/info.hh"

namespace gempim::dram {

/** REFpb refreshes one bank; the last four go to a bundle (bundle.hh), whose banks act together. */
enum class Op : std::uint8_t { kAct, kPre, kRd, kWr, kRef, kRefBank, kBundleAct, kBundlePre, kBundleRd, kBundleWr };

/** The name that a trace shows: ACT, PRE, RD, WR, REF, REFpb, BACT, BPRE, BRD, BWR. */
constexpr const char *op_name(Op op) {
    constexpr const char *names[] = {"ACT", "PRE", "RD", "WR", "REF", "REFpb", "BACT", "BPRE", "BRD", "BWR"};
    return names[static_cast<std::size_t>(op)];
}

/**
 * One command to one channel. `bank` counts through all ranks of the channel; REF uses only `rank`; commands to a
 * bundle have the bundle's number in `bank` and its first rank in `rank`.
 */
struct Command {
    Op op = Op::kAct;
    std::uint32_t rank = 0;
    std::uint32_t bank = 0;
    std::uint32_t row = 0;
    std::uint32_t column = 0;
};

/** A command with its issue time [ps]. */
struct TracedCommand {
    Ps time;
    Command command;
};

/** The first `limit` commands of a channel. */
struct Trace {
    std::vector<TracedCommand> commands;
    std::size_t limit = 0;
    bool truncated = false; ///< commands beyond `limit` were issued

    void record(Ps time, const Command &command) {
        if (commands.size() < limit) {
            commands.push_back({time, command});
        } else {
            truncated = true;
        }
    }
};

} // namespace gempim::dram
