// SPDX-License-Identifier: BSD-3-Clause
// Statistics of memory with PIM in gem5: the models' own counters, and what only gem5 has.
#include "gem5/pim_dram.hh"
#include "gem5/stat_units.hh"

namespace gem5 {

using gempim::dram::DramCounters;
using gempim::logic_pim::LogicPimCounters;

PimDram::Stats::Stats(PimDram &owner)
    : statistics::Group(&owner), owner(owner),
      ADD_STAT(commandsAccepted, statistics::units::Count::get(), "commands accepted"),
      ADD_STAT(commandsRefused, statistics::units::Count::get(), "commands refused for their descriptor"),
      ADD_STAT(commandsDone, statistics::units::Count::get(), "commands completed"),
      ADD_STAT(ringsIgnored, statistics::units::Count::get(), "doorbells of a slot whose command was not done"),
      ADD_STAT(badRegisterAccesses, statistics::units::Count::get(),
               "accesses to registers that are no aligned 64 bits, and writes that ring no doorbell"),
      ADD_STAT(commandTicks, statistics::units::Tick::get(),
               "time from the start of a command to its last result, summed over commands"),
      ADD_STAT(waitTicks, statistics::units::Tick::get(),
               "time that the first command in the queue waited for its start: clock edge, rows of the one before"),
      ADD_STAT(lastCommandStart, statistics::units::Tick::get(), "when the last completed command started"),
      ADD_STAT(lastCommandTicks, statistics::units::Tick::get(), "time of the last completed command"),
      ADD_STAT(refusedRequests, statistics::units::Count::get(), "requests that found a full queue, each time") {
    const LogicPimCounters of_pim;
    LogicPimCounters::visit(
        of_pim, [this](const char *name, const uint64_t &, const char *unit, const char *description) {
            pim.push_back(std::make_unique<statistics::Scalar>(this, name, stat_unit(unit), description));
            pim.back()->precision(0);
        });
    const DramCounters of_dram;
    DramCounters::visit(of_dram, [this](const char *name, const uint64_t &, const char *unit, const char *description) {
        const std::string full = "dram_" + std::string(name);
        dram.push_back(std::make_unique<statistics::Scalar>(this, full.c_str(), stat_unit(unit), description));
        dram.back()->precision(0);
    });
}

void PimDram::Stats::preDumpStats() {
    statistics::Group::preDumpStats();
    size_t i = 0;
    const auto of_pim = owner.model_.counters();
    LogicPimCounters::visit(of_pim, [&](const char *, const uint64_t &value, const char *, const char *) {
        *pim[i++] = static_cast<double>(value);
    });
    i = 0;
    const auto of_dram = owner.model_.dram_counters(curTick());
    DramCounters::visit(of_dram, [&](const char *, const uint64_t &value, const char *, const char *) {
        *dram[i++] = static_cast<double>(value);
    });
}

void PimDram::Stats::resetStats() {
    statistics::Group::resetStats();
    owner.model_.reset_counters(curTick());
}

} // namespace gem5
