// SPDX-License-Identifier: BSD-3-Clause
// The tiles of one product on their way through the device, driven by the host.
//
// The pipeline decides what may happen, the host decides when: it asks for loads, performs them on its memory (the DRAM
// model here, timing ports in gem5), and reports arrivals and completions. A slice fetches tile i + 1 while it computes
// tile i, as far as `tile_buffers` allow. Tile cycles and event counts depend on the plan only, so two hosts with
// different memories give the same of both; load stalls are theirs.
//
// Protocol:  while next_load() gives a tile: start its transfer.   On arrival: load_done(tile, now).   That, and every
// compute_done(tile, now), may return a tile that starts to compute with the time at which compute_done is due.   When
// next_write() gives a result: transfer it no earlier than its `ready_ps`, then write_done().   Until finished().
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <queue>
#include <set>
#include <utility>
#include <vector>

#include "models/common/memory_port.hh"
#include "models/sram_pim/sram_pim.hh"

namespace gempim::sram_pim {

/** Weights to fetch. */
struct TileLoad {
    std::uint32_t tile;
    std::uint64_t offset_bytes; ///< from the first weight byte, were the matrix stored tile after tile
    std::uint64_t bytes;
};

/** A tile that has started to compute. */
struct TileStart {
    std::uint32_t tile;
    Ps start_ps;
    Ps done_ps;
};

/** A finished strip of results. */
struct ResultWrite {
    std::uint32_t strip;
    std::uint64_t offset_bytes; ///< strips lie one after another, each [m, columns] values of 4 bytes
    std::uint64_t bytes;
    Ps ready_ps;
};

class TilePipeline {
  public:
    /**
     * @param device counts and keeps the slices' time line; must outlive the pipeline
     * @param compute_from when the activations are ready; weights may arrive earlier [ps]
     */
    TilePipeline(SramPim &device, Matmul work, Ps compute_from);

    /**
     * A pipeline that may load weights while the activations, and with them the costs, are still on their way.
     * Nothing computes until activations_ready().
     * @param first_slice the device's slice that the plan's slice 0 stands for; the others follow, round the end. A
     * host that runs several products at once gives each other slices; cycles and counts do not depend on it
     */
    TilePipeline(SramPim &device, std::shared_ptr<const MatmulPlan> plan, unsigned first_slice = 0);

    /** The device's slice behind a slice of the plan. */
    unsigned device_slice(unsigned plan_slice) const {
        return (plan_slice + first_slice_) % static_cast<unsigned>(slices_.size());
    }

    /**
     * The activations have arrived.
     * @param work the costs of the plan that the pipeline was made with
     * @return the tiles that start to compute
     * @throws std::logic_error if they had arrived already, or the plan is another one
     */
    std::vector<TileStart> activations_ready(Matmul work, Ps now);

    /** The next tile to fetch, in plan order among the slices that have a free buffer. */
    std::optional<TileLoad> next_load();

    /** All bytes of a tile have arrived. @throws std::logic_error if it was not being loaded */
    std::optional<TileStart> load_done(std::uint32_t tile, Ps now);

    /** A tile is done (at the time that its start announced). @throws std::logic_error if it was not being computed */
    std::optional<TileStart> compute_done(std::uint32_t tile, Ps now);

    /** The next result that memory must take; none if results stay in the LLC. */
    std::optional<ResultWrite> next_write();

    /** One write was accepted by the memory. */
    void write_done(Ps now);

    /** Every tile is computed, every strip added up and every write accepted. */
    bool finished() const;

    /** When the last result was (or will be) ready in the LLC [ps]; after the last compute_done. */
    Ps results_ready_ps() const { return results_ready_; }
    /** When the last result was ready and, if results go to memory, written [ps]; once finished. */
    Ps end_ps() const { return std::max(results_ready_, written_); }
    const Matmul &work() const { return work_; }

  private:
    enum class State : std::uint8_t { waiting, loading, loaded, computing, done };
    struct Slice {
        std::vector<std::uint32_t> tiles; ///< in order
        std::size_t next_load = 0;
        std::size_t next_compute = 0;
        unsigned buffers_used = 0;
        bool busy = false;
        Ps idle_since = 0;
    };

    std::optional<TileStart> try_start(unsigned slice, Ps now);
    void offer_load(unsigned slice);
    void chain_done(unsigned strip, Ps now);

    SramPim &device_;
    Matmul work_;
    unsigned first_slice_ = 0;
    bool waits_for_activations_ = false;
    Ps compute_from_;
    std::vector<Slice> slices_;
    std::vector<State> state_;
    std::set<std::pair<std::uint32_t, unsigned>> loadable_; ///< next tile of every slice with a free buffer
    std::vector<unsigned> chains_left_;                     ///< by strip
    std::deque<ResultWrite> writes_;
    std::size_t tiles_left_;
    std::size_t writes_left_;
    Ps results_ready_ = 0;
    Ps written_ = 0;
};

/** What the embedded engine wants to know of one product. */
struct MatmulTiming {
    Ps end_ps = 0;          ///< results ready (in the LLC, or accepted by memory)
    Ps load_end_ps = 0;     ///< last weight byte arrived
    Ps load_ps = 0;         ///< from the first weight request to the last weight byte
    Ps compute_ps = 0;      ///< busy time of the busiest slice
    Ps convert_ps = 0;      ///< of that, conversion and scaling
    Ps reduce_ps = 0;       ///< of that, partial sums and results; plus adding the chains of the slowest strip
    Ps write_ps = 0;        ///< after the last result was ready
    Ps exposed_load_ps = 0; ///< part of the whole time in which the slice that finished last waited for weights
};

/**
 * Drive a pipeline on a memory port, event by event.
 * @param memory null: infinitely fast
 * @param load_from weights may be fetched from here on; not after `start`
 */
MatmulTiming drive(SramPim &device, Matmul work, MemoryPort *memory, std::uint64_t weight_addr,
                   std::uint64_t result_addr, Ps load_from, Ps start);

} // namespace gempim::sram_pim
