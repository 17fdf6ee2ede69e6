// SPDX-License-Identifier: BSD-3-Clause
#include "models/logic_pim/params.hh"

#include <algorithm>

namespace gempim::logic_pim {

namespace {

void require(bool ok, const std::string &name, const std::string &value, const std::string &allowed) {
    if (!ok) {
        throw ParamError("logic_pim." + name + " = " + value + ": allowed is " + allowed);
    }
}

void require(bool ok, const std::string &name, std::uint64_t value, const std::string &allowed) {
    require(ok, name, std::to_string(value), allowed);
}

void one_of(const std::string &name, const std::string &value, const std::string &a, const std::string &b) {
    require(value == a || value == b, name, "'" + value + "'", a + " or " + b);
}

} // namespace

Geometry::Geometry(const LogicPimParams &p, const dram::DramParams &d) {
    spaces = d.ranks / p.bundle_ranks * (d.banks_per_group / p.bundle_banks);
    banks = p.bundle_ranks * d.bank_groups * p.bundle_banks;
    column_bytes = banks * d.burst_bytes();
    row_columns = d.columns();
    const std::uint32_t weights = 2 * column_bytes;
    const std::uint32_t token = 2 * column_bytes + row_columns * p.sum_bytes;
    tokens_held = p.module_buffer_bytes > weights ? (p.module_buffer_bytes - weights) / token : 0;
    const std::uint32_t products = column_bytes / 2; // FP16 weights of a column
    quantum_tokens = std::max<std::uint32_t>(1, p.macs_per_clock / products);
    quantum_clocks = (quantum_tokens * products + p.macs_per_clock - 1) / p.macs_per_clock;
    space_bytes = static_cast<std::uint64_t>(banks) * d.rows * d.row_bytes;
}

void check(const LogicPimParams &p, const dram::DramParams &d) {
    dram::check(d);
    check_ranges(p, "logic_pim");
    require(d.ranks % p.bundle_ranks == 0, "bundle_ranks", p.bundle_ranks,
            "a divisor of dram.ranks = " + std::to_string(d.ranks));
    require(d.banks_per_group % p.bundle_banks == 0, "bundle_banks", p.bundle_banks,
            "a divisor of dram.banks_per_group = " + std::to_string(d.banks_per_group));
    const std::uint32_t ccd = std::max({d.tCCD_L_nCK, d.tCCD_L_WR_nCK, d.burst_nCK()});
    require(p.bundle_ccd_nCK >= ccd, "bundle_ccd_nCK", p.bundle_ccd_nCK,
            ">= tCCD_L, tCCD_L_WR and the burst, " + std::to_string(ccd));
    one_of("activation_limit", p.activation_limit, "none", "normal");
    one_of("priority", p.priority, "pim", "xpu");
    one_of("result_write", p.result_write, "bundle", "bank");
    const Geometry g(p, d);
    require(g.tokens_held >= g.quantum_tokens, "module_buffer_bytes", p.module_buffer_bytes,
            ">= two columns, and for " + std::to_string(g.quantum_tokens) +
                " tokens two columns of inputs and the sums of a row");
    require(p.softmax_buffer_bytes >= 2 * 64 * p.sum_bytes, "softmax_buffer_bytes", p.softmax_buffer_bytes,
            ">= two sets of 64 scores");
}

dram::BundleRules bundle_rules(const LogicPimParams &p, const dram::DramParams &d) {
    dram::BundleRules rules;
    rules.column_distance = static_cast<Ps>(p.bundle_ccd_nCK) * d.tCK_ps;
    rules.rank_switch = static_cast<Ps>(p.bundle_rank_switch_nCK) * d.tCK_ps;
    rules.shared_group_io = p.shared_group_io;
    for (std::uint32_t rank = 0; rank < d.ranks; rank += p.bundle_ranks) {
        for (std::uint32_t first = 0; first < d.banks_per_group; first += p.bundle_banks) {
            dram::Bundle bundle;
            for (std::uint32_t r = rank; r < rank + p.bundle_ranks; ++r) {
                bundle.ranks.push_back(r);
                // Bank groups in turn, so that single activates are tRRD_S and not tRRD_L apart.
                for (std::uint32_t bank = first; bank < first + p.bundle_banks; ++bank) {
                    for (std::uint32_t group = 0; group < d.bank_groups; ++group) {
                        bundle.banks.push_back((r * d.bank_groups + group) * d.banks_per_group + bank);
                    }
                }
            }
            rules.bundles.push_back(std::move(bundle));
        }
    }
    return rules;
}

} // namespace gempim::logic_pim
