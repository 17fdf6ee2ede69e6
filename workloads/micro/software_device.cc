// SPDX-License-Identifier: BSD-3-Clause
// The device in software, for programs built for the build machine: the same models, the same checks, no time. A
// command is computed when it is issued, so the device is never busy; or, to find programs that do not wait for what
// they need, when it is waited for.
//
// Environment:
//   GEMPIM_SRAM_PIM = "slices=32,nbw=4,...": parameters of the device (models/sram_pim/params.hh)
//   GEMPIM_SOFTWARE_LATE = "1": commands are computed when one is waited for, all of them and the newest first, since
//   the contract promises no order; "0" is the default
//   GEMPIM_SOFTWARE_FAULT = one of kFaults: a defect, so that tests can show that the programs would find it
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "isa/lutmm.h"
#include "models/sram_pim/command.hh"
#include "models/sram_pim/multiply.hh"

namespace {

using namespace gempim;
using namespace gempim::sram_pim;

constexpr unsigned kTickets = 64;

/** Defects that a device could have. */
enum class Fault { none, value, spill, refusal_writes, reserved, overlap, ticket_twice };

constexpr std::pair<std::string_view, Fault> kFaults[] = {
    {"value", Fault::value},                   // the last result is off by one part in 2^12
    {"spill", Fault::spill},                   // four bytes after the last result are written, too
    {"refusal-writes", Fault::refusal_writes}, // a refused descriptor gets a status
    {"reserved", Fault::reserved},             // a reserved field that is not 0 is accepted
    {"overlap", Fault::overlap},               // results may overlap weights
    {"ticket-twice", Fault::ticket_twice},     // a status can be read again
};

Fault fault_from_environment() {
    const char *text = std::getenv("GEMPIM_SOFTWARE_FAULT");
    if (text == nullptr) {
        return Fault::none;
    }
    for (const auto &[name, fault] : kFaults) {
        if (name == text) {
            return fault;
        }
    }
    throw ParamError(std::string("GEMPIM_SOFTWARE_FAULT = ") + text + ": no such fault");
}

bool late_from_environment() {
    const char *text = std::getenv("GEMPIM_SOFTWARE_LATE");
    const std::string_view value = text == nullptr ? "0" : text;
    if (value != "0" && value != "1") {
        throw ParamError("GEMPIM_SOFTWARE_LATE = " + std::string(value) + ": expected 0 or 1");
    }
    return value == "1";
}

SramPimParams params_from_environment() {
    SramPimParams params;
    if (const char *text = std::getenv("GEMPIM_SRAM_PIM"); text != nullptr) {
        set_params(params, text);
    }
    return params;
}

class SoftwareDevice {
  public:
    SoftwareDevice()
        : device_(params_from_environment()), fault_(fault_from_environment()), late_(late_from_environment()) {}

    std::int64_t issue(gempim_lutmm_desc *guest) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto address = reinterpret_cast<std::uintptr_t>(guest);
        gempim_lutmm_desc desc{};
        if (address % GEMPIM_LUTMM_DESC_BYTES == 0) { // else the check refuses it by its address alone
            std::memcpy(&desc, guest, sizeof desc);
        }
        if (fault_ == Fault::reserved) {
            desc.reserved = 0;
        }
        Command command;
        std::int32_t error = check_command(device_, desc, address, command);
        if (error == GEMPIM_ERR_OVERLAP && fault_ == Fault::overlap) {
            gempim_lutmm_desc apart = desc;
            apart.weights = 2;
            error = check_command(device_, apart, address, command);
            command.weights.address = desc.weights;
        }
        if (error != 0) {
            if (fault_ == Fault::refusal_writes && error != GEMPIM_ERR_ALIGNMENT) {
                guest->status = static_cast<std::uint32_t>(error);
            }
            return -std::int64_t{error};
        }
        if (late_ && waiting_.size() == kTickets) {
            return -std::int64_t{GEMPIM_ERR_BUSY};
        }
        waiting_.emplace(++last_ticket_, Waiting{command, guest});
        if (!late_) {
            finish_all();
        }
        return last_ticket_;
    }

    std::int64_t wait(std::int64_t ticket) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (ticket == 0) {
            if (waiting_.size() == kTickets) {
                finish_all();
            }
            return GEMPIM_STATUS_DONE;
        }
        if (waiting_.count(ticket) != 0) {
            finish_all();
        }
        if (unread_.erase(ticket) == 1 || (fault_ == Fault::ticket_twice && ticket == last_ticket_)) {
            return GEMPIM_STATUS_DONE;
        }
        return GEMPIM_ERR_TICKET;
    }

    std::int64_t query(std::int64_t what) {
        const std::lock_guard<std::mutex> lock(mutex_);
        return answer_query(device_, what, kTickets);
    }

  private:
    /** An accepted command that is not computed. */
    struct Waiting {
        Command command;
        gempim_lutmm_desc *guest = nullptr;
    };

    void finish_all() {
        for (; !waiting_.empty(); waiting_.erase(std::prev(waiting_.end()))) {
            const auto &[ticket, newest] = *waiting_.rbegin();
            compute(newest.command);
            __atomic_store_n(&newest.guest->status, std::uint32_t{GEMPIM_STATUS_DONE}, __ATOMIC_RELEASE);
            unread_.insert(ticket);
        }
    }

    static std::vector<std::uint8_t> gather(const RowRange &range) {
        std::vector<std::uint8_t> bytes(range.rows * range.row_bytes);
        for (std::uint64_t row = 0; row < range.rows; ++row) {
            std::memcpy(bytes.data() + row * range.row_bytes,
                        reinterpret_cast<const void *>(range.address + row * range.stride), range.row_bytes);
        }
        return bytes;
    }

    void compute(const Command &command) {
        const std::vector<std::uint8_t> weights = gather(command.weights);
        const ggml::QuantizedActivations activations = unpack_activations(command, gather(command.activations).data());
        std::vector<float> results =
            multiply(device_.params(), *command.plan, *command.format, command.blocks(weights.data()), activations);
        if (fault_ == Fault::value) {
            results.back() *= 1.0F + 0x1p-12F;
        }
        const RowRange &to = command.results;
        for (std::uint64_t row = 0; row < to.rows; ++row) {
            std::memcpy(reinterpret_cast<void *>(to.address + row * to.stride), results.data() + row * command.desc.n,
                        to.row_bytes);
        }
        if (fault_ == Fault::spill) {
            std::memset(reinterpret_cast<void *>(to.address + to.extent()), 0, 4);
        }
    }

    std::mutex mutex_;
    SramPim device_;
    Fault fault_;
    bool late_;
    std::map<std::int64_t, Waiting> waiting_;
    std::set<std::int64_t> unread_;
    std::int64_t last_ticket_ = 0;
};

SoftwareDevice &device() {
    static SoftwareDevice *const device = [] {
        try {
            return new SoftwareDevice;
        } catch (const ParamError &error) {
            std::fprintf(stderr, "software device: %s\n", error.what());
            std::exit(2);
        }
    }();
    return *device;
}

} // namespace

extern "C" {

int64_t gempim_lutmm_issue(gempim_lutmm_desc *desc) {
    return device().issue(desc);
}

int64_t gempim_lutmm_wait(int64_t ticket) {
    return device().wait(ticket);
}

int64_t gempim_lutmm_query(int64_t what) {
    return device().query(what);
}
}
