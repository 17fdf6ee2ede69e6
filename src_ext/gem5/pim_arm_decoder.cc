// SPDX-License-Identifier: BSD-3-Clause
#include "gem5/pim_arm_decoder.hh"

#include "base/trace.hh"
#include "gem5/debug_flags.hh"
#include "gem5/lutmm_arm.hh"

namespace gem5 {

PimArmDecoder::PimArmDecoder(const PimArmDecoderParams &params) : ArmISA::Decoder(params), device_(*params.device) {}

StaticInstPtr PimArmDecoder::decode(PCStateBase &pc_base) {
    if (!instDone) {
        return nullptr;
    }
    const ArmISA::ExtMachInst inst = emi;
    // The base class advances the PC state and forgets the word; its answer stands for every word that is not ours,
    // and for ours where fetch itself went wrong.
    StaticInstPtr base = ArmISA::Decoder::decode(pc_base);
    const auto &pc = pc_base.as<ArmISA::PCState>();
    if (!inst.aarch64 || inst.decoderFault != ArmISA::DecoderFault::OK || pc.illegalExec() || pc.debugStep()) {
        return base;
    }
    const auto word = static_cast<uint32_t>(inst.instBits);
    if (!ArmISA::isLutmm(word)) {
        return base;
    }
    auto [at, is_new] = decoded_.try_emplace(word, nullptr);
    if (is_new) {
        at->second = ArmISA::makeLutmm(inst, device_);
        at->second->size(4);
        DPRINTF(PimDecoder, "%#x decoded as %s\n", word, at->second->getName());
    }
    return at->second;
}

PimArmDecoder *PimArmDecoderParams::create() const {
    return new PimArmDecoder(*this);
}

} // namespace gem5
