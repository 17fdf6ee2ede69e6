// SPDX-License-Identifier: BSD-3-Clause
#include "gem5/pim_dram.hh"

#include <algorithm>
#include <cstring>

#include "base/trace.hh"
#include "gem5/debug_flags.hh"
#include "gem5/user_cache_ops.hh"
#include "mem/packet.hh"
#include "mem/packet_access.hh"
#include "sim/core.hh"
#include "sim/system.hh"

namespace gem5 {

namespace pim = gempim::logic_pim;

namespace {

constexpr Tick kTicksPerSecond = 1'000'000'000'000;

/**
 * After everything else of a tick: a channel decides what it sends at a clock edge when it has all requests that come
 * at that edge, as the embedded engine does.
 */
constexpr Event::Priority kLast = Event::CPU_Tick_Pri + 10;
/** Before that, and after the requests that others send by themselves. */
constexpr Event::Priority kStart = Event::CPU_Tick_Pri + 5;

pim::LogicPimParams pim_params(const PimDramParams &params) {
    pim::LogicPimParams model;
#include "gem5/logic_pim_copy_params.hh" // generated: model.x = params.x for every parameter of the model
    return model;
}

gempim::dram::DramParams dram_params(const PimDramParams &params) {
    gempim::dram::DramParams model;
#include "gem5/dram_copy_params.hh" // generated, too
    return model;
}

/** The model, or the end of gem5 with the model's own words. */
pim::PimMemory make_model(const PimDramParams &params, pim::PimMemoryHost &host) {
    try {
        return {pim_params(params), dram_params(params), params.stacks, host};
    } catch (const gempim::ParamError &error) {
        fatal("%s: %s\n", params.name, error.what());
    }
}

} // namespace

PimDram::PimDram(const PimDramParams &params)
    : AbstractMemory(params), model_(make_model(params, *this)), registers_(params.registers),
      register_latency_(params.register_latency), window_offset_(model_.window_offset()),
      window_bytes_(params.window_bytes), stats_(*this), register_port_(name() + ".pio", *this),
      status_(GEMPIM_PIMQ_SLOTS, GEMPIM_PIMQ_EMPTY), run_event_([this] { run(); }, name() + ".run", false, kLast),
      start_event_([this] { start_next(); }, name() + ".start", false, kStart),
      finish_event_([this] { finish_command(); }, name() + ".finish") {
    fatal_if(sim_clock::Frequency != kTicksPerSecond,
             "%s: the device model counts picoseconds; gem5 runs with %d ticks a second\n", name(),
             sim_clock::Frequency);
    fatal_if(range.interleaved() || range.size() != model_.bytes(),
             "%s: range has %d bytes%s; the memory has %d without gaps\n", name(), range.size(),
             range.interleaved() ? ", interleaved" : "", model_.bytes());
    fatal_if(window_bytes_ > model_.space_bytes() - window_offset_,
             "%s: window_bytes = %d: allowed are %d, half of a space\n", name(), window_bytes_,
             model_.space_bytes() - window_offset_);
    fatal_if(registers_ % GEMPIM_PIMQ_PAGE_BYTES != 0 ||
                 range.intersects(RangeSize(registers_, GEMPIM_PIMQ_PAGE_BYTES)),
             "%s: registers = %#x: expected a page outside of the memory\n", name(), registers_);
    for (int i = 0; i < params.port_port_connection_count; ++i) {
        ports_.push_back(std::make_unique<MemoryPort>(csprintf("%s.port[%d]", name(), i), *this, i));
    }
}

PimDram::~PimDram() = default;

void PimDram::init() {
    AbstractMemory::init();
    for (const auto &port : ports_) {
        if (port->isConnected()) {
            port->sendRangeChange();
        }
    }
    if (register_port_.isConnected()) {
        register_port_.sendRangeChange();
    }
}

void PimDram::startup() {
    AbstractMemory::startup();
    // What comes before is no part of any region; after a restore the banks are as if nothing had come before.
    model_.reset_counters(curTick());
    let_programs_flush(*system());
}

Port &PimDram::getPort(const std::string &port, PortID index) {
    if (port == "port" && index >= 0 && static_cast<size_t>(index) < ports_.size()) {
        return *ports_[static_cast<size_t>(index)];
    }
    if (port == "pio") {
        return register_port_;
    }
    return AbstractMemory::getPort(port, index);
}

// Ports -----------------------------------------------------------------------------------------------

PimDram::MemoryPort::MemoryPort(const std::string &name, PimDram &owner, PortID id)
    : ResponsePort(name, id), owner_(owner), send_event_([this] { send(); }, name + ".send") {}

void PimDram::MemoryPort::answer(PacketPtr packet, Tick when) {
    answers_.emplace(when, packet);
    if (refused_ != nullptr) {
        return;
    }
    if (!send_event_.scheduled()) {
        owner_.schedule(send_event_, when);
    } else if (when < send_event_.when()) {
        owner_.reschedule(send_event_, when);
    }
}

void PimDram::MemoryPort::send() {
    while (refused_ == nullptr && !answers_.empty() && answers_.begin()->first <= curTick()) {
        PacketPtr packet = answers_.begin()->second;
        answers_.erase(answers_.begin());
        if (!sendTimingResp(packet)) {
            refused_ = packet;
        }
    }
    if (refused_ == nullptr && !answers_.empty() && !send_event_.scheduled()) {
        owner_.schedule(send_event_, answers_.begin()->first);
    }
    owner_.tell_drained();
}

void PimDram::MemoryPort::recvRespRetry() {
    PacketPtr packet = refused_;
    refused_ = nullptr;
    if (!sendTimingResp(packet)) {
        refused_ = packet;
        return;
    }
    send();
}

Tick PimDram::MemoryPort::recvAtomicBackdoor(PacketPtr packet, MemBackdoorPtr &backdoor) {
    const Tick latency = owner_.atomic(packet);
    owner_.getBackdoor(backdoor);
    return latency;
}

void PimDram::MemoryPort::recvFunctional(PacketPtr packet) {
    packet->pushLabel(owner_.name());
    owner_.functionalAccess(packet);
    for (const auto &[when, answer] : answers_) {
        packet->trySatisfyFunctional(answer); // a write reaches what is on its way to a reader, too
    }
    if (refused_ != nullptr) {
        packet->trySatisfyFunctional(refused_);
    }
    packet->popLabel();
}

AddrRangeList PimDram::RegisterPort::getAddrRanges() const {
    return {RangeSize(owner_.registers_, GEMPIM_PIMQ_PAGE_BYTES)};
}

// Requests --------------------------------------------------------------------------------------------

Tick PimDram::atomic(PacketPtr packet) {
    panic_if(packet->cacheResponding(), "%s: a cache answers this request already\n", name());
    access(packet);
    // No queues and no open rows in atomic mode, as everywhere there.
    return packet->needsResponse() || packet->isResponse() ? model_.idle_read_ps() : 0;
}

bool PimDram::take(PacketPtr packet, MemoryPort &port) {
    panic_if(packet->cacheResponding(), "%s: a cache answers this request already\n", name());
    if (port.waits) {
        return false; // gem5's simple CPUs may come before their retry
    }
    const bool write = packet->isWrite();
    const Addr burst = model_.burst_bytes();
    const Addr first = (packet->getAddr() - range.start()) / burst * burst;
    const Addr end = packet->getAddr() - range.start() + packet->getSize();
    const bool moves = packet->isRead() || write; // else a cache operation that ends here
    for (Addr at = first; moves && at < end; at += burst) {
        if (const uint32_t channel = model_.channel_of(at); model_.full(channel, write)) {
            ++stats_.refusedRequests;
            port.waits = true;
            waiting_.push_back({&port, channel, write});
            return false;
        }
    }
    const Tick delay = packet->headerDelay + packet->payloadDelay;
    packet->headerDelay = packet->payloadDelay = 0;
    const bool answer = packet->needsResponse();
    access(packet);
    auto request = std::make_shared<InFlight>();
    request->delay = delay;
    if (answer && moves && !write) {
        request->packet = packet;
        request->port = &port;
    } else if (answer) {
        // A write is over for its sender once it is in the queue.
        port.answer(packet, curTick() + delay + model_.clock_ps());
    } else {
        to_delete_.reset(packet);
    }
    for (Addr at = first; moves && at < end; at += burst) {
        ++request->bursts;
        in_flight_.emplace(next_tag_, request);
        model_.push(at, write, next_tag_++, curTick());
    }
    if (moves && !in_run_) { // run() itself goes on until nothing is left for this tick
        const Tick clock = model_.clock_ps();
        schedule_run((curTick() + clock - 1) / clock * clock);
    }
    return true;
}

void PimDram::served(uint64_t tag, gempim::Ps beat) {
    const auto found = in_flight_.find(tag);
    InFlight &request = *found->second;
    request.done = std::max<Tick>(request.done, beat);
    if (--request.bursts == 0 && request.packet != nullptr) {
        request.port->answer(request.packet, request.done + request.delay);
    }
    in_flight_.erase(found);
}

void PimDram::has_room(uint32_t channel, bool write) {
    const auto waits = std::find_if(waiting_.begin(), waiting_.end(),
                                    [&](const Waiting &w) { return w.channel == channel && w.write == write; });
    if (waits != waiting_.end()) {
        MemoryPort *const port = waits->port;
        waiting_.erase(waits);
        port->waits = false;
        port->sendRetryReq();
    }
}

// Commands --------------------------------------------------------------------------------------------

Tick PimDram::access_register(PacketPtr packet) {
    const Addr offset = packet->getAddr() - registers_;
    if (packet->getSize() != sizeof(uint64_t) || offset % sizeof(uint64_t) != 0) {
        ++stats_.badRegisterAccesses;
        if (packet->isRead()) {
            std::memset(packet->getPtr<uint8_t>(), 0, packet->getSize());
        }
    } else if (packet->isRead()) {
        packet->setLE<uint64_t>(read_register(offset));
    } else if (packet->isWrite() && offset >= GEMPIM_PIMQ_REG_DOORBELL &&
               offset < GEMPIM_PIMQ_REG_DOORBELL + 8 * GEMPIM_PIMQ_SLOTS) {
        ring(static_cast<unsigned>(offset - GEMPIM_PIMQ_REG_DOORBELL) / 8, packet->getLE<uint64_t>());
    } else {
        ++stats_.badRegisterAccesses;
    }
    if (packet->needsResponse()) {
        packet->makeResponse();
    }
    return register_latency_;
}

uint64_t PimDram::read_register(Addr offset) const {
    if (offset >= GEMPIM_PIMQ_REG_STATUS && offset < GEMPIM_PIMQ_REG_STATUS + 8 * GEMPIM_PIMQ_SLOTS) {
        return status_[(offset - GEMPIM_PIMQ_REG_STATUS) / 8];
    }
    return model_.constant_register(offset, window_bytes_);
}

void PimDram::ring(unsigned slot, uint64_t address) {
    if (status_[slot] == GEMPIM_PIMQ_PENDING) {
        ++stats_.ringsIgnored;
        return;
    }
    Queued queued{slot, {}};
    uint32_t error = model_.check_address(address);
    if (error == 0) {
        gempim_pimq_desc desc;
        std::memcpy(&desc, pmemAddr + address, sizeof(desc));
        error = model_.check(desc, address, queued.command);
    }
    if (error != 0) {
        DPRINTF(PimDram, "slot %d: descriptor at %#x refused: status %d\n", slot, address, error);
        ++stats_.commandsRefused;
        status_[slot] = error;
        return;
    }
    const gempim_pimq_desc &desc = queued.command.desc;
    DPRINTF(PimDram, "slot %d: n %d k %d tokens %d\n", slot, desc.n, desc.k, desc.tokens);
    ++stats_.commandsAccepted;
    status_[slot] = GEMPIM_PIMQ_PENDING;
    queue_.push_back(std::move(queued));
    if (queue_.size() == 1) {
        rung_ = curTick();
        const Tick clock = model_.clock_ps();
        // Rows of the command before may still be open: run() starts it then.
        if (!model_.running()) {
            schedule(start_event_, (curTick() + clock - 1) / clock * clock);
        }
    }
}

void PimDram::start_next() {
    command_start_ = curTick();
    command_runs_ = true;
    stats_.waitTicks += curTick() - rung_;
    model_.start(queue_.front().command, curTick());
    schedule_run(curTick());
    for (const auto &listener : listeners_) {
        listener();
    }
}

void PimDram::finish_command() {
    const Queued done = std::move(queue_.front());
    queue_.pop_front();
    command_runs_ = false;
    model_.compute(done.command, pmemAddr);
    status_[done.slot] = GEMPIM_PIMQ_DONE;
    ++stats_.commandsDone;
    stats_.commandTicks += curTick() - command_start_;
    stats_.lastCommandStart = command_start_;
    stats_.lastCommandTicks = curTick() - command_start_;
    DPRINTF(PimDram, "slot %d: done after %d ps\n", done.slot, curTick() - command_start_);
    rung_ = curTick();
    if (!queue_.empty() && !model_.running()) {
        const Tick clock = model_.clock_ps();
        schedule(start_event_, (curTick() + clock - 1) / clock * clock);
    }
    tell_drained();
}

// Time ------------------------------------------------------------------------------------------------

void PimDram::schedule_run(Tick when) {
    if (!run_event_.scheduled()) {
        schedule(run_event_, when);
    } else if (when < run_event_.when()) {
        reschedule(run_event_, when);
    }
}

void PimDram::run() {
    in_run_ = true;
    const gempim::Ps next = model_.run(curTick());
    in_run_ = false;
    if (next != pim::PimMemory::kForever) {
        schedule_run(next);
    }
    if (command_runs_ && !finish_event_.scheduled()) {
        if (const auto end = model_.command_end()) {
            schedule(finish_event_, std::max<Tick>(*end, curTick()));
        }
    }
    if (!command_runs_ && !queue_.empty() && !start_event_.scheduled() && !model_.running()) {
        // The next one waited for rows to be closed: at the edge after the command that closed the last one.
        schedule(start_event_, curTick() + model_.clock_ps());
    }
    tell_drained();
}

// Drain and checkpoint --------------------------------------------------------------------------------

DrainState PimDram::drain() {
    return at_rest() ? DrainState::Drained : DrainState::Draining;
}

bool PimDram::at_rest() const {
    return queue_.empty() && model_.idle() &&
           std::all_of(ports_.begin(), ports_.end(), [](const auto &port) { return port->idle(); });
}

void PimDram::tell_drained() {
    if (drainState() == DrainState::Draining && at_rest()) {
        signalDrainDone();
    }
}

void PimDram::serialize(CheckpointOut &cp) const {
    AbstractMemory::serialize(cp);
    fatal_if(!queue_.empty(), "%s: a checkpoint needs a drained memory\n", name());
    SERIALIZE_CONTAINER(status_);
}

void PimDram::unserialize(CheckpointIn &cp) {
    AbstractMemory::unserialize(cp);
    UNSERIALIZE_CONTAINER(status_);
    fatal_if(status_.size() != GEMPIM_PIMQ_SLOTS, "%s: checkpoint: %d slots, expected %d\n", name(), status_.size(),
             GEMPIM_PIMQ_SLOTS);
}

PimDram *PimDramParams::create() const {
    return new PimDram(*this);
}

} // namespace gem5
