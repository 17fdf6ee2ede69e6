// SPDX-License-Identifier: BSD-3-Clause
// The SRAM-PIM in gem5: the same device model as the embedded engine, driven by the instruction `lutmm` on one side and
// by coherent memory ports on the other.
//
// A command goes through: issue() (checks, translation of every page, ticket) -> admission (its tiles must find room in
// the slices) -> activations through data_side while weights already stream through weight_side -> tiles, as the
// model's TilePipeline says -> each finished strip of results through data_side -> status word -> ticket done, waiters
// woken. Completion is the drain condition, so a checkpoint never holds a half-done command.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/statistics.hh"
#include "gem5/address_space.hh"
#include "isa/lutmm.h"
#include "mem/port.hh"
#include "models/sram_pim/command.hh"
#include "models/sram_pim/tile_pipeline.hh"
#include "params/SramPim.hh"
#include "sim/clocked_object.hh"
#include "sim/eventq.hh"
#include "sim/system.hh"

namespace gem5 {

class ThreadContext;

class SramPim : public ClockedObject {
  public:
    /** Bad model parameters end gem5 with the model's own message. */
    SramPim(const SramPimParams &params);
    ~SramPim() override;

    void init() override;
    Port &getPort(const std::string &name, PortID index) override;

    // The instruction ---------------------------------------------------------------------------------

    /**
     * Take a command.
     * @param address virtual address of the descriptor, `desc` its content
     * @param answer a ticket > 0, or minus a status
     * @return the fault that a load or store of the first unmapped byte would get; then nothing has happened
     */
    Fault issue(ThreadContext *tc, Addr address, const gempim_lutmm_desc &desc, RegVal &answer);

    /**
     * @return a status; on PENDING the device will wake `tc` when asking again makes sense. In full system a program
     * has no tickets but its own.
     */
    RegVal wait(ThreadContext *tc, RegVal ticket);

    RegVal query(RegVal what);

    // gem5 -----------------------------------------------------------------------------------------------------------

    DrainState drain() override;
    void drainResume() override;
    void serialize(CheckpointOut &cp) const override;
    void unserialize(CheckpointIn &cp) override;

  private:
    struct Running;

    /** Bytes of guest memory within one cache line, and where they lie in a host buffer. */
    struct Piece {
        Addr address; ///< physical
        Addr virtual_address;
        unsigned bytes;
        uint8_t *data;
    };

    /** A list of pieces that is read or written as a whole. */
    struct Transfer {
        std::function<std::optional<Piece>()> next; ///< the pieces, one after another
        bool write = false;
        /** For writes: whose memory it must still be. nullptr: not looked at. */
        const AddressSpace *space = nullptr;
        bool *error = nullptr; ///< set when the memory system answers with an error, or a write was left out
        std::function<void()> done;
        unsigned in_flight = 0;
        bool all_sent = false;
        Addr checked_page = 0; ///< virtual page of the last piece that was looked at; 0: none
        bool page_is_there = false;
    };

    /** A request port that keeps a bounded number of lines in flight, transfers in order. */
    class LinePort : public RequestPort {
      public:
        LinePort(const std::string &name, SramPim &owner, unsigned limit, statistics::Scalar &lines);
        void push(std::unique_ptr<Transfer> transfer);

      protected:
        bool recvTimingResp(PacketPtr packet) override;
        void recvReqRetry() override;

      private:
        struct State;
        void send();
        void finish_ended();
        void atomic(Transfer &transfer);
        /** The next piece that may be sent; writes to pages that are no longer the program's are left out. */
        std::optional<Piece> next_piece(Transfer &transfer);
        PacketPtr make_packet(const Piece &piece, Transfer &transfer);
        void take_response(PacketPtr packet, Transfer &transfer);

        SramPim &owner_;
        const unsigned limit_;
        statistics::Scalar &lines_;
        unsigned in_flight_ = 0;
        PacketPtr refused_ = nullptr;
        std::deque<std::unique_ptr<Transfer>> queue_;
    };

