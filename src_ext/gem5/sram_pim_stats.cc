// SPDX-License-Identifier: BSD-3-Clause
// Statistics of the SRAM-PIM in gem5: the model's own counters, and what only gem5 has.
#include "gem5/sram_pim.hh"
#include "gem5/stat_units.hh"

namespace gem5 {

namespace pim = gempim::sram_pim;

SramPim::Stats::Stats(SramPim &owner)
    : statistics::Group(&owner), owner(owner),
      ADD_STAT(lutmmIssued, statistics::units::Count::get(), "lutmm commands accepted"),
      ADD_STAT(lutmmRefused, statistics::units::Count::get(), "lutmm commands refused for their descriptor"),
      ADD_STAT(lutmmBusy, statistics::units::Count::get(),
               "lutmm commands turned away because all tickets were in use"),
      ADD_STAT(lutmmFaults, statistics::units::Count::get(),
               "lutmm commands that met an unmapped page (each is issued again once the page is there)"),
      ADD_STAT(lutmmWaits, statistics::units::Count::get(), "lutmm waits executed"),
      ADD_STAT(lutmmSleeps, statistics::units::Count::get(), "lutmm waits that suspended their core"),
      ADD_STAT(lutmmQueries, statistics::units::Count::get(), "lutmm queries executed"),
      ADD_STAT(commandsDone, statistics::units::Count::get(), "lutmm commands completed"),
      ADD_STAT(memoryErrors, statistics::units::Count::get(), "commands that ended with an error of the memory system"),
      ADD_STAT(droppedWrites, statistics::units::Count::get(),
               "result lines and status words left out because the page was no longer the program's (full system)"),
      ADD_STAT(commandTicks, statistics::units::Tick::get(), "time from issue to completion, summed over commands"),
      ADD_STAT(activationTicks, statistics::units::Tick::get(),
               "of that, from the start of the command to the arrival of its activations"),
      ADD_STAT(computeTicks, statistics::units::Tick::get(),
               "of that, from the arrival of the activations until the last result was ready"),
      ADD_STAT(resultTicks, statistics::units::Tick::get(),
               "of that, from the last result being ready until results and status word were written"),
      ADD_STAT(activeTicks, statistics::units::Tick::get(), "time with at least one command outstanding"),
      ADD_STAT(weightLines, statistics::units::Count::get(), "cache lines read by the weight ports"),
      ADD_STAT(dataLines, statistics::units::Count::get(), "cache lines read or written by the data port") {
    pim::SramPimCounters::visit(
        owner.model_.counters(), [this](const char *name, const uint64_t &, const char *unit, const char *description) {
            model.push_back(std::make_unique<statistics::Scalar>(this, name, stat_unit(unit), description));
            model.back()->precision(0);
        });
}

void SramPim::Stats::preDumpStats() {
    statistics::Group::preDumpStats();
    size_t i = 0;
    pim::SramPimCounters::visit(owner.model_.counters(),
                                [&](const char *, const uint64_t &value, const char *, const char *) {
                                    *model[i++] = static_cast<double>(value);
                                });
    if (!owner.commands_.empty()) {
        activeTicks += curTick() - owner.active_since_;
        owner.active_since_ = curTick();
    }
}

void SramPim::Stats::resetStats() {
    statistics::Group::resetStats();
    owner.model_.reset_counters();
    owner.active_since_ = curTick();
}

} // namespace gem5
