// SPDX-License-Identifier: BSD-3-Clause
#include "gem5/sram_pim.hh"

#include <algorithm>
#include <type_traits>

#include "arch/generic/mmu.hh"
#include "base/trace.hh"
#include "cpu/base.hh"
#include "cpu/thread_context.hh"
#include "gem5/debug_flags.hh"
#include "models/sram_pim/multiply.hh"
#include "sim/core.hh"

namespace gem5 {

namespace pim = gempim::sram_pim;

namespace {

/** Statuses that nobody has asked for; a program that never waits must not fill the host's memory. */
constexpr size_t kMostUnread = 4096;

/**
 * Lines in flight over all weight ports. All of them may lie modified in one core's cache, and gem5 ends the simulation
 * when a cache has more than 1024 answers waiting.
 */
constexpr uint64_t kMostLines = 960;

/** Translation is page by page; no page of an Arm system is smaller. */
constexpr Addr kPageBytes = 4096;

constexpr Tick kTicksPerSecond = 1'000'000'000'000;

pim::SramPimParams model_params(const SramPimParams &params) {
    pim::SramPimParams model;
#include "gem5/sram_pim_copy_params.hh" // generated: model.x = params.x for every parameter of the model
    // In gem5 the program reads results from memory, so they are written there, through the caches.
    model.results_to_memory = true;
    return model;
}

const pim::SramPimParams &checked(const pim::SramPimParams &params, const std::string &name) {
    fatal_if(params.activation_bits != 8,
             "%s: activation_bits = %d: programs hand over ggml's 8-bit activations; allowed is 8\n", name,
             params.activation_bits);
    try {
        pim::SramPim probe(params);
    } catch (const gempim::ParamError &error) {
        fatal("%s: %s\n", name, error.what());
    }
    return params;
}

} // namespace

/** One accepted command. */
struct SramPim::Running {
    uint64_t ticket = 0;
    pim::Command command;
    AddressSpace space;
    Addr status_address = 0; ///< physical
    Addr status_virtual = 0;
    std::vector<Addr> weight_pages;
    std::vector<Addr> activation_pages;
    std::vector<Addr> result_pages;
    Tick issued = 0;
    Tick started = 0;
    Tick activations_ready = 0;
    unsigned first_slice = 0;
    bool has_started = false;
    bool status_written = false;
    bool error = false;
    std::unique_ptr<pim::TilePipeline> pipeline;
    std::vector<uint8_t> weights; ///< rows (transposed: columns of blocks) without gaps
    std::vector<uint8_t> activation_bytes;
    gempim::ggml::QuantizedActivations activations;
    std::map<uint32_t, std::vector<float>> strips; ///< results on their way to memory
    uint32_t status_word = 0;

