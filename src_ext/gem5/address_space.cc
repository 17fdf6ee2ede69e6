// SPDX-License-Identifier: BSD-3-Clause
#include "gem5/address_space.hh"

#include <cstdint>

#include "arch/arm/regs/misc.hh"
#include "base/bitfield.hh"
#include "cpu/thread_context.hh"
#include "sim/full_system.hh"
#include "sim/system.hh"

namespace gem5 {

namespace {

/** No page of an Arm system is smaller; the device keeps addresses in pages of this size. */
constexpr unsigned kLeastPageBits = 12;

/** Of a descriptor of a page table: where it points. */
constexpr Addr output(uint64_t descriptor, unsigned low_bit) {
    return bits(descriptor, 47, low_bit) << low_bit;
}

} // namespace

AddressSpace AddressSpace::of(ThreadContext *tc) {
    AddressSpace space;
    if (!FullSystem) {
        return space;
    }
    // A kernel that runs in EL2 with the host extensions keeps user space in the registers of EL2.
    const RegVal hcr = tc->readMiscRegNoEffect(ArmISA::MISCREG_HCR_EL2);
    const bool host = bits(hcr, 34) != 0 && bits(hcr, 27) != 0; // E2H, TGE
    const RegVal ttbr = tc->readMiscRegNoEffect(host ? ArmISA::MISCREG_TTBR0_EL2 : ArmISA::MISCREG_TTBR0_EL1);
    const RegVal tcr = tc->readMiscRegNoEffect(host ? ArmISA::MISCREG_TCR_EL2 : ArmISA::MISCREG_TCR_EL1);
    space.root_ = output(ttbr, 1);
    const auto granule = bits(tcr, 15, 14); // TG0
    space.page_bits_ = granule == 1 ? 16 : granule == 2 ? 14 : 12;
    space.address_bits_ = 64 - static_cast<unsigned>(bits(tcr, 5, 0)); // T0SZ
    return space;
}

std::optional<Addr> AddressSpace::walk(System &system, Addr address) const {
    const unsigned level_bits = page_bits_ - 3;
    if (address_bits_ < 64 && address >> address_bits_ != 0) {
        return std::nullopt;
    }
    const unsigned levels = (address_bits_ - page_bits_ + level_bits - 1) / level_bits;
    Addr table = root_;
    for (unsigned low_bit = page_bits_ + (levels - 1) * level_bits;; low_bit -= level_bits) {
        const Addr entry = table + ((address >> low_bit & mask(level_bits)) << 3);
        // What was a page table may have become anything since the program ended.
        if (!system.isMemAddr(entry)) {
            return std::nullopt;
        }
        const uint64_t descriptor = letoh(system.physProxy.read<uint64_t>(entry));
        const bool last = low_bit == page_bits_;
        if (bits(descriptor, 0) == 0 || (last && bits(descriptor, 1) == 0)) {
            return std::nullopt;
        }
        if (last || bits(descriptor, 1) == 0) {
            return output(descriptor, low_bit) | (address & mask(low_bit));
        }
        table = output(descriptor, page_bits_);
    }
}

bool AddressSpace::maps(System &system, Addr address, Addr physical) const {
    if (root_ == 0) {
        return true;
    }
    const auto now = walk(system, address);
    return now && *now >> kLeastPageBits == physical >> kLeastPageBits;
}

} // namespace gem5
