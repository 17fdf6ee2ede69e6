// SPDX-License-Identifier: BSD-3-Clause
#include "gem5/xpu.hh"

#include <algorithm>

#include "gem5/pim_dram.hh"
#include "mem/packet.hh"
#include "mem/request.hh"

namespace gem5 {

namespace {

/** What a packet must know when it comes back. */
struct SentAt : public Packet::SenderState {
    explicit SentAt(Tick tick) : tick(tick) {}
    Tick tick;
};

} // namespace

Xpu::Stats::Stats(Xpu &owner)
    : statistics::Group(&owner), ADD_STAT(streams, statistics::units::Count::get(), "streams read to their end"),
      ADD_STAT(startsIgnored, statistics::units::Count::get(), "commands that started while a stream was running"),
      ADD_STAT(requests, statistics::units::Count::get(), "requests answered"),
      ADD_STAT(bytesRead, statistics::units::Byte::get(), "bytes read"),
      ADD_STAT(errors, statistics::units::Count::get(), "requests that the memory system answered with an error"),
      ADD_STAT(streamTicks, statistics::units::Tick::get(),
               "time from the start of a stream to its last data, summed over streams"),
      ADD_STAT(lastStreamTicks, statistics::units::Tick::get(), "time of the last stream"),
      ADD_STAT(requestTicks, statistics::units::Tick::get(), "time from request to data, summed over requests"),
      ADD_STAT(blockedTicks, statistics::units::Tick::get(), "time with a request that the memory had refused") {}

Xpu::Xpu(const XpuParams &params)
    : ClockedObject(params), system_(*params.system), requestor_(system_.getRequestorId(this)), ranges_(params.ranges),
      bytes_(params.bytes), request_bytes_(params.request_bytes), block_bytes_(params.block_bytes),
      blocks_(params.blocks), columns_(params.columns), region_bytes_(block_bytes_ * blocks_ * columns_),
      outstanding_(params.outstanding), interval_(params.interval), start_at_(params.start),
      by_itself_(params.pim == nullptr), stats_(*this), port_(name() + ".port", *this),
      start_event_([this] { start(); }, name() + ".start"), send_event_([this] { send(); }, name() + ".send") {
    fatal_if(request_bytes_ == 0 || block_bytes_ == 0 || block_bytes_ % request_bytes_ != 0 || blocks_ == 0 ||
                 columns_ == 0 || outstanding_ == 0 || bytes_ == 0 || bytes_ % request_bytes_ != 0,
             "%s: bytes and block_bytes must be multiples of request_bytes; these, blocks, columns and outstanding at "
             "least 1\n",
             name());
    fatal_if(ranges_.empty(), "%s: ranges: empty\n", name());
    for (const AddrRange &range : ranges_) {
        fatal_if(range.size() != ranges_[0].size() || range.size() % region_bytes_ != 0,
                 "%s: ranges: %d bytes: all must have the same multiple of %d bytes (block_bytes * blocks * columns)\n",
                 name(), range.size(), region_bytes_);
    }
    if (params.pim != nullptr) {
        params.pim->when_command_starts([this] { start(); });
    }
}

Port &Xpu::getPort(const std::string &port, PortID index) {
    return port == "port" ? port_ : ClockedObject::getPort(port, index);
}

void Xpu::startup() {
    ClockedObject::startup();
    if (by_itself_ && !started_once_) {
        schedule(start_event_, std::max(start_at_, curTick()));
    }
}

void Xpu::start() {
    if (!system_.isTimingMode()) {
        return; // other modes have no contention: there is nothing to see
    }
    if (streams()) {
        ++stats_.startsIgnored;
        return;
    }
    started_once_ = true;
    left_ = bytes_;
    at_ = 0;
    started_ = curTick();
    send();
}

/** The order of the class comment in Xpu.py. */
Addr Xpu::next_address() {
    const uint64_t in_region = at_ % region_bytes_;
    const uint64_t region = at_ / region_bytes_;
    const AddrRange &range = ranges_[region % ranges_.size()];
    const uint64_t block = in_region / block_bytes_;
    const uint64_t column = block % columns_;
    const uint64_t offset = (column * blocks_ + block / columns_) * block_bytes_ + in_region % block_bytes_;
    const uint64_t begin = region / ranges_.size() * region_bytes_ % range.size();
    return range.start() + begin + offset;
}

void Xpu::send() {
    while (left_ > 0 && refused_ == nullptr && in_flight_ < outstanding_ && drainState() == DrainState::Running) {
        if (curTick() < next_send_) {
            if (!send_event_.scheduled()) {
                schedule(send_event_, next_send_);
            }
            return;
        }
        auto request = std::make_shared<Request>(next_address(), request_bytes_, 0, requestor_);
        auto *packet = new Packet(request, MemCmd::ReadReq);
        packet->allocate();
        packet->pushSenderState(new SentAt(curTick()));
        at_ += request_bytes_;
        left_ -= request_bytes_;
        next_send_ = curTick() + interval_;
        ++in_flight_;
        if (!port_.sendTimingReq(packet)) {
            refused_ = packet;
            refused_at_ = curTick();
        }
    }
}

void Xpu::retry() {
    stats_.blockedTicks += curTick() - refused_at_;
    PacketPtr packet = refused_;
    refused_ = nullptr;
    if (!port_.sendTimingReq(packet)) {
        refused_ = packet;
        refused_at_ = curTick();
        return;
    }
    send();
}

bool Xpu::take_response(PacketPtr packet) {
    const std::unique_ptr<SentAt> sent(dynamic_cast<SentAt *>(packet->popSenderState()));
    ++stats_.requests;
    stats_.bytesRead += packet->getSize();
    stats_.requestTicks += curTick() - sent->tick;
    stats_.errors += packet->isError() ? 1 : 0;
    delete packet;
    --in_flight_;
    send();
    if (in_flight_ == 0 && left_ == 0) {
        ++stats_.streams;
        stats_.streamTicks += curTick() - started_;
        stats_.lastStreamTicks = curTick() - started_;
    }
    if (in_flight_ == 0 && drainState() == DrainState::Draining) {
        signalDrainDone();
    }
    return true;
}

// A stream pauses for a drain: what is in flight is waited for, the rest is read afterwards.

DrainState Xpu::drain() {
    return in_flight_ == 0 ? DrainState::Drained : DrainState::Draining;
}

void Xpu::drainResume() {
    ClockedObject::drainResume();
    if (!system_.isTimingMode()) {
        left_ = 0;
    }
    send();
}

void Xpu::serialize(CheckpointOut &cp) const {
    ClockedObject::serialize(cp);
    SERIALIZE_SCALAR(at_);
    SERIALIZE_SCALAR(left_);
    SERIALIZE_SCALAR(started_);
    SERIALIZE_SCALAR(started_once_);
}

void Xpu::unserialize(CheckpointIn &cp) {
    ClockedObject::unserialize(cp);
    UNSERIALIZE_SCALAR(at_);
    UNSERIALIZE_SCALAR(left_);
    UNSERIALIZE_SCALAR(started_);
    UNSERIALIZE_SCALAR(started_once_);
}

Xpu *XpuParams::create() const {
    return new Xpu(*this);
}

} // namespace gem5
