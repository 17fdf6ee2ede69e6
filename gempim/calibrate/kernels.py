"""Which loops of llama.cpp's Arm kernels stand for which work, and how much work one iteration is.

A kernel is named by the operand types, `vec_dot_q4_0_q8_0`, or by llama.cpp's repacked layout, `gemv_q4_0_4x4_q8_0`.
The layouts are those that llama.cpp's `ggml_repack_get_optimal_repack_type` (ggml-cpu/repack.cpp) picks for a CPU
with the dot product but without the 8-bit matrix multiply and SVE, as Neoverse-N1: q4_0 and q8_0 as 4x4, q4_K, q5_K
and q6_K as 8x4; the other types are not repacked.

Element counts and byte sizes of blocks: ggml-common.h (see also the table of ggml types in gempim's documentation of
formats).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gempim.calibrate.asm import INNERMOST
from gempim.calibrate.toolchain import ToolError

ARM_QUANTS = "ggml-cpu/arch/arm/quants.c"
ARM_REPACK = "ggml-cpu/arch/arm/repack.cpp"
GENERIC_QUANTS = "ggml-quants.c"
GENERIC_REPACK = "ggml-cpu/repack.cpp"
VEC = "ggml-cpu/vec.cpp"
OPS = "ggml-cpu/ops.cpp"
BINARY = "ggml-cpu/binary-ops.cpp"
CPU = "ggml-cpu/ggml-cpu.c"
PROBES = "probes.cpp"
"""Our own file beside this one: entry points for functions that llama.cpp only has inline in a header."""


@dataclass(frozen=True)
class Kernel:
    """How to find a kernel's loop and what one iteration of it computes.

    Attributes:
        name: key in the calibration file.
        role: "dot", "gemv", "gemm", "quantize" or "elementwise".
        source: file below ggml/src of llama.cpp.
        function: regular expression that the function's assembly label must match whole.
        marker: regular expression of an instruction that the loop must hold.
        level, rank: see `asm.find_loop`.
        trips: trip counts of the loops inside, in assembly order.
        path: which way forward branches go, see `asm.PATHS`.
        block_elements: elements of one block.
        tile_rows, tile_columns: weight rows and activation rows that one iteration works on.
        steps: bytes by which the operand pointers move for one block of every row of the tile; the number of blocks
            one iteration covers follows from the pointer increments in the assembly. Empty: `blocks` says it.
        blocks: blocks (of every row of the tile) in one iteration, where no pointer increment tells.
        outer: whether the loop around (or the function, at level 0) is one call's worth of work whose fixed cost is
            to be measured.
        signature: how the dynamic check can call the function; "" where it needs llama.cpp's tensors and is not called.
    """

    name: str
    role: str
    source: str
    function: str
    marker: str
    block_elements: int
    level: int = 0
    rank: int = 0
    trips: tuple[int, ...] = ()
    path: str = "straight"
    tile_rows: int = 1
    tile_columns: int = 1
    steps: tuple[int, ...] = ()
    blocks: int = 0
    outer: bool = True
    signature: str = ""


def _dot(types: str, elements: int, weight: int, activation: int) -> Kernel:
    """A `ggml_vec_dot_*`: one weight row against one activation row."""
    return Kernel(
        name=f"vec_dot_{types}",
        role="dot",
        source=ARM_QUANTS,
        function=f"ggml_vec_dot_{types}",
        marker=r"^sdot",
        block_elements=elements,
        steps=(weight, activation),
        signature="dot",
    )


def _float_dot(kind: str, size: int) -> Kernel:
    """A floating-point `ggml_vec_dot_*`; the block is the 64 or 128 bytes of one iteration."""
    return Kernel(
        name=f"vec_dot_{kind}",
        role="dot",
        source=VEC,
        function=rf"(_Z\d+)?ggml_vec_dot_{kind}\w*",
        marker=r"^fmla\s+v",
        block_elements=64 // size,
        steps=(64, 64),
        signature="dot",
    )


def _repacked(
    kind: str,
    layout: str,
    *,
    rows: int,
    columns: int,
    elements: int,
    steps: tuple[int, ...] = (),
    trips: tuple[int, ...] = (),
    level: int | None = None,
    rank: int = 0,
    name: str = "",
    path: str = "straight",
) -> Kernel:
    """A `ggml_gemv_*` or `ggml_gemm_*` on repacked weights: `rows` weight rows against `columns` activation rows."""
    return Kernel(
        name=name or f"{kind}_{layout}",
        role=kind,
        source=ARM_REPACK,
        function=f"ggml_{kind}_{layout}",
        marker=r"^sdot",
        level=(1 if kind == "gemv" else 2) if level is None else level,
        rank=rank,
        trips=trips,
        path=path,
        block_elements=elements,
        tile_rows=rows,
        tile_columns=columns,
        steps=steps,
        blocks=0 if steps else 1,
        signature=kind,
    )


def _quantize(target: str, elements: int, step: int, **other: object) -> Kernel:
    settings: dict[str, object] = {
        "source": ARM_QUANTS,
        "function": f"quantize_row_{target}",
        "marker": r"^fcvt[anz]s|^fcvtns",
        "steps": (step, 4 * elements),
        "signature": "quantize",
    }
    settings.update(other)
    return Kernel(name=f"quantize_{target}", role="quantize", block_elements=elements, **settings)  # type: ignore[arg-type]


def _elementwise(name: str, source: str, function: str, marker: str, elements: int, **other: object) -> Kernel:
    settings: dict[str, object] = {"level": INNERMOST, "blocks": 1, "outer": False}
    settings.update(other)
    return Kernel(
        name=name,
        role="elementwise",
        source=source,
        function=function,
        marker=marker,
        block_elements=elements,
        **settings,  # type: ignore[arg-type]
    )


KERNELS: tuple[Kernel, ...] = (
    _dot("q4_0_q8_0", 32, 18, 34),
    _dot("q4_1_q8_1", 32, 20, 36),
    _dot("q5_0_q8_0", 32, 22, 34),
    _dot("q5_1_q8_1", 32, 24, 36),
    _dot("q8_0_q8_0", 32, 34, 34),
    _dot("q2_K_q8_K", 256, 84, 292),
    _dot("q3_K_q8_K", 256, 110, 292),
    _dot("q4_K_q8_K", 256, 144, 292),
    _dot("q5_K_q8_K", 256, 176, 292),
    _dot("q6_K_q8_K", 256, 210, 292),
    _float_dot("f16", 2),
    _float_dot("f32", 4),
    _repacked("gemv", "q4_0_4x4_q8_0", rows=4, columns=1, elements=32, steps=(4 * 18, 34)),
    _repacked("gemv", "q8_0_4x4_q8_0", rows=4, columns=1, elements=32, steps=(4 * 34, 34)),
    _repacked("gemv", "q4_K_8x4_q8_K", rows=8, columns=1, elements=256, trips=(4, 2)),
    _repacked("gemv", "q5_K_8x4_q8_K", rows=8, columns=1, elements=256, trips=(4, 2)),
    _repacked("gemv", "q6_K_8x4_q8_K", rows=8, columns=1, elements=256, trips=(2, 4)),
    _repacked("gemm", "q4_0_4x4_q8_0", rows=4, columns=16, elements=32, steps=(4 * 18, 4 * 34)),
    _repacked(
        "gemm",
        "q4_0_4x4_q8_0",
        rows=4,
        columns=4,
        elements=32,
        steps=(4 * 18, 4 * 34),
        rank=1,
        name="gemm_q4_0_4x4_q8_0_tail",
    ),
    _repacked("gemm", "q8_0_4x4_q8_0", rows=4, columns=4, elements=32, steps=(4 * 34, 4 * 34)),
    _repacked("gemm", "q4_K_8x4_q8_K", rows=8, columns=4, elements=256, trips=(4, 2)),
    _repacked("gemm", "q5_K_8x4_q8_K", rows=8, columns=4, elements=256, trips=(4, 2, 8)),
    _repacked("gemm", "q6_K_8x4_q8_K", rows=8, columns=4, elements=256, trips=(2, 4)),
    _quantize("q8_0", 32, 34),
    _quantize("q8_1", 32, 36),
    _quantize(
        "q8_K",
        256,
        292,
        source=GENERIC_QUANTS,
        function="quantize_row_q8_K_ref",
        marker=r"^fmla",
        trips=(256, 16),
        steps=(),
        blocks=1,
    ),
    Kernel(
        name="quantize_f16",
        role="quantize",
        source=CPU,
        function="ggml_cpu_fp32_to_fp16",
        marker=r"^ldr\s+s",
        block_elements=1,
        blocks=1,
        signature="quantize",
    ),
    Kernel(
        name="quantize_q8_0_4x4",
        role="quantize",
        source=ARM_REPACK,
        function="ggml_quantize_mat_q8_0_4x4",
        marker=r"^fcvt",
        block_elements=32,
        tile_columns=4,
        trips=(4,),
        blocks=1,
        signature="quantize",
    ),
    Kernel(
        name="quantize_q8_K_4x4",
        role="quantize",
        source=GENERIC_REPACK,
        function="ggml_quantize_mat_q8_K_4x4",
        marker=r"^fmadd",
        block_elements=256,
        tile_columns=4,
        trips=(4, 256, 1024),
        blocks=1,
        signature="quantize",
    ),
    _elementwise("rms_norm_sum", OPS, "ggml_compute_forward_rms_norm_mul_fused", r"^fcvt\s+d", 1),
    _elementwise("rms_norm_scale", OPS, "ggml_compute_forward_rms_norm_mul_fused", r"^fmul\s+v\d+\.4s", 4),
    _elementwise("norm_sum", PROBES, "gempim_probe_sum", r"^fadd\s+d", 1),
    _elementwise("norm_variance", VEC, r"(_Z\d+)?ggml_vec_cvar_f32\w*", r"^fsub\s+v\d+\.4s", 4),
    _elementwise("scale", PROBES, "gempim_probe_scale", r"^fmul\s+v\d+\.4s", 16),
    _elementwise("add", PROBES, "gempim_probe_add", r"^fadd\s+v\d+\.4s", 4),
    _elementwise("max", PROBES, "gempim_probe_max", r"^fcsel|^fmaxnm", 1),
    _elementwise("mask", OPS, "ggml_compute_forward_soft_max", r"^fcvtl", 8),
    _elementwise("soft_max_exp", VEC, r"(_Z\d+)?ggml_vec_soft_max_f32\w*", r"^fmla\s+v", 4, path="shortest"),
    _elementwise("swiglu", VEC, r"(_Z\d+)?ggml_vec_swiglu_f32\w*", r"^fdiv\s+v", 4, path="shortest"),
    _elementwise("gelu", PROBES, "gempim_probe_gelu", r"^fcvt", 1, path="longest"),
    _elementwise("rope", OPS, r"_Z29ggml_compute_forward_rope_fltIfE\w*", r"^ld2", 8),
)


def select(names: Collection[str]) -> list[Kernel]:
    """The kernels named, or all when none is. Raises ToolError for an unknown name."""
    unknown = sorted(set(names) - {kernel.name for kernel in KERNELS})
    if unknown:
        raise ToolError(
            f"no such kernel: {', '.join(unknown)} (there are: {', '.join(kernel.name for kernel in KERNELS)})"
        )
    return [kernel for kernel in KERNELS if not names or kernel.name in names]