    const pim::MatmulPlan &plan() const { return *command.plan; }
};

// Construction ----------------------------------------------------------------------------------------

SramPim::SramPim(const SramPimParams &params)
    : ClockedObject(params), system_(*params.system), model_(checked(model_params(params), name())),
      tickets_(params.tickets), line_bytes_(system_.cacheLineSize()), requestor_(system_.getRequestorId(this)),
      stats_(*this), data_port_(name() + ".data_side", *this, params.data_requests, stats_.dataLines),
      agenda_event_([this] { run_agenda(); }, name() + ".agenda"),
      wake_event_([this] { wake_contexts(); }, name() + ".wake") {
    fatal_if(sim_clock::Frequency != kTicksPerSecond,
             "%s: the device model counts picoseconds; gem5 runs with %d ticks a second\n", name(),
             sim_clock::Frequency);
    fatal_if(tickets_ == 0 || params.requests_per_port == 0 || params.data_requests == 0,
             "%s: tickets, requests_per_port and data_requests must be at least 1\n", name());
    staged_bytes_.assign(model_.params().slices, 0);
    for (int i = 0; i < params.port_weight_side_connection_count; ++i) {
        weight_ports_.push_back(std::make_unique<LinePort>(csprintf("%s.weight_side[%d]", name(), i), *this,
                                                           params.requests_per_port, stats_.weightLines));
    }
}

SramPim::~SramPim() = default;

void SramPim::init() {
    ClockedObject::init();
    fatal_if(weight_ports_.empty(), "%s: weight_side is not connected\n", name());
    fatal_if(!data_port_.isConnected(), "%s: data_side is not connected\n", name());
    const auto &own = dynamic_cast<const SramPimParams &>(params());
    fatal_if(uint64_t{own.requests_per_port} * weight_ports_.size() > kMostLines,
             "%s: requests_per_port = %d on %d weight ports: allowed are %d lines in flight over all ports\n", name(),
             own.requests_per_port, weight_ports_.size(), kMostLines);
}

Port &SramPim::getPort(const std::string &port, PortID index) {
    if (port == "weight_side" && index >= 0 && static_cast<size_t>(index) < weight_ports_.size()) {
        return *weight_ports_[static_cast<size_t>(index)];
    }
    if (port == "data_side") {
        return data_port_;
    }
    return ClockedObject::getPort(port, index);
}

// The instruction -------------------------------------------------------------------------------------

Fault SramPim::issue(ThreadContext *tc, Addr address, const gempim_lutmm_desc &desc, RegVal &answer) {
    const auto refuse = [&](int32_t status) { answer = static_cast<RegVal>(-int64_t{status}); };
    if (commands_.size() >= tickets_) {
        ++stats_.lutmmBusy;
        refuse(GEMPIM_ERR_BUSY);
        return NoFault;
    }
    auto running = std::make_unique<Running>();
    if (const int32_t error = pim::check_command(model_, desc, address, running->command); error != 0) {
        DPRINTF(SramPim, "descriptor at %#x refused: status %d\n", address, error);
        ++stats_.lutmmRefused;
        refuse(error);
        return NoFault;
    }
    std::vector<Addr> status_page;
    const pim::RowRange status{address + offsetof(gempim_lutmm_desc, status), 1, 4, 4};
    Fault fault = translate(tc, running->command.weights, false, running->weight_pages);
    if (fault == NoFault) {
        fault = translate(tc, running->command.activations, false, running->activation_pages);
    }
    if (fault == NoFault) {
        fault = translate(tc, running->command.results, true, running->result_pages);
    }
    if (fault == NoFault) {
        fault = translate(tc, status, true, status_page);
    }
    if (fault != NoFault) {
        ++stats_.lutmmFaults;
        return fault;
    }
    running->ticket = next_ticket_++;
    running->space = AddressSpace::of(tc);
    running->status_virtual = status.address;
    running->status_address = status_page[0] + status.address % kPageBytes;
    running->issued = curTick();
    DPRINTF(SramPim, "command %d: %s m %d n %d k %d\n", running->ticket, running->command.format->name, desc.m, desc.n,
            desc.k);
    ++stats_.lutmmIssued;
    answer = running->ticket;
    if (commands_.empty()) {
        active_since_ = curTick();
    }
    commands_.emplace(running->ticket, std::move(running));
    at(clockEdge(Cycles(1)), [this] { admit(); });
    return NoFault;
}

RegVal SramPim::wait(ThreadContext *tc, RegVal ticket) {
    ++stats_.lutmmWaits;
    if (ticket == 0) {
        if (commands_.size() < tickets_) {
            return GEMPIM_STATUS_DONE;
        }
    } else {
        const Addr space = AddressSpace::of(tc).id();
        if (const auto done = finished_.find(ticket); done != finished_.end() && done->second.space == space) {
            const uint32_t status = done->second.status;
            finished_.erase(done);
            return status;
        }
        const auto running = commands_.find(ticket);
        if (running == commands_.end() || running->second->space.id() != space) {
            return GEMPIM_ERR_TICKET;
        }
    }
    ++stats_.lutmmSleeps;
    waiters_[ticket].insert(tc->contextId());
    return GEMPIM_STATUS_PENDING;
}

RegVal SramPim::query(RegVal what) {
    ++stats_.lutmmQueries;
    return static_cast<RegVal>(pim::answer_query(model_, static_cast<int64_t>(what), tickets_));
}

// Memory ----------------------------------------------------------------------------------------------

Fault SramPim::translate(ThreadContext *tc, const pim::RowRange &range, bool write, std::vector<Addr> &pages) {
    const Addr first = range.address & ~(kPageBytes - 1);
    const Addr last = range.address + (range.extent() - 1);
    const BaseMMU::Mode mode = write ? BaseMMU::Write : BaseMMU::Read;
    for (Addr page = first;; page += kPageBytes) {
        auto request = std::make_shared<Request>(std::max(page, range.address), 1, 0, requestor_,
                                                 tc->pcState().instAddr(), tc->contextId());
        if (const Fault fault = tc->getMMUPtr()->translateFunctional(request, tc, mode); fault != NoFault) {
            return fault;
        }
        pages.push_back(request->getPaddr() & ~(kPageBytes - 1));
        if (last - page < kPageBytes) {
            return NoFault;
        }
    }
}

std::function<std::optional<SramPim::Piece>()> SramPim::pieces(const pim::RowRange &range,
                                                               const std::vector<Addr> &pages, uint64_t first,
                                                               uint64_t count, uint64_t from, uint64_t bytes,
                                                               uint8_t *packed, uint64_t packed_row) {
    // Rows that follow each other without a gap, in memory and in the buffer, are one long row: no line is asked for
    // twice.
    if (bytes == range.stride && bytes == packed_row) {
        bytes *= count;
        count = 1;
    }
    const Addr base = range.address & ~(kPageBytes - 1);
    uint64_t row = 0;
    uint64_t offset = 0;
    return [=, &range, &pages]() mutable -> std::optional<Piece> {
        if (row == count) {
            return std::nullopt;
        }
        const Addr address = range.address + (first + row) * range.stride + from + offset;
        const uint64_t to_line_end = line_bytes_ - address % line_bytes_;
        const auto size = static_cast<unsigned>(std::min(to_line_end, bytes - offset));
        const Piece piece{pages[(address - base) / kPageBytes] + address % kPageBytes, address, size,
                          packed + row * packed_row + offset};
        offset += size;
        if (offset == bytes) {
            offset = 0;
            ++row;
        }
        return piece;
    };
}

// Commands --------------------------------------------------------------------------------------------

bool SramPim::has_room(const Running &command) const {
    const pim::SramPimParams &p = model_.params();
    const uint64_t room = p.slice_bytes - pim::array_bytes_per_slice(p);
    for (unsigned i = 0; i < command.plan().slices_used; ++i) {
        const uint64_t staged = staged_bytes_[(command.first_slice + i) % p.slices];
        // Into an empty slice it fits: the planner has checked that.
        if (staged != 0 && staged + command.plan().staging_bytes_per_slice > room) {
            return false;
        }
    }
    return true;
}

void SramPim::stage(const Running &command, bool add) {
    for (unsigned i = 0; i < command.plan().slices_used; ++i) {
        uint64_t &staged = staged_bytes_[(command.first_slice + i) % model_.params().slices];
        staged += add ? command.plan().staging_bytes_per_slice : -command.plan().staging_bytes_per_slice;
    }
}

void SramPim::admit() {
    // In the order of issue: a large command is not starved by small ones behind it.
    for (auto &[ticket, command] : commands_) {
        if (command->has_started) {
            continue;
        }
        command->first_slice = next_slice_;
        if (!has_room(*command)) {
            return;
        }
        // The next one begins where this one ends: commands of several threads work side by side.
        next_slice_ = (next_slice_ + command->plan().slices_used) % model_.params().slices;
        stage(*command, true);
        start(*command);
    }
}

void SramPim::start(Running &command) {
    const pim::Command &c = command.command;
    command.has_started = true;
    command.started = curTick();
    command.weights.resize(c.weights.rows * c.weights.row_bytes);
    command.activation_bytes.resize(c.activations.rows * c.activations.row_bytes);
    command.pipeline = std::make_unique<pim::TilePipeline>(model_, c.plan, command.first_slice);
    auto transfer = std::make_unique<Transfer>();
    transfer->next = pieces(c.activations, command.activation_pages, 0, c.activations.rows, 0, c.activations.row_bytes,
                            command.activation_bytes.data(), c.activations.row_bytes);
    transfer->error = &command.error;
    transfer->done = [this, &command] { activations_arrived(command); };
    data_port_.push(std::move(transfer));
    load_what_fits(command);
}

void SramPim::load_what_fits(Running &command) {
    const pim::RowRange &rows = command.command.weights;
    while (const auto load = command.pipeline->next_load()) {
        const pim::Tile &tile = command.plan().tiles[load->tile];
        const pim::Command::Part part = command.command.part_of(tile);
        auto transfer = std::make_unique<Transfer>();
        transfer->next = pieces(rows, command.weight_pages, part.first_row, part.rows, part.from, part.bytes,
                                command.weights.data() + part.first_row * rows.row_bytes + part.from, rows.row_bytes);
        transfer->error = &command.error;
        transfer->done = [this, &command, number = load->tile] {
            if (const auto tile_start = command.pipeline->load_done(number, curTick())) {
                schedule_tile(command, *tile_start);
            }
        };
        weight_ports_[command.pipeline->device_slice(tile.slice) % weight_ports_.size()]->push(std::move(transfer));
    }
}

void SramPim::activations_arrived(Running &command) {
    command.activations_ready = curTick();
    stats_.activationTicks += curTick() - command.started;
    command.activations = pim::unpack_activations(command.command, command.activation_bytes.data());
    const pim::PatternHits hits = model_.measure_hits(command.plan(), command.activations.q.data());
    for (const pim::TileStart &tile :
         command.pipeline->activations_ready(model_.with_hits(command.command.plan, hits), curTick())) {
        schedule_tile(command, tile);
    }
}

void SramPim::schedule_tile(Running &command, const pim::TileStart &tile) {
    at(tile.done_ps, [this, &command, number = tile.tile] { tile_done(command, number); });
}

void SramPim::tile_done(Running &command, uint32_t tile) {
    if (const auto next = command.pipeline->compute_done(tile, curTick())) {
        schedule_tile(command, *next);
    }
    load_what_fits(command);
    write_strips(command);
}

void SramPim::write_strips(Running &command) {
    while (const auto strip = command.pipeline->next_write()) {
        at(strip->ready_ps, [this, &command, strip = *strip] { write_strip(command, strip); });
    }
}

void SramPim::write_strip(Running &command, const pim::ResultWrite &strip) {
    const pim::Command &c = command.command;
    std::vector<float> &values =
        command.strips
            .emplace(strip.strip, pim::multiply_strip(model_.params(), command.plan(), strip.strip, *c.format,
                                                      c.blocks(command.weights.data()), command.activations))
            .first->second;
    const uint64_t row_bytes = command.plan().columns_of(strip.strip) * sizeof(float);
    auto transfer = std::make_unique<Transfer>();
    transfer->write = true;
    transfer->space = &command.space;
    transfer->next = pieces(c.results, command.result_pages, 0, c.results.rows,
                            uint64_t{strip.strip} * command.plan().tile_n * sizeof(float), row_bytes,
                            reinterpret_cast<uint8_t *>(values.data()), row_bytes);
    transfer->error = &command.error;
    transfer->done = [this, &command, number = strip.strip] {
        command.strips.erase(number);
        command.pipeline->write_done(curTick());
        finish_if_done(command);
    };
    data_port_.push(std::move(transfer));
}

void SramPim::finish_if_done(Running &command) {
    if (!command.pipeline->finished() || command.status_written) {
        return;
    }
    command.status_written = true;
    command.status_word = command.error ? GEMPIM_ERR_MEMORY : GEMPIM_STATUS_DONE;
    stats_.computeTicks += command.pipeline->results_ready_ps() - command.activations_ready;
    auto transfer = std::make_unique<Transfer>();
    transfer->write = true;
    transfer->space = &command.space;
    transfer->next = [&command, sent = false]() mutable -> std::optional<Piece> {
        if (sent) {
            return std::nullopt;
        }
        sent = true;
        return Piece{command.status_address, command.status_virtual, sizeof(command.status_word),
                     reinterpret_cast<uint8_t *>(&command.status_word)};
    };
    transfer->error = &command.error;
    transfer->done = [this, ticket = command.ticket] { complete(ticket); };
    data_port_.push(std::move(transfer));
}

void SramPim::complete(uint64_t ticket) {
    const auto it = commands_.find(ticket);
    const Running &command = *it->second;
    DPRINTF(SramPim, "command %d done after %d ps\n", ticket, curTick() - command.issued);
    ++stats_.commandsDone;
    stats_.memoryErrors += command.error ? 1 : 0;
    stats_.commandTicks += curTick() - command.issued;
    stats_.resultTicks += curTick() - command.pipeline->results_ready_ps();
    const uint32_t status = command.error ? GEMPIM_ERR_MEMORY : GEMPIM_STATUS_DONE;
    finished_.emplace(ticket, Finished{status, command.space.id()});
    if (finished_.size() > kMostUnread) {
        finished_.erase(finished_.begin());
    }
    stage(command, false);
    commands_.erase(it);
    if (commands_.empty()) {
        stats_.activeTicks += curTick() - active_since_;
    }
    wake(ticket);
    wake(0);
    admit();
    if (commands_.empty()) {
        signalDrainDone();
    }
}

void SramPim::wake(uint64_t ticket) {
    const auto waiting = waiters_.find(ticket);
    if (waiting == waiters_.end()) {
        return;
    }
    to_wake_.insert(waiting->second.begin(), waiting->second.end());
    waiters_.erase(waiting);
    // While gem5 drains, its cores must stay as they are: drainResume() does it then.
    if (drainState() == DrainState::Running && !wake_event_.scheduled()) {
        schedule(wake_event_, clockEdge(Cycles(1)));
    }
}

void SramPim::wake_contexts() {
    for (const ContextID id : to_wake_) {
        ThreadContext *tc = system_.threads[id];
        if (tc->status() == ThreadContext::Suspended) {
            tc->activate();
        }
    }
    to_wake_.clear();
}

// Time ------------------------------------------------------------------------------------------------

void SramPim::at(Tick when, std::function<void()> action) {
    agenda_.emplace(when, std::move(action));
    if (!agenda_event_.scheduled()) {
        schedule(agenda_event_, when);
    } else if (when < agenda_event_.when()) {
        reschedule(agenda_event_, when);
    }
}

void SramPim::run_agenda() {
    while (!agenda_.empty() && agenda_.begin()->first <= curTick()) {
        const auto action = std::move(agenda_.begin()->second);
        agenda_.erase(agenda_.begin());
        action();
    }
    if (!agenda_.empty() && !agenda_event_.scheduled()) {
        schedule(agenda_event_, agenda_.begin()->first);
    } else if (!agenda_.empty() && agenda_event_.when() > agenda_.begin()->first) {
        reschedule(agenda_event_, agenda_.begin()->first);
    }
}

// Drain and checkpoint --------------------------------------------------------------------------------

DrainState SramPim::drain() {
    if (wake_event_.scheduled()) {
        deschedule(wake_event_); // the contexts stay in to_wake_
    }
    return commands_.empty() ? DrainState::Drained : DrainState::Draining;
}

void SramPim::drainResume() {
    ClockedObject::drainResume();
    if (!to_wake_.empty() && !wake_event_.scheduled()) {
        schedule(wake_event_, clockEdge(Cycles(1)));
    }
}

void SramPim::serialize(CheckpointOut &cp) const {
    ClockedObject::serialize(cp);
    fatal_if(!commands_.empty(), "%s: a checkpoint needs a drained device\n", name());
    SERIALIZE_SCALAR(next_ticket_);
    SERIALIZE_SCALAR(next_slice_);
    std::vector<uint64_t> tickets;
    std::vector<uint32_t> statuses;
    std::vector<uint64_t> spaces;
    for (const auto &[ticket, finished] : finished_) {
        tickets.push_back(ticket);
        statuses.push_back(finished.status);
        spaces.push_back(finished.space);
    }
    SERIALIZE_CONTAINER(tickets);
    SERIALIZE_CONTAINER(statuses);
    SERIALIZE_CONTAINER(spaces);
    // Nobody waits for a command that is done, so what is left of the waiters is to be woken.
    std::vector<ContextID> suspended(to_wake_.begin(), to_wake_.end());
    SERIALIZE_CONTAINER(suspended);
}

void SramPim::unserialize(CheckpointIn &cp) {
    ClockedObject::unserialize(cp);
    UNSERIALIZE_SCALAR(next_ticket_);
    UNSERIALIZE_SCALAR(next_slice_);
    std::vector<uint64_t> tickets;
    std::vector<uint32_t> statuses;
    std::vector<uint64_t> spaces;
    std::vector<ContextID> suspended;
    UNSERIALIZE_CONTAINER(tickets);
    UNSERIALIZE_CONTAINER(statuses);
    UNSERIALIZE_CONTAINER(spaces);
    UNSERIALIZE_CONTAINER(suspended);
    fatal_if(tickets.size() != statuses.size() || tickets.size() != spaces.size(),
             "%s: checkpoint: %d tickets but %d statuses and %d address spaces\n", name(), tickets.size(),
             statuses.size(), spaces.size());
    for (size_t i = 0; i < tickets.size(); ++i) {
        finished_.emplace(tickets[i], Finished{statuses[i], spaces[i]});
    }
    to_wake_.insert(suspended.begin(), suspended.end());
}

SramPim *SramPimParams::create() const {
    return new SramPim(*this);
}

} // namespace gem5
