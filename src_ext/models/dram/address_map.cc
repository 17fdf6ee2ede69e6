// SPDX-License-Identifier: BSD-3-Clause
#include "models/dram/address_map.hh"

#include <algorithm>
#include <string_view>

namespace gempim::dram {

AddressMap::AddressMap(const DramParams &p, std::uint32_t channels)
    : channels_(channels), columns_(p.columns()), groups_(p.bank_groups), banks_(p.banks_per_group) {
    constexpr std::array<std::string_view, 6> names = {"Ro", "Ra", "Ba", "Bg", "Co", "Ch"};
    const std::array<std::uint32_t, 6> sizes = {p.rows,        p.ranks,     p.banks_per_group,
                                                p.bank_groups, p.columns(), channels};
    const ParamError error("dram.address_map = \"" + p.address_map +
                           "\": allowed is each of Ro Ra Ba Bg Co Ch exactly once, most significant first");
    if (p.address_map.size() != 2 * names.size()) {
        throw error;
    }
    std::array<bool, 6> seen{};
    std::size_t place = 0;
    std::uint64_t below = 1;
    for (std::size_t i = names.size(); i-- > 0;) {
        const auto it = std::find(names.begin(), names.end(), std::string_view(p.address_map).substr(2 * i, 2));
        const auto field = static_cast<std::size_t>(it - names.begin());
        if (it == names.end() || seen[field]) {
            throw error;
        }
        seen[field] = true;
        if (field == kCh) {
            below_channel_ = below;
            continue;
        }
        if (field == kRo) {
            row_set_ = below;
        }
        if (field == kCo && !seen[kRo]) {
            round_ = below;
        }
        digits_[place++] = {sizes[field], static_cast<Field>(field)};
        below *= sizes[field];
    }
}

LocalRange AddressMap::local_range(std::uint32_t channel, std::uint64_t begin, std::uint64_t end) const {
    const auto bursts_before = [&](std::uint64_t burst) {
        const std::uint64_t stride = below_channel_ * channels_;
        const std::uint64_t rest = burst % stride;
        const std::uint64_t own = channel * below_channel_;
        return burst / stride * below_channel_ + (rest > own ? std::min(rest - own, below_channel_) : 0);
    };
    return {bursts_before(begin), bursts_before(end)};
}

void AddressMap::Cursor::seek(std::uint64_t index) {
    index_ = index;
    for (const Digit &d : map_->digits_) {
        value_[d.field] = static_cast<std::uint32_t>(index % d.size);
        index /= d.size;
    }
}

} // namespace gempim::dram
