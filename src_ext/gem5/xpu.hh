// SPDX-License-Identifier: BSD-3-Clause
// A requestor that streams reads through memory: the xPU beside a PIM, as far as the memory sees it.
#pragma once

#include <string>
#include <vector>

#include "base/addr_range.hh"
#include "base/statistics.hh"
#include "mem/port.hh"
#include "params/Xpu.hh"
#include "sim/clocked_object.hh"
#include "sim/eventq.hh"
#include "sim/system.hh"

namespace gem5 {

class Xpu : public ClockedObject {
  public:
    /** Parameters that do not fit each other end gem5 with one line. */
    Xpu(const XpuParams &params);

    void startup() override;
    Port &getPort(const std::string &name, PortID index) override;
    DrainState drain() override;
    void drainResume() override;
    void serialize(CheckpointOut &cp) const override;
    void unserialize(CheckpointIn &cp) override;

  private:
    class ReadPort : public RequestPort {
      public:
        ReadPort(const std::string &name, Xpu &owner) : RequestPort(name), owner_(owner) {}

      protected:
        bool recvTimingResp(PacketPtr packet) override { return owner_.take_response(packet); }
        void recvReqRetry() override { owner_.retry(); }

      private:
        Xpu &owner_;
    };

    struct Stats : public statistics::Group {
        Stats(Xpu &owner);

        statistics::Scalar streams;
        statistics::Scalar startsIgnored;
        statistics::Scalar requests;
        statistics::Scalar bytesRead;
        statistics::Scalar errors;
        statistics::Scalar streamTicks;
        statistics::Scalar lastStreamTicks;
        statistics::Scalar requestTicks;
        statistics::Scalar blockedTicks;
    };

    /** A command has started, or the time has come. */
    void start();
    void send();
    void retry();
    bool take_response(PacketPtr packet);
    Addr next_address();
    bool streams() const { return left_ > 0 || in_flight_ > 0; }

    System &system_;
    const RequestorID requestor_;
    const std::vector<AddrRange> ranges_;
    const uint64_t bytes_;
    const unsigned request_bytes_;
    const uint64_t block_bytes_, blocks_, columns_;
    const uint64_t region_bytes_;
    const unsigned outstanding_;
    const Tick interval_;
    const Tick start_at_;
    const bool by_itself_;
    Stats stats_;
    ReadPort port_;

    uint64_t at_ = 0; ///< bytes read since the beginning of the ranges, in the order of the stream
    uint64_t left_ = 0;
    unsigned in_flight_ = 0;
    PacketPtr refused_ = nullptr;
    Tick refused_at_ = 0;
    Tick started_ = 0;
    Tick next_send_ = 0;
    bool started_once_ = false; ///< by itself

    EventFunctionWrapper start_event_;
    EventFunctionWrapper send_event_;
};

} // namespace gem5
