// SPDX-License-Identifier: BSD-3-Clause
// What one pseudo-channel has to do for an operator: the PIM's jobs, and the xPU's requests beside them.
#pragma once

#include <cstdint>
#include <vector>

#include "models/common/info.hh"
#include "models/dram/request_queue.hh"

namespace gempim::logic_pim {

enum class JobKind : std::uint8_t {
    kRead,      ///< bundle columns for the GEMM module or a buffer
    kWrite,     ///< results by bundle columns
    kBankWrite, ///< results by ordinary writes through the xPU's controller
};

/** Columns of one pseudo-channel that are read or written one after the other. Jobs are done in order. */
struct Job {
    JobKind kind = JobKind::kRead;
    std::uint64_t columns = 0;
    std::uint32_t sweeps = 1; ///< times that the columns of a row are read while it is open
    std::uint32_t quanta = 0; ///< steps of the module for one column, all sweeps together; 0: the module is not used
    std::vector<std::uint32_t> spaces;
    std::int32_t after = -1;      ///< job that must have ended first, its vector unit included; -1: none
    std::int8_t vector_unit = -1; ///< unit that works on the results: 0 softmax, 1 activation; -1: none
    Ps vector_ps = 0;             ///< its time for them
};

/** One burst that the xPU asks for. */
struct XpuRequest {
    dram::Location at;
    bool write = false;
};

/** Requests of the xPU in one pseudo-channel, in the order in which they are offered to its controller. */
class XpuTraffic {
  public:
    virtual ~XpuTraffic() = default;
    virtual std::uint64_t left() const = 0;
    virtual XpuRequest front() const = 0;
    virtual void pop() = 0;
};

/** Requests one by one. */
class XpuList final : public XpuTraffic {
  public:
    explicit XpuList(std::vector<XpuRequest> requests) : requests_(std::move(requests)) {}
    std::uint64_t left() const override { return requests_.size() - at_; }
    XpuRequest front() const override { return requests_[at_]; }
    void pop() override { ++at_; }

  private:
    std::vector<XpuRequest> requests_;
    std::size_t at_ = 0;
};

/**
 * Consecutive bursts in one or several spaces: bank groups and ranks of the bundle, then columns, then the bundle's
 * banks of a group, then spaces, then rows (the order of the address map of scale-snu/LLMSimulator inside a space).
 */
class XpuStream final : public XpuTraffic {
  public:
    /** @param banks banks of each space, the bank group changing fastest */
    XpuStream(std::vector<std::vector<std::uint32_t>> banks, std::uint32_t groups, std::uint32_t columns,
              std::uint32_t rows, std::uint32_t first_row, std::uint64_t bursts, bool write)
        : banks_(std::move(banks)), groups_(groups), columns_(columns), rows_(rows), row_(first_row), left_(bursts),
          write_(write) {}
    std::uint64_t left() const override { return left_; }
    XpuRequest front() const override { return {{banks_[space_][bank_ + group_], row_, column_}, write_}; }
    void pop() override;

  private:
    std::vector<std::vector<std::uint32_t>> banks_;
    std::uint32_t groups_, columns_, rows_;
    std::uint32_t group_ = 0, column_ = 0, bank_ = 0, space_ = 0, row_;
    std::uint64_t left_;
    bool write_;
};

} // namespace gempim::logic_pim
