// SPDX-License-Identifier: BSD-3-Clause
#include "gem5/lutmm_arm.hh"

#include <cstring>
#include <vector>

#include "arch/arm/insts/static_inst.hh"
#include "arch/arm/mmu.hh"
#include "arch/arm/regs/int.hh"
#include "base/bitfield.hh"
#include "cpu/base.hh"
#include "cpu/exec_context.hh"
#include "cpu/thread_context.hh"
#include "isa/lutmm.h"
#include "mem/packet.hh"

namespace gem5::ArmISA {

namespace {

constexpr unsigned kFuncShift = GEMPIM_LUTMM_AARCH64_FUNC_SHIFT;
constexpr uint32_t kFuncMask = 0xFU << kFuncShift;
constexpr uint32_t kRegMask = 0x3FFU;

unsigned func_of(uint32_t word) {
    return (word & kFuncMask) >> kFuncShift;
}

/** Xd and Xn; register 31 is the zero register in both places. */
class Lutmm : public ArmStaticInst {
  public:
    Lutmm(const char *mnemonic, ExtMachInst inst, OpClass op_class, SramPim &device)
        : ArmStaticInst(mnemonic, inst, op_class), device_(device), dest_(bits(inst.instBits, 4, 0)),
          src_(bits(inst.instBits, 9, 5)) {
        setRegIdxArrays(reinterpret_cast<RegIdArrayPtr>(&Lutmm::src_regs_),
                        reinterpret_cast<RegIdArrayPtr>(&Lutmm::dest_regs_));
        setSrcRegIdx(_numSrcRegs++, src_ == int_reg::X31 ? RegId() : intRegClass[src_]);
        setDestRegIdx(_numDestRegs++, dest_ == int_reg::X31 ? RegId() : intRegClass[dest_]);
        _numTypedDestRegs[intRegClass.type()]++;
        flags[IsInteger] = true;
        // The device acts on it at once: never on a path that may not be taken, and nothing after it before it.
        flags[IsNonSpeculative] = true;
        flags[IsSerializeAfter] = true;
        flags[IsUnverifiable] = true;
    }

    std::string generateDisassembly(Addr, const loader::SymbolTable *) const override {
        std::ostringstream out;
        printMnemonic(out, "", false);
        printIntReg(out, dest_);
        out << ", ";
        printIntReg(out, src_);
        return out.str();
    }

  protected:
    RegVal operand(ExecContext *xc) const { return src_ == int_reg::X31 ? 0 : xc->getRegOperand(this, 0); }

    void answer(ExecContext *xc, trace::InstRecord *trace, RegVal value) const {
        xc->setRegOperand(this, 0, value);
        if (trace != nullptr) {
            trace->setData(intRegClass, value);
        }
    }

    SramPim &device_;

  private:
    RegIndex dest_;
    RegIndex src_;
    RegId src_regs_[1];
    RegId dest_regs_[1];
};

/**
 * Issue: a load of the descriptor's line, so that translation, faults, ordering after earlier stores and the time to
 * fetch it are those of any load; the device takes the command when the line is there.
 */
class LutmmIssue : public Lutmm {
  public:
    LutmmIssue(ExtMachInst inst, SramPim &device) : Lutmm("lutmm.issue", inst, MemReadOp, device) {
        flags[IsLoad] = true;
    }

    Fault execute(ExecContext *xc, trace::InstRecord *trace) const override {
        gempim_lutmm_desc desc;
        const Fault fault =
            xc->readMem(line(xc), reinterpret_cast<uint8_t *>(&desc), sizeof(desc), kFlags, all_bytes());
        return fault != NoFault ? fault : issue(xc, trace, desc);
    }

    Fault initiateAcc(ExecContext *xc, trace::InstRecord *) const override {
        return xc->initiateMemRead(line(xc), sizeof(gempim_lutmm_desc), kFlags, all_bytes());
    }

    Fault completeAcc(PacketPtr packet, ExecContext *xc, trace::InstRecord *trace) const override {
        gempim_lutmm_desc desc;
        std::memcpy(&desc, packet->getConstPtr<uint8_t>(), sizeof(desc));
        return issue(xc, trace, desc);
    }

  private:
    static constexpr Request::FlagsType kFlags = MMU::AllowUnaligned;

    static const std::vector<bool> &all_bytes() {
        static const std::vector<bool> enable(sizeof(gempim_lutmm_desc), true);
        return enable;
    }

    /** A misaligned address is the device's to refuse; the load itself is of the line that it lies in. */
    Addr line(ExecContext *xc) const { return operand(xc) & ~Addr{GEMPIM_LUTMM_DESC_BYTES - 1}; }

    Fault issue(ExecContext *xc, trace::InstRecord *trace, const gempim_lutmm_desc &desc) const {
        RegVal value = 0;
        const Fault fault = device_.issue(xc->tcBase(), operand(xc), desc, value);
        if (fault == NoFault) {
            answer(xc, trace, value);
        }
        return fault;
    }
};

/** Wait: answers at once, or suspends the core until the device wakes it; the program then asks again. */
class LutmmWait : public Lutmm {
  public:
    LutmmWait(ExtMachInst inst, SramPim &device) : Lutmm("lutmm.wait", inst, No_OpClass, device) {
        flags[IsQuiesce] = true;
    }

    Fault execute(ExecContext *xc, trace::InstRecord *trace) const override {
        ThreadContext *tc = xc->tcBase();
        const RegVal status = device_.wait(tc, operand(xc));
        answer(xc, trace, status);
        // An interrupt that is there already would not wake a core that goes to sleep now; as with WFI, it does not
        // sleep.
        if (status == GEMPIM_STATUS_PENDING && !tc->getCpuPtr()->checkInterrupts(tc->threadId())) {
            tc->quiesce();
        } else {
            // A pipeline that has seen IsQuiesce fetches on only after a wake-up.
            tc->quiesceTick(tc->getCpuPtr()->nextCycle() + 1);
        }
        return NoFault;
    }
};

class LutmmQuery : public Lutmm {
  public:
    LutmmQuery(ExtMachInst inst, SramPim &device) : Lutmm("lutmm.query", inst, IntAluOp, device) {}

    Fault execute(ExecContext *xc, trace::InstRecord *trace) const override {
        answer(xc, trace, device_.query(operand(xc)));
        return NoFault;
    }
};

} // namespace

bool isLutmm(uint32_t word) {
    return (word & ~(kFuncMask | kRegMask)) == GEMPIM_LUTMM_AARCH64_BASE && func_of(word) <= GEMPIM_LUTMM_QUERY;
}

StaticInstPtr makeLutmm(ExtMachInst inst, SramPim &device) {
    switch (func_of(static_cast<uint32_t>(inst.instBits))) {
    case GEMPIM_LUTMM_ISSUE:
        return new LutmmIssue(inst, device);
    case GEMPIM_LUTMM_WAIT:
        return new LutmmWait(inst, device);
    default:
        return new LutmmQuery(inst, device);
    }
}

} // namespace gem5::ArmISA
