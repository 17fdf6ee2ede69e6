// SPDX-License-Identifier: BSD-3-Clause
#include "models/sram_pim/tile_pipeline.hh"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>

namespace gempim::sram_pim {

TilePipeline::TilePipeline(SramPim &device, Matmul work, Ps compute_from)
    : device_(device), work_(std::move(work)), compute_from_(compute_from), slices_(device.params().slices),
      state_(work_.plan->tiles.size(), State::waiting), chains_left_(work_.plan->strips, work_.plan->parts),
      tiles_left_(work_.plan->tiles.size()), writes_left_(0) {
    for (std::uint32_t t = 0; t < work_.plan->tiles.size(); ++t) {
        slices_[work_.plan->tiles[t].slice].tiles.push_back(t);
    }
    for (unsigned s = 0; s < slices_.size(); ++s) {
        slices_[s].idle_since = compute_from_;
        offer_load(s);
    }
    if (device.params().results_to_memory) {
        writes_left_ = work_.plan->strips;
    }
}

TilePipeline::TilePipeline(SramPim &device, std::shared_ptr<const MatmulPlan> plan, unsigned first_slice)
    : TilePipeline(device, Matmul{std::move(plan), {}, {}, {}}, 0) {
    first_slice_ = first_slice;
    waits_for_activations_ = true;
}

std::vector<TileStart> TilePipeline::activations_ready(Matmul work, Ps now) {
    if (!waits_for_activations_ || work.plan != work_.plan) {
        throw std::logic_error("TilePipeline: these activations were not being waited for");
    }
    waits_for_activations_ = false;
    work_ = std::move(work);
    compute_from_ = now;
    std::vector<TileStart> started;
    for (unsigned s = 0; s < slices_.size(); ++s) {
        slices_[s].idle_since = now;
        if (const auto tile = try_start(s, now)) {
            started.push_back(*tile);
        }
    }
    return started;
}

void TilePipeline::offer_load(unsigned s) {
    const Slice &slice = slices_[s];
    if (slice.next_load < slice.tiles.size() && slice.buffers_used < device_.params().tile_buffers) {
        loadable_.emplace(slice.tiles[slice.next_load], s);
    }
}

std::optional<TileLoad> TilePipeline::next_load() {
    if (loadable_.empty()) {
        return std::nullopt;
    }
    const auto [tile, s] = *loadable_.begin();
    loadable_.erase(loadable_.begin());
    Slice &slice = slices_[s];
    ++slice.next_load;
    ++slice.buffers_used;
    state_[tile] = State::loading;
    offer_load(s);
    return TileLoad{tile, work_.plan->tiles[tile].offset_bytes, work_.plan->tiles[tile].bytes};
}

std::optional<TileStart> TilePipeline::load_done(std::uint32_t tile, Ps now) {
    if (state_.at(tile) != State::loading) {
        throw std::logic_error("TilePipeline: tile " + std::to_string(tile) + " arrived but was not being loaded");
    }
    state_[tile] = State::loaded;
    return try_start(work_.plan->tiles[tile].slice, now);
}

std::optional<TileStart> TilePipeline::try_start(unsigned s, Ps now) {
    Slice &slice = slices_[s];
    if (waits_for_activations_ || slice.busy || slice.next_compute == slice.tiles.size() ||
        state_[slice.tiles[slice.next_compute]] != State::loaded) {
        return std::nullopt;
    }
    const std::uint32_t tile = slice.tiles[slice.next_compute++];
    const Ps ready = std::max(now, compute_from_);
    const Ps idle_from =
        device_.earliest(device_slice(s), slice.idle_since); // another product's tile is no wait for weights
    device_.count_load_stall(ready > idle_from ? ready - idle_from : 0);
    const Ps start = device_.earliest(device_slice(s), ready);
    const Ps done = device_.issue(device_slice(s), work_.cost(tile), start);
    slice.busy = true;
    state_[tile] = State::computing;
    return TileStart{tile, start, done};
}

std::optional<TileStart> TilePipeline::compute_done(std::uint32_t tile, Ps now) {
    if (state_.at(tile) != State::computing) {
        throw std::logic_error("TilePipeline: tile " + std::to_string(tile) + " completed but was not being computed");
    }
    state_[tile] = State::done;
    --tiles_left_;
    const Tile &done = work_.plan->tiles[tile];
    Slice &slice = slices_[done.slice];
    slice.busy = false;
    slice.idle_since = now;
    --slice.buffers_used;
    if (slice.next_load < slice.tiles.size()) {
        loadable_.emplace(slice.tiles[slice.next_load], done.slice);
    }
    if (done.ends_chain) {
        chain_done(done.strip, now);
    }
    return try_start(done.slice, now);
}

void TilePipeline::chain_done(unsigned strip, Ps now) {
    if (--chains_left_[strip] != 0) {
        return;
    }
    const Ps ready = work_.combine_costs.empty() ? now : device_.issue_combine(work_.combine_costs[strip], now);
    results_ready_ = std::max(results_ready_, ready);
    if (device_.params().results_to_memory) {
        const MatmulPlan &plan = *work_.plan;
        const std::uint64_t row = 4 * plan.m;
        writes_.push_back({strip, row * strip * plan.tile_n, row * plan.columns_of(strip), ready});
    }
}

std::optional<ResultWrite> TilePipeline::next_write() {
    if (writes_.empty()) {
        return std::nullopt;
    }
    const ResultWrite write = writes_.front();
    writes_.pop_front();
    return write;
}

void TilePipeline::write_done(Ps now) {
    if (writes_left_ == 0) {
        throw std::logic_error("TilePipeline: a write completed but none was due");
    }
    --writes_left_;
    written_ = std::max(written_, now);
}

bool TilePipeline::finished() const {
    return tiles_left_ == 0 && writes_left_ == 0;
}

MatmulTiming drive(SramPim &device, Matmul work, MemoryPort *memory, std::uint64_t weight_addr,
                   std::uint64_t result_addr, Ps load_from, Ps start) {
    device.idle_all_slices();
    const Ps clock = device.params().clock_ps;
    TilePipeline pipeline(device, std::move(work), start);
    const MatmulPlan &plan = *pipeline.work().plan;

    enum class Kind { load, compute, write };
    using Event = std::tuple<Ps, Kind, std::uint32_t>; // at equal times: loads, then completions, by number
    std::priority_queue<Event, std::vector<Event>, std::greater<>> events;
    std::vector<ResultWrite> writes(plan.strips);
    std::vector<Ps> busy(device.params().slices, 0);
    std::vector<Ps> converting(busy.size(), 0);
    std::vector<Ps> reducing(busy.size(), 0);
    unsigned last_slice = 0;
    Ps compute_end = start;
    MatmulTiming t;

    const auto load_what_fits = [&](Ps now) {
        while (const auto load = pipeline.next_load()) {
            const Ps arrival =
                memory == nullptr ? now : memory->transfer(weight_addr + load->offset_bytes, load->bytes, false, now);
            events.emplace(arrival, Kind::load, load->tile);
        }
    };
    const auto schedule = [&](const std::optional<TileStart> &started) {
        if (started) {
            events.emplace(started->done_ps, Kind::compute, started->tile);
        }
    };
    load_what_fits(load_from);
    while (!events.empty()) {
        const auto [now, kind, id] = events.top();
        events.pop();
        switch (kind) {
        case Kind::load:
            t.load_end_ps = std::max(t.load_end_ps, now);
            schedule(pipeline.load_done(id, now));
            break;
        case Kind::compute: {
            const unsigned slice = plan.tiles[id].slice;
            const TileCost &cost = pipeline.work().cost(id);
            busy[slice] += cost.cycles * clock;
            converting[slice] += cost.convert_cycles * clock;
            reducing[slice] += cost.reduce_cycles * clock;
            if (now >= compute_end) {
                compute_end = now;
                last_slice = slice;
            }
            schedule(pipeline.compute_done(id, now));
            load_what_fits(now);
            while (const auto write = pipeline.next_write()) {
                writes[write->strip] = *write;
                events.emplace(write->ready_ps, Kind::write, write->strip);
            }
            break;
        }
        case Kind::write: {
            const ResultWrite &write = writes[id];
            pipeline.write_done(
                memory == nullptr ? now : memory->transfer(result_addr + write.offset_bytes, write.bytes, true, now));
            break;
        }
        }
    }
    if (!pipeline.finished()) {
        throw std::logic_error("TilePipeline: tiles are left but no event is due");
    }
    t.end_ps = pipeline.end_ps();
    t.load_ps = t.load_end_ps - load_from;
    const auto busiest = std::max_element(busy.begin(), busy.end()) - busy.begin();
    t.compute_ps = busy[busiest];
    t.convert_ps = converting[busiest];
    t.reduce_ps = reducing[busiest];
    if (plan.parts > 1) {
        t.reduce_ps += pipeline.work().combine_costs.front().cycles * clock;
    }
    t.write_ps = t.end_ps - pipeline.results_ready_ps();
    t.exposed_load_ps = compute_end - start - busy[last_slice];
    return t;
}

} // namespace gempim::sram_pim