    struct Stats : public statistics::Group {
        Stats(SramPim &owner);
        void preDumpStats() override;
        void resetStats() override;

        SramPim &owner;
        std::vector<std::unique_ptr<statistics::Scalar>> model; ///< the model's counters, in its order
        statistics::Scalar lutmmIssued;
        statistics::Scalar lutmmRefused;
        statistics::Scalar lutmmBusy;
        statistics::Scalar lutmmFaults;
        statistics::Scalar lutmmWaits;
        statistics::Scalar lutmmSleeps;
        statistics::Scalar lutmmQueries;
        statistics::Scalar commandsDone;
        statistics::Scalar memoryErrors;
        statistics::Scalar droppedWrites;
        statistics::Scalar commandTicks;
        statistics::Scalar activationTicks;
        statistics::Scalar computeTicks;
        statistics::Scalar resultTicks;
        statistics::Scalar activeTicks;
        statistics::Scalar weightLines;
        statistics::Scalar dataLines;
    };

    // Memory ------------------------------------------------------------------------------------------

    /** A command that is done, until its program has asked. */
    struct Finished {
        uint32_t status;
        Addr space; ///< AddressSpace::id()
    };

    /** Physical pages of a range, or the fault of the first that has none. */
    Fault translate(ThreadContext *tc, const gempim::sram_pim::RowRange &range, bool write, std::vector<Addr> &pages);

    /**
     * The pieces of rows [first, first + count) of a range, bytes [from, from + bytes) of each row, line by line.
     * @param packed host buffer that holds those rows back to back, `packed_row` bytes apart, its first byte at row 0
     */
    std::function<std::optional<Piece>()> pieces(const gempim::sram_pim::RowRange &range,
                                                 const std::vector<Addr> &pages, uint64_t first, uint64_t count,
                                                 uint64_t from, uint64_t bytes, uint8_t *packed, uint64_t packed_row);

    // Commands ----------------------------------------------------------------------------------------

    bool has_room(const Running &command) const;
    void stage(const Running &command, bool add);
    void admit();
    void start(Running &command);
    void load_what_fits(Running &command);
    void activations_arrived(Running &command);
    void schedule_tile(Running &command, const gempim::sram_pim::TileStart &tile);
    void tile_done(Running &command, uint32_t tile);
    void write_strips(Running &command);
    void write_strip(Running &command, const gempim::sram_pim::ResultWrite &strip);
    void finish_if_done(Running &command);
    void complete(uint64_t ticket);
    void wake(uint64_t ticket);
    void wake_contexts();

    // Time --------------------------------------------------------------------------------------------

    /** Call `action` at `when`; at one tick in the order of the calls. */
    void at(Tick when, std::function<void()> action);
    void run_agenda();

    System &system_;
    gempim::sram_pim::SramPim model_;
    const unsigned tickets_;
    const unsigned line_bytes_;
    const RequestorID requestor_;
    Stats stats_;
    std::vector<std::unique_ptr<LinePort>> weight_ports_;
    LinePort data_port_;

    uint64_t next_ticket_ = 1;
    std::map<uint64_t, std::unique_ptr<Running>> commands_; ///< not done; by ticket, so in the order of issue
    std::vector<uint64_t> staged_bytes_;                    ///< by slice, of the commands that have started
    unsigned next_slice_ = 0;                               ///< where the next command's tiles begin
    std::map<uint64_t, Finished> finished_;                 ///< by ticket; status not yet read
    std::map<uint64_t, std::set<ContextID>> waiters_;       ///< ticket (0: any) -> suspended contexts
    std::set<ContextID> to_wake_;

    std::multimap<Tick, std::function<void()>> agenda_;
    EventFunctionWrapper agenda_event_;
    EventFunctionWrapper wake_event_;
    Tick active_since_ = 0; ///< while commands_ is not empty
};

} // namespace gem5
