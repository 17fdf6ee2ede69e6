// SPDX-License-Identifier: BSD-3-Clause
// Memory with PIM in software, for programs built for the build machine: the same model's checks and values, no time. A
// command is computed when a status is asked for, so that a program that does not ask finds no results.
//
// Environment:
//   GEMPIM_PIM_MEMORY = "stacks=1,window_bytes=65536,tCK_ps=769,...": every parameter of models/dram and
//   models/logic_pim, the number of stacks and the bytes of a window; without it there is no such memory
//   GEMPIM_SOFTWARE_FAULT = value (the last result is off by one bit), reserved (reserved fields are not looked at) or
//   refusal-writes (a refused command changes its results): a defect, so that tests can show that programs find it
#include <sys/mman.h>

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "isa/pimq.h"
#include "models/logic_pim/pim_memory.hh"

namespace {

using namespace gempim;
using namespace gempim::logic_pim;

using Assignments = std::map<std::string, std::string, std::less<>>;

Assignments split(std::string_view text) {
    Assignments out;
    while (!text.empty()) {
        const std::string_view item = text.substr(0, text.find(','));
        text.remove_prefix(std::min(text.size(), item.size() + 1));
        const std::size_t equals = std::min(item.find('='), item.size());
        out[std::string(item.substr(0, equals))] = item.substr(std::min(item.size(), equals + 1));
    }
    return out;
}

template <class T> void take(Assignments &from, const std::string &name, T &field) {
    const auto found = from.find(name);
    if (found == from.end()) {
        throw ParamError("GEMPIM_PIM_MEMORY: " + name + ": missing");
    }
    const std::string &text = found->second;
    if constexpr (std::is_same_v<T, std::string>) {
        field = text;
    } else if constexpr (std::is_same_v<T, bool>) {
        field = text == "true";
        if (!field && text != "false") {
            throw ParamError("GEMPIM_PIM_MEMORY: " + name + " = " + text + ": expected true or false");
        }
    } else {
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), field);
        if (error != std::errc() || end != text.data() + text.size()) {
            throw ParamError("GEMPIM_PIM_MEMORY: " + name + " = " + text + ": expected a number");
        }
    }
    from.erase(found);
}

template <class Params> Params take_all(Assignments &from) {
    Params params;
    Params::visit(params, [&](const char *name, auto &field, const char *, const char *, double, double) {
        take(from, name, field);
    });
    return params;
}

class SoftwareMemory final : public PimMemoryHost {
  public:
    explicit SoftwareMemory(Assignments from)
        : model_(take_all<LogicPimParams>(from), take_all<dram::DramParams>(from), stacks_of(from), *this) {
        take(from, "window_bytes", window_bytes_);
        if (!from.empty()) {
            throw ParamError("GEMPIM_PIM_MEMORY: " + from.begin()->first + ": unknown parameter");
        }
        void *const memory =
            mmap(nullptr, model_.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            throw ParamError("GEMPIM_PIM_MEMORY: no memory of " + std::to_string(model_.bytes()) + " bytes");
        }
        memory_ = static_cast<std::uint8_t *>(memory);
        if (const char *text = std::getenv("GEMPIM_SOFTWARE_FAULT"); text != nullptr) {
            fault_ = text;
        }
    }

    std::uint64_t read(std::uint32_t offset) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (offset >= GEMPIM_PIMQ_REG_STATUS && offset < GEMPIM_PIMQ_REG_STATUS + 8 * GEMPIM_PIMQ_SLOTS) {
            for (; !queue_.empty(); queue_.pop_front()) {
                compute(queue_.front().command);
                status_[queue_.front().slot] = GEMPIM_PIMQ_DONE;
            }
            return status_[(offset - GEMPIM_PIMQ_REG_STATUS) / 8];
        }
        return model_.constant_register(offset, window_bytes_);
    }

    void write(std::uint32_t offset, std::uint64_t value) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (offset < GEMPIM_PIMQ_REG_DOORBELL || offset >= GEMPIM_PIMQ_REG_DOORBELL + 8 * GEMPIM_PIMQ_SLOTS) {
            return;
        }
        const std::uint32_t slot = (offset - GEMPIM_PIMQ_REG_DOORBELL) / 8;
        if (status_[slot] == GEMPIM_PIMQ_PENDING) {
            return;
        }
        Queued queued{slot, {}};
        std::uint32_t error = model_.check_address(value);
        gempim_pimq_desc desc{};
        if (error == 0) {
            std::memcpy(&desc, memory_ + value, sizeof desc);
            if (fault_ == "reserved") {
                std::memset(desc.reserved, 0, sizeof desc.reserved);
            }
            error = model_.check(desc, value, queued.command);
        }
        if (error != 0) {
            if (fault_ == "refusal-writes" && desc.results < model_.bytes()) {
                ++memory_[desc.results];
            }
            status_[slot] = error;
            return;
        }
        status_[slot] = GEMPIM_PIMQ_PENDING;
        queue_.push_back(queued);
    }

    void *pointer(std::uint64_t address) { return memory_ + address; }

  private:
    struct Queued {
        std::uint32_t slot;
        PimCommand command;
    };

    static std::uint32_t stacks_of(Assignments &from) {
        std::uint32_t stacks = 0;
        take(from, "stacks", stacks);
        return stacks;
    }

    void compute(const PimCommand &command) {
        model_.compute(command, memory_);
        if (fault_ == "value") {
            const gempim_pimq_desc &d = command.desc;
            memory_[d.results + 2 * std::uint64_t{d.n} * d.tokens - 1] ^= 0x40;
        }
    }

    // Without time there is nothing to tell.
    void served(std::uint64_t, Ps) override {}
    void has_room(std::uint32_t, bool) override {}

    PimMemory model_;
    std::uint64_t window_bytes_ = 0;
    std::uint8_t *memory_ = nullptr;
    std::string fault_;
    std::mutex mutex_;
    std::vector<std::uint32_t> status_ = std::vector<std::uint32_t>(GEMPIM_PIMQ_SLOTS, GEMPIM_PIMQ_EMPTY);
    std::deque<Queued> queue_;
};

/** nullptr without GEMPIM_PIM_MEMORY. */
SoftwareMemory *memory() {
    static SoftwareMemory *const memory = []() -> SoftwareMemory * {
        const char *text = std::getenv("GEMPIM_PIM_MEMORY");
        if (text == nullptr) {
            return nullptr;
        }
        try {
            return new SoftwareMemory(split(text));
        } catch (const ParamError &error) {
            std::fprintf(stderr, "software device: %s\n", error.what());
            std::exit(2);
        }
    }();
    return memory;
}

} // namespace

extern "C" {

uint64_t gempim_pimq_read(uint32_t offset) {
    return memory() == nullptr ? 0 : memory()->read(offset);
}

void gempim_pimq_write(uint32_t offset, uint64_t value) {
    if (memory() != nullptr) {
        memory()->write(offset, value);
    }
}

void *gempim_pimq_pointer(uint64_t device_address) {
    return memory() == nullptr ? nullptr : memory()->pointer(device_address);
}
}
