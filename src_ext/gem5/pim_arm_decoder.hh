// SPDX-License-Identifier: BSD-3-Clause
// gem5's AArch64 decoder with one more instruction.
#pragma once

#include <unordered_map>

#include "arch/arm/decoder.hh"
#include "gem5/sram_pim.hh"
#include "params/PimArmDecoder.hh"

namespace gem5 {

class PimArmDecoder : public ArmISA::Decoder {
  public:
    PimArmDecoder(const PimArmDecoderParams &params);

    StaticInstPtr decode(PCStateBase &pc) override;

  private:
    SramPim &device_;
    std::unordered_map<uint32_t, StaticInstPtr> decoded_; ///< by instruction word
};

} // namespace gem5
