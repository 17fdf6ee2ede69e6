// SPDX-License-Identifier: BSD-3-Clause
// Memory ports of the SRAM-PIM in gem5.
#include <algorithm>

#include "gem5/sram_pim.hh"
#include "mem/packet.hh"
#include "mem/request.hh"

namespace gem5 {

/** What a packet must know when it comes back. */
struct SramPim::LinePort::State : public Packet::SenderState {
    State(const Piece &piece, Transfer &transfer) : piece(piece), transfer(transfer) {}
    Piece piece;
    Transfer &transfer;
};

SramPim::LinePort::LinePort(const std::string &name, SramPim &owner, unsigned limit, statistics::Scalar &lines)
    : RequestPort(name), owner_(owner), limit_(limit), lines_(lines) {}

void SramPim::LinePort::push(std::unique_ptr<Transfer> transfer) {
    if (owner_.system_.isAtomicMode()) {
        atomic(*transfer);
        return;
    }
    queue_.push_back(std::move(transfer));
    send();
}

void SramPim::LinePort::atomic(Transfer &transfer) {
    // All lines at once: atomic mode has no contention, so the slowest line is the transfer's time.
    Tick latency = 0;
    while (const auto piece = next_piece(transfer)) {
        PacketPtr packet = make_packet(*piece, transfer);
        latency = std::max(latency, sendAtomic(packet));
        take_response(packet, transfer);
    }
    owner_.at(curTick() + latency, std::move(transfer.done));
}

std::optional<SramPim::Piece> SramPim::LinePort::next_piece(Transfer &transfer) {
    constexpr Addr page_bytes = 4096;
    for (;;) {
        const auto piece = transfer.next();
        if (!piece || transfer.space == nullptr) {
            return piece;
        }
        // Once a page, not once a line: a host without a driver for this device could take a page away at any time.
        const Addr page = piece->virtual_address & ~(page_bytes - 1);
        if (page != transfer.checked_page) {
            transfer.checked_page = page;
            transfer.page_is_there = transfer.space->maps(owner_.system_, piece->virtual_address, piece->address);
        }
        if (transfer.page_is_there) {
            return piece;
        }
        ++owner_.stats_.droppedWrites;
        *transfer.error = true;
    }
}

PacketPtr SramPim::LinePort::make_packet(const Piece &piece, Transfer &transfer) {
    auto request = std::make_shared<Request>(piece.address, piece.bytes, 0, owner_.requestor_);
    auto *packet = new Packet(request, transfer.write ? MemCmd::WriteReq : MemCmd::ReadReq);
    packet->allocate();
    if (transfer.write) {
        packet->setData(piece.data);
    }
    packet->pushSenderState(new State(piece, transfer));
    ++lines_;
    return packet;
}

void SramPim::LinePort::take_response(PacketPtr packet, Transfer &transfer) {
    std::unique_ptr<State> state(dynamic_cast<State *>(packet->popSenderState()));
    if (packet->isError()) {
        *transfer.error = true;
    } else if (!transfer.write) {
        packet->writeData(state->piece.data);
    }
    delete packet;
}

void SramPim::LinePort::send() {
    // Transfers send one after another, but their responses may still be out when the next begins.
    for (size_t i = 0; i < queue_.size() && refused_ == nullptr;) {
        Transfer &transfer = *queue_[i];
        if (transfer.all_sent) {
            ++i;
            continue;
        }
        if (in_flight_ == limit_) {
            return;
        }
        const auto piece = next_piece(transfer);
        if (!piece) {
            transfer.all_sent = true;
            if (transfer.in_flight == 0) {
                // Nothing of it is out that would come back, perhaps because all of it was left out.
                owner_.at(curTick(), [this] { finish_ended(); });
            }
            continue;
        }
        ++in_flight_;
        ++transfer.in_flight;
        PacketPtr packet = make_packet(*piece, transfer);
        if (!sendTimingReq(packet)) {
            refused_ = packet;
        }
    }
}

void SramPim::LinePort::recvReqRetry() {
    PacketPtr packet = refused_;
    refused_ = nullptr;
    if (!sendTimingReq(packet)) {
        refused_ = packet;
        return;
    }
    send();
}

bool SramPim::LinePort::recvTimingResp(PacketPtr packet) {
    Transfer &transfer = static_cast<State *>(packet->senderState)->transfer;
    take_response(packet, transfer);
    --in_flight_;
    --transfer.in_flight;
    send();
    finish_ended();
    return true;
}

void SramPim::LinePort::finish_ended() {
    // A transfer's end may start another one, which changes the queue: taken out first, told last.
    std::vector<std::unique_ptr<Transfer>> ended;
    for (auto it = queue_.begin(); it != queue_.end();) {
        if ((*it)->all_sent && (*it)->in_flight == 0) {
            ended.push_back(std::move(*it));
            it = queue_.erase(it);
        } else if (!(*it)->all_sent) {
            break; // nothing behind it has sent anything
        } else {
            ++it;
        }
    }
    for (auto &done : ended) {
        done->done();
    }
}

} // namespace gem5
