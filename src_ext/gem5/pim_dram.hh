// SPDX-License-Identifier: BSD-3-Clause
// Memory with Logic-PIM in gem5: the same device model as the embedded engine, as the main memory of a machine.
//
// Requests of the machine and commands of the PIM meet on the model's pseudo-channels, command by command. A request's
// data are moved when it is accepted, its answer comes with its last data beat. A command is read when its doorbell is
// rung; commands run one after the other; results are in memory, and the status says so, when the model says that they
// are. Completion is the drain condition, so a checkpoint never holds a half-done command.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/statistics.hh"
#include "isa/pimq.h"
#include "mem/abstract_mem.hh"
#include "mem/port.hh"
#include "mem/tport.hh"
#include "models/logic_pim/pim_memory.hh"
#include "params/PimDram.hh"
#include "sim/eventq.hh"

namespace gem5 {

class PimDram : public memory::AbstractMemory, private gempim::logic_pim::PimMemoryHost {
  public:
    /** Bad model parameters, and a range of another size, end gem5 with one line. */
    PimDram(const PimDramParams &params);
    ~PimDram() override;

    void init() override;
    void startup() override;
    Port &getPort(const std::string &name, PortID index) override;

    /** Call `action` whenever a command starts, at the tick from which its time counts. */
    void when_command_starts(std::function<void()> action) { listeners_.push_back(std::move(action)); }

    DrainState drain() override;
    void serialize(CheckpointOut &cp) const override;
    void unserialize(CheckpointIn &cp) override;

  private:
    /**
     * Answers go out at the tick of their last data beat, however many there are: gem5's own queue would send one a
     * tick. Those to one address keep their order, since a bank serves them in order.
     */
    class MemoryPort : public ResponsePort {
      public:
        MemoryPort(const std::string &name, PimDram &owner, PortID id);
        void answer(PacketPtr packet, Tick when);
        bool idle() const { return answers_.empty() && refused_ == nullptr; }
        bool waits = false; ///< a request was refused, and its retry is still to come

      protected:
        Tick recvAtomic(PacketPtr packet) override { return owner_.atomic(packet); }
        Tick recvAtomicBackdoor(PacketPtr packet, MemBackdoorPtr &backdoor) override;
        void recvFunctional(PacketPtr packet) override;
        void recvMemBackdoorReq(const MemBackdoorReq &, MemBackdoorPtr &backdoor) override {
            owner_.getBackdoor(backdoor);
        }
        bool recvTimingReq(PacketPtr packet) override { return owner_.take(packet, *this); }
        void recvRespRetry() override;
        AddrRangeList getAddrRanges() const override { return {owner_.getAddrRange()}; }

      private:
        void send();

        PimDram &owner_;
        std::multimap<Tick, PacketPtr> answers_;
        PacketPtr refused_ = nullptr;
        EventFunctionWrapper send_event_;
    };

    class RegisterPort : public SimpleTimingPort {
      public:
        RegisterPort(const std::string &name, PimDram &owner) : SimpleTimingPort(name, &owner), owner_(owner) {}

      protected:
        Tick recvAtomic(PacketPtr packet) override { return owner_.access_register(packet); }
        AddrRangeList getAddrRanges() const override;

      private:
        PimDram &owner_;
    };

    /** A request that has been accepted and has bursts in the queues. */
    struct InFlight {
        PacketPtr packet = nullptr; ///< none: answered already, or asks for no answer
        MemoryPort *port = nullptr;
        unsigned bursts = 0;
        Tick delay = 0;
        Tick done = 0;
    };

    /** A port whose request found a full queue. */
    struct Waiting {
        MemoryPort *port;
        uint32_t channel;
        bool write;
    };

    struct Queued {
        unsigned slot;
        gempim::logic_pim::PimCommand command;
    };

    struct Stats : public statistics::Group {
        Stats(PimDram &owner);
        void preDumpStats() override;
        void resetStats() override;

        PimDram &owner;
        std::vector<std::unique_ptr<statistics::Scalar>> pim;  ///< counters of the PIM's model, in its order
        std::vector<std::unique_ptr<statistics::Scalar>> dram; ///< counters of the DRAM's model, in its order
        statistics::Scalar commandsAccepted;
        statistics::Scalar commandsRefused;
        statistics::Scalar commandsDone;
        statistics::Scalar ringsIgnored;
        statistics::Scalar badRegisterAccesses;
        statistics::Scalar commandTicks;
        statistics::Scalar waitTicks;
        statistics::Scalar lastCommandStart;
        statistics::Scalar lastCommandTicks;
        statistics::Scalar refusedRequests;
    };

    // Requests --------------------------------------------------------------------------------------------

    Tick atomic(PacketPtr packet);
    bool take(PacketPtr packet, MemoryPort &port);
    void served(uint64_t tag, gempim::Ps beat) override;
    void has_room(uint32_t channel, bool write) override;

    // Commands --------------------------------------------------------------------------------------------

    Tick access_register(PacketPtr packet);
    uint64_t read_register(Addr offset) const;
    void ring(unsigned slot, uint64_t address);
    void start_next();
    void finish_command();

    // Time ------------------------------------------------------------------------------------------------

    void run();
    void schedule_run(Tick when);
    bool at_rest() const;
    void tell_drained();

    gempim::logic_pim::PimMemory model_;
    const Addr registers_;
    const Tick register_latency_;
    const uint64_t window_offset_;
    const uint64_t window_bytes_;
    Stats stats_;
    std::vector<std::unique_ptr<MemoryPort>> ports_;
    RegisterPort register_port_;
    std::unique_ptr<Packet> to_delete_; ///< without an answer; caches look at it until the call is over

    uint64_t next_tag_ = 0;
    std::unordered_map<uint64_t, std::shared_ptr<InFlight>> in_flight_; ///< by the tag of each burst
    std::deque<Waiting> waiting_;
    bool in_run_ = false;

    std::vector<uint32_t> status_; ///< by slot
    std::deque<Queued> queue_;     ///< the front one runs if `command_runs_`
    bool command_runs_ = false;
    Tick rung_ = 0; ///< when the command that runs was first to go
    Tick command_start_ = 0;
    std::vector<std::function<void()>> listeners_;

    EventFunctionWrapper run_event_;
    EventFunctionWrapper start_event_;
    EventFunctionWrapper finish_event_;
};

} // namespace gem5
