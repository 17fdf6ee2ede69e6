"""Neoverse-N1 cores, in five degrees of detail.

Sources of the numbers, by the tag behind each:

* SWOG: Arm Neoverse N1 Software Optimization Guide, by way of LLVM's scheduling model of the core
  (llvm/lib/Target/AArch64/AArch64SchedNeoverseN1.td): pipes and latencies. Kind: standard.
* GEM5: a public gem5 configuration of the Neoverse-N1 (kind: code): windows, registers, predictor.
* ours: a choice, with its reason.

What gem5's out-of-order core cannot be told: the forwarding inside accumulation chains (an N1 multiply-accumulate feeds
the next one after 2 of its 4 cycles), the dedicated branch pipe (gem5's branches are IntAlu operations), the separate
issue queues (one shared queue here) and division that frees its pipe early.
"""

from typing import Any, List, Optional, Tuple, Type

from gem5.components.boards.abstract_board import AbstractBoard
from gem5.components.boards.mem_mode import MemMode
from gem5.components.processors.abstract_core import AbstractCore
from gem5.components.processors.base_cpu_core import BaseCPUCore
from gem5.components.processors.base_cpu_processor import BaseCPUProcessor
from gem5.components.processors.switchable_processor import SwitchableProcessor
from gem5.isas import ISA
from m5.objects import (
    ArmAtomicSimpleCPU,
    ArmISA,
    ArmMinorCPU,
    ArmNonCachingSimpleCPU,
    ArmO3CPU,
    ArmRelease,
    ArmTimingSimpleCPU,
    BaseCPU,
    BiModeBP,
    FUDesc,
    FUPool,
    OpDesc,
    ReturnAddrStack,
    SimpleBTB,
)


def _ops(latency: int, *classes: str, pipelined: bool = True) -> List[OpDesc]:
    return [OpDesc(opClass=c, opLat=latency, pipelined=pipelined) for c in classes]


class N1SimpleInt(FUDesc):
    """Two single-cycle integer pipes and the branch pipe (SWOG: S x 2, B)."""

    opList = _ops(1, "IntAlu")
    count = 3


class N1ComplexInt(FUDesc):
    """The multi-cycle integer pipe (SWOG: M): 32-bit multiply 2, 32-bit divide 12; it takes simple operations too."""

    opList = [
        *_ops(1, "IntAlu"),
        *_ops(2, "IntMult"),
        *_ops(12, "IntDiv", pipelined=False),
        *_ops(3, "IprAccess"),  # ours: system register moves are rare in user code
    ]
    count = 1


def _either_vector_pipe() -> List[OpDesc]:
    """What both FP/ASIMD pipes do (SWOG: V): arithmetic, logic, permute and dot product 2; FP multiply 3, FMA 4."""
    return [
        *_ops(2, "SimdAdd", "SimdAlu", "SimdCmp", "SimdMisc", "SimdExt", "SimdFloatExt", "SimdConfig", "SimdPredAlu"),
        *_ops(2, "FloatAdd", "FloatCmp", "FloatMisc", "SimdFloatAdd", "SimdFloatAlu", "SimdFloatCmp", "SimdFloatMisc"),
        *_ops(3, "FloatMult", "SimdFloatMult"),
        *_ops(4, "FloatMultAcc", "SimdFloatMultAcc", "SimdFloatMatMultAcc"),
    ]


class N1Vector0(FUDesc):
    """FP/ASIMD pipe 0 (SWOG: V0): integer multiply 4, conversion 4 on four lanes, FP division and root 10; crypto 2."""

    opList = [
        *_either_vector_pipe(),
        *_ops(4, "SimdMult", "SimdMultAcc", "SimdMatMultAcc"),
        *_ops(3, "FloatCvt"),
        *_ops(4, "SimdCvt", "SimdFloatCvt"),
        *_ops(10, "FloatDiv", "FloatSqrt", "SimdDiv", "SimdSqrt", "SimdFloatDiv", "SimdFloatSqrt", pipelined=False),
        *_ops(2, "SimdAes", "SimdAesMix", "SimdSha1Hash", "SimdSha1Hash2", "SimdShaSigma2", "SimdShaSigma3"),
        *_ops(4, "SimdSha256Hash", "SimdSha256Hash2"),
    ]
    count = 1


class N1Vector1(FUDesc):
    """FP/ASIMD pipe 1 (SWOG: V1): shift 2, shift or difference and accumulate 4, reduction 3."""

    opList = [
        *_either_vector_pipe(),
        *_ops(2, "SimdShift"),
        *_ops(4, "SimdShiftAcc", "SimdAddAcc"),
        *_ops(3, "SimdReduceAdd", "SimdReduceAlu", "SimdReduceCmp", "SimdFloatReduceAdd", "SimdFloatReduceCmp"),
    ]
    count = 1


class N1LoadStore(FUDesc):
    """Two load/store pipes (SWOG: L x 2). The L1's latency comes on top; vector loads take one cycle more."""

    opList = [
        *_ops(1, "MemRead", "MemWrite", "FloatMemWrite", "InstPrefetch"),
        *_ops(2, "FloatMemRead"),
    ]
    count = 2


class N1FunctionalUnits(FUPool):
    """All pipes of a Neoverse-N1."""

    FUList = [N1SimpleInt(), N1ComplexInt(), N1Vector0(), N1Vector1(), N1LoadStore()]


