// SPDX-License-Identifier: BSD-3-Clause
// Offering a stream to a controller: command by command, or sampled and extrapolated.
#pragma once

#include "models/dram/controller.hh"
#include "models/dram/stream.hh"

namespace gempim::dram {

/** Push every request of `stream`. */
void feed(Controller &controller, Stream &stream, Trace *trace);

/**
 * Push every request of `stream`, leaving out most of a long one.
 *
 * A long stream settles into a steady state with two periods: a walk through all banks (AddressMap::row_set) and the
 * refresh interval. The stream is cut into sections; the start of each is simulated command by command and sampled, and
 * the rest of the section is extrapolated (time and every event) at the measured rates. The rates average over a window
 * of whole bank walks, each difference taken over whole refresh intervals, so that neither period leaves a remainder in
 * them. Tests hold time and counters to 0.5 % of `feed`. Streams too short for that are simply fed.
 */
void feed_fast(Controller &controller, Stream &stream, const AddressMap &map);

} // namespace gempim::dram
