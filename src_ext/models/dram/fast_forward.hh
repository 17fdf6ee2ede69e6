// SPDX-License-Identifier: BSD-3-Clause
// Offering a stream to a controller: command by command, or fast-forwarded.
#pragma once

#include "models/dram/controller.hh"
#include "models/dram/stream.hh"

namespace gempim::dram {

/** Push every request of `stream`, command by command. */
void feed(Controller &controller, Stream &stream, Trace *trace);

/**
 * Push every request of `stream`, leaving out what repeats.
 *
 * - Exact: while requests of one direction stay in their open rows, each round over the bank groups repeats the one
 *   before. The repetition is verified by comparing the whole channel state, then rounds up to the end of the rows or
 * the next refresh are left out. The result is the same as that of `feed`, to the picosecond and the event.
 * - Extrapolated: a stream in one direction of more than about a million bursts a channel (DDR4: 70 MiB) has two
 * further periods, the walk through all banks (AddressMap::row_set) and the refresh interval, which do not fit into
 * each other. It is cut into sections; the start of each is sampled as above, and the rest extrapolated (time and
 * events) at the measured rates. The rates average over whole bank walks, each difference taken over whole refresh
 * intervals, so that neither period leaves a remainder in them. Tests hold time and events to 0.5 % of `feed`. Only for
 * address maps of the usual kind (AddressMap::regular_walk): with others the rates of rare events can be off by more,
 * so there only exact rounds are left out.
 * - Mixes of reads and writes drift through all relative positions in the banks and are never extrapolated.
 */
void feed_fast(Controller &controller, Stream &stream, const AddressMap &map, std::uint32_t row_count);

} // namespace gempim::dram