class N1BranchPredictor(BiModeBP):
    """GEM5: bi-mode 8192 / 8192, BTB 4096, return stack 16."""

    btb = SimpleBTB(numEntries=4096, tagBits=18)
    ras = ReturnAddrStack(numEntries=16)
    globalPredictorSize = 8192
    choicePredictorSize = 8192
    globalCtrBits = 2
    choiceCtrBits = 2


N1_MIDR = 0x414FD0C1
"""MIDR_EL1 of revision r4p1, which Linux knows the core and its errata by (TRM)."""


class N1Release(ArmRelease):
    """Instruction set extensions of a Neoverse-N1 (Armv8.2-A, TRM) that gem5 knows: no SVE and no I8MM, so that the C
    library and llama.cpp pick the same kernels as on the real core.

    Pointer authentication is there, which an N1 has not, and stays switched off: its instructions then do nothing, as
    on an N1. Without the extension gem5 24's out-of-order core loses the register that `paciasp` names (it is renamed
    and not written), and programs built with -mbranch-protection, Debian's kernel among them, return to nowhere.
    """

    extensions = [
        "FEAT_PAuth",
        "FEAT_AES",
        "FEAT_PMULL",
        "FEAT_SHA1",
        "FEAT_SHA256",
        "FEAT_CRC32",
        "FEAT_LSE",
        "FEAT_RDM",
        "FEAT_DOTPROD",
    ]


class N1O3CPU(ArmO3CPU):
    """The out-of-order Neoverse-N1."""

    # SWOG: four instructions a cycle are fetched, decoded and renamed; eight micro-operations are issued.
    fetchWidth = 4
    decodeWidth = 4
    # GEM5: renamed to committed, micro-operations: gem5 splits instructions before it decodes them.
    renameWidth = 8
    dispatchWidth = 8
    issueWidth = 8
    wbWidth = 8
    commitWidth = 8
    squashWidth = 8
    # ours: add up to the misprediction penalty of 11 cycles (SWOG) with a 1-cycle L1I.
    fetchToDecodeDelay = 3
    decodeToRenameDelay = 2
    renameToIEWDelay = 1
    # ours: four instructions of 4 bytes a cycle out of a 64-byte line.
    fetchBufferSize = 64
    # SWOG: 128 micro-operations in flight.
    numROBEntries = 128
    # GEM5
    numIQEntries = 120
    LQEntries = 68
    SQEntries = 72
    numPhysIntRegs = 120
    numPhysFloatRegs = 128
    numPhysVecRegs = 128
    # ours: loads and stores are ordered by address from the first byte on.
    LSQDepCheckShift = 0
    fuPool = N1FunctionalUnits()
    branchPred = N1BranchPredictor()


MODELS = {
    "atomic_noncaching": ArmNonCachingSimpleCPU,
    "atomic": ArmAtomicSimpleCPU,
    "timing": ArmTimingSimpleCPU,
    "minor": ArmMinorCPU,
    "o3": N1O3CPU,
}
"""CPU models by option. Only o3 is a Neoverse-N1 in time; the others run the same instructions, faster."""


def cpu_class(model: str, decoder: Optional[type] = None) -> Type[BaseCPU]:
    """The CPU class of a model, with another instruction decoder where the system has new instructions.

    gem5 creates the decoders of a CPU from its class attribute ArchDecoder, so a class with that attribute is all it
    takes.
    """
    base = MODELS[model]
    if decoder is None:
        return base
    return type(f"Pim{base.__name__}", (base,), {"ArchDecoder": decoder})


class GempimCore(BaseCPUCore):
    """One core.

    :param cpu: the CPU object
    :param device: what the decoder's new instructions talk to, or None
    """

    def __init__(self, cpu: BaseCPU, device: Any = None) -> None:
        # Not BaseCPUCore's own constructor: its check of the instruction set refuses a gem5 that was built without
        # Ruby. run.py has checked the instruction set.
        AbstractCore.__init__(self)
        self._isa = ISA.ARM
        cpu.isa = [ArmISA(release_se=N1Release(), midr=N1_MIDR) for _ in range(int(cpu.numThreads))]
        self.core = cpu
        self.core.createThreads()
        if device is not None:
            for decoder in self.core.decoder:
                decoder.device = device


def make_cores(model: str, count: int, *, decoder: Optional[type] = None, device: Any = None) -> List[GempimCore]:
    """`count` cores of a model; `decoder` and `device` as in :func:`cpu_class` and :class:`GempimCore`."""
    cls = cpu_class(model, decoder)
    return [GempimCore(cls(cpu_id=i), device) for i in range(count)]


class GempimProcessor(BaseCPUProcessor):
    """`cores` of one model from beginning to end."""

    def __init__(self, cores: List[GempimCore]) -> None:
        super().__init__(cores=cores)


class FastForwardProcessor(SwitchableProcessor):
    """Starts with the fastest cores, which bypass the caches, and continues with the ones that are measured.

    :param fast: cores of the model atomic_noncaching
    :param detailed: as many cores of another model
    """

    def __init__(self, fast: List[GempimCore], detailed: List[GempimCore]) -> None:
        super().__init__(switchable_cores={"fast": fast, "cores": detailed}, starting_cores="fast")

    def incorporate_processor(self, board: AbstractBoard) -> None:
        """Connect to the board. The memory mode is that of the fast cores; switching changes it."""
        super().incorporate_processor(board=board)
        board.set_mem_mode(MemMode.ATOMIC_NONCACHING)

    def switch(self) -> None:
        """Continue on the detailed cores."""
        self.switch_to_processor("cores")


def core_objects(processor: Any) -> Tuple[Any, ...]:
    """The CPU objects that run now."""
    return tuple(core.get_simobject() for core in processor.get_cores())
