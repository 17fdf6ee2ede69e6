// SPDX-License-Identifier: BSD-3-Clause
// Banks that act together on one command, as processing in memory needs them, and the rules for such commands.
#pragma once

#include <cstdint>
#include <vector>

#include "models/common/info.hh"

namespace gempim::dram {

/** One bundle: its banks, numbered through all ranks of the channel, and the ranks that it spans. */
struct Bundle {
    std::vector<std::uint32_t> banks;
    std::vector<std::uint32_t> ranks;
};

/**
 * The bundles of a channel and the distances of their commands.
 *
 * BACT opens one row number in all banks of a bundle, BRD and BWR move one column of all of them over a data path of
 * their own, BPRE closes whatever is open in them. They share the command buses with the ordinary commands, and every
 * bank keeps its own timings (tRCD, tRAS, tRC, tRP, tRTP, tWR, tRFC). BACT knows no tRRD and no tFAW. On the bundles'
 * path, WR to RD and RD to WR keep tWTR_L and tRTW.
 */
struct BundleRules {
    std::vector<Bundle> bundles;
    Ps column_distance = 0;       ///< BRD to BRD and BWR to BWR, any bundle: the path is as wide as one bundle
    Ps rank_switch = 0;           ///< more distance when the next column comes from another rank
    bool shared_group_io = false; ///< column commands of both paths to one bank group keep tCCD_L, tCCD_L_WR and tWTR_L
};

} // namespace gempim::dram
