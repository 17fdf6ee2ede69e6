"""Reading loops out of assembly: small hand-written samples whose right answer was worked out by hand, and random
loop nests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gempim.calibrate import asm
from gempim.calibrate.asm import AsmError, Insn

# Two blocks an iteration, a scalar tail, a branch around the loop: the shape of a vec_dot.
DOT = """
	.text
kernel:
.LFB1:
	cmp	w0, 63
	ble	.L9
	movi	v6.4s, 0
.L4:
	ldr	q1, [x4, 2]
	ldp	q2, q3, [x2], 68
	ldr	h4, [x4]
	sdot	v6.4s, v1.16b, v2.16b
	sdot	v6.4s, v1.16b, v3.16b
	add	x4, x4, 36
	cmp	w8, w6
	bgt	.L4
	faddp	v6.4s, v6.4s, v6.4s
	cmp	w0, w8
	bge	.L9
.L6:
	ldrb	w5, [x3, 3]
	sdot	v7.4s, v1.16b, v2.16b
	subs	x9, x9, #1
	bne	.L6
.L9:
	str	s0, [x1]
	ret
	.size	kernel, .-kernel
other:
	ret
"""

# An inner loop of constant length whose exit test stands in its middle, inside a block loop with a rare side exit.
NEST = """
nest:
	mov	x1, 0
.L1:
	ldr	q0, [x5], 16
	mov	x2, 0
.L2:
	sdot	v1.4s, v0.16b, v0.16b
	cmp	x2, 4
	beq	.L5
	add	x2, x2, 1
	mul	v2.4s, v1.4s, v1.4s
	b	.L2
.L5:
	fcmp	s1, #0.0
	beq	.L8
	str	q2, [x6], 16
.L7:
	subs	x1, x1, #1
	bne	.L1
	ret
.L8:
	movi	v2.4s, 0
	movi	v3.4s, 0
	movi	v4.4s, 0
	b	.L7
	.size	nest, .-nest
"""


def test_dot_loop_is_found_with_its_mix_bytes_and_steps() -> None:
    """The loop with most markers is taken, the tail is reported as the alternative; instructions, bytes and steps by
    hand."""
    function = asm.parse_function(DOT, "kernel")
    choice = asm.find_loop(function, "^sdot", 0)
    assert choice.loop.label == ".L4"
    assert choice.alternatives == (".L6 (1 markers)",)
    body = choice.loop.linearise()
    assert asm.mix(body) == {"vector": 2, "scalar": 2, "load": 3, "store": 0, "branch": 1}
    assert asm.load_bytes(body) == 16 + 32 + 2
    assert asm.increments(body) == {"x4": 36, "x2": 68}


def test_rank_picks_the_second_loop() -> None:
    assert asm.find_loop(asm.parse_function(DOT, "kernel"), "^sdot", 0, rank=1).loop.label == ".L6"


def test_a_call_goes_through_the_wanted_loop_only() -> None:
    """Entry 3 + 5 turns of 8 + 3 to the tail's test + 2 at the end; the tail is gone around."""
    function = asm.parse_function(DOT, "kernel")
    loop = asm.find_loop(function, "^sdot", 0).loop
    assert len(asm.linearise_call(function, {loop.header: 5})) == 3 + 5 * 8 + 3 + 2


def test_inner_loop_left_in_the_middle() -> None:
    """5 tests of the inner loop: 4 whole turns of 6 instructions and one way of 3 to the exit."""
    loop = asm.find_loop(asm.parse_function(NEST, "nest"), "^sdot", 0).loop
    body = loop.linearise((5,))
    assert sum(insn.mnemonic == "sdot" for insn in body) == 5
    assert sum(insn.mnemonic == "mul" for insn in body) == 4
    assert len(body) == 2 + (4 * 6 + 3) + 2 + 1 + 2


def test_which_way_a_forward_branch_goes() -> None:
    """straight: the fall-through (a store); shortest: the same here; longest: through the out-of-line block of 4."""
    loop = asm.find_loop(asm.parse_function(NEST, "nest"), "^sdot", 0).loop
    straight, shortest, longest = (loop.linearise((5,), path) for path in ("straight", "shortest", "longest"))
    assert len(straight) == len(shortest) == 34
    assert len(longest) == 34 - 1 + 4
    assert any(insn.kind == "store" for insn in straight)
    assert not any(insn.kind == "store" for insn in longest)


def test_level_descends_and_innermost_goes_down() -> None:
    function = asm.parse_function(NEST, "nest")
    assert asm.find_loop(function, "^sdot", 1).loop.label == ".L2"
    assert asm.find_loop(function, "^sdot", asm.INNERMOST).loop.label == ".L2"


def test_numeric_labels_and_encoded_instructions() -> None:
    """Inline assembly: `2:` on the line of an instruction, `b.gt 2b` to the nearest before, dot products as .inst
    words."""
    text = """
inline:
	cbz	x1, 2f
	1:add	x0, x0, #1
2:
	.inst	0x4f9ae1ff // sdot
	ldr	q0, [x3, #0x10]
	subs	x1, x1, #0x2
	b.gt	2b
	ret
	.size	inline, .-inline
"""
    loop = asm.find_loop(asm.parse_function(text, "inline"), r"^sdot\s+v31", 0).loop
    assert [insn.mnemonic for insn in loop.linearise()] == ["sdot", "ldr", "subs", "b.gt"]


@pytest.mark.parametrize(
    ("word", "text"),
    [  # words as the GNU assembler encodes the text
        (0x4F9AE1FF, "sdot v31.4s, v15.16b, v26.4b[0]"),
        (0x4FB3E807, "sdot v7.4s, v0.16b, v19.4b[3]"),
        (0x4E849661, "sdot v1.4s, v19.16b, v4.16b"),
        (0x4F9DEBFE, "sdot v30.4s, v31.16b, v29.4b[2]"),
    ],
)
def test_decode_word(word: int, text: str) -> None:
    assert asm.decode_word(word) == text


@pytest.mark.parametrize(
    ("text", "kind", "size"),
    [
        ("ldr q1, [x4, 2]", "load", 16),
        ("ldr d1, [x4]", "load", 8),
        ("ldr h1, [x4]", "load", 2),
        ("ldr x1, [x4]", "load", 8),
        ("ldrb w1, [x4]", "load", 1),
        ("ldrsb w1, [x4]", "load", 1),
        ("ldrh w1, [x4]", "load", 2),
        ("ldur q1, [x4, -3]", "load", 16),
        ("ldp q1, q2, [x4]", "load", 32),
        ("ldp x1, x2, [x4]", "load", 16),
        ("stp w1, w2, [x4]", "store", 8),
        ("str s1, [x4]", "store", 4),
        ("strb w1, [x4]", "store", 1),
        ("ld1 {v0.16b - v3.16b}, [x1]", "load", 64),
        ("ld1 {v0.8h, v1.8h}, [x1], 32", "load", 32),
        ("ld1r {v0.4s}, [x1]", "load", 4),
        ("ld1 {v2.s}[1], [x1]", "load", 4),
        ("ld2 {v0.4s - v1.4s}, [x1]", "load", 32),
        ("st1 {v3.b}[7], [x1]", "store", 1),
        ("prfm pldl1keep, [x1]", "load", 0),
        ("sdot v1.4s, v19.16b, v4.16b", "vector", 0),
        ("umov w1, v2.b[0]", "vector", 0),
        ("fcvt s1, h2", "vector", 0),
        ("movi v1.4s, 0", "vector", 0),
        ("fmov w1, s2", "vector", 0),
        ("ins v1.s[1], w2", "vector", 0),
        ("fmov s1, w2", "scalar", 0),
        ("dup v1.4s, w2", "scalar", 0),
        ("add x1, x2, 3", "scalar", 0),
        ("cbnz x1, .L2", "branch", 0),
        ("tbz w1, 3, .L2", "branch", 0),
        ("bl other", "branch", 0),
    ],
)
def test_class_and_bytes(text: str, kind: str, size: int) -> None:
    """Every class and access size that the kernels use, from the instruction set's definition."""
    mnemonic, _, operands = text.partition(" ")
    insn = Insn(mnemonic, operands)
    assert (insn.kind, insn.memory_bytes) == (kind, size)


def test_increments_leave_out_registers_written_otherwise() -> None:
    text = [
        "add x1, x1, 36",
        "ldr q0, [x2], #-16",
        "ldr q0, [x3, 32]!",
        "mov x4, x5",
        "add x4, x4, 8",
        "sub x6, x6, #0x10",
    ]
    insns = [Insn(*line.split(" ", 1)) for line in text]
    assert asm.increments(insns) == {"x1": 36, "x2": -16, "x3": 32, "x6": -16}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: asm.parse_function(DOT, "absent"), "no function absent"),
        (lambda: asm.find_loop(asm.parse_function(DOT, "kernel"), "^fdiv", 0), "no loop with '\\^fdiv'"),
        (lambda: asm.find_loop(asm.parse_function(DOT, "kernel"), "^sdot", 1), "nesting level 1"),
        (lambda: asm.find_loop(asm.parse_function(DOT, "kernel"), "^sdot", 0, rank=2), "only 2 outermost loops"),
        (lambda: asm.find_loop(asm.parse_function(NEST, "nest"), "^sdot", 0).loop.linearise(), "holds 1 inner loops"),
        (
            lambda: asm.find_loop(asm.parse_function(NEST, "nest"), "^sdot", 0).loop.linearise((5,), "widest"),
            "allowed are",
        ),
        (lambda: asm.parse_function("f:\n\tb\t.L77\n\t.size f, 4\n", "f"), r"unknown label \.L77"),
        (lambda: asm.parse_function("f:\n\tb\t3f\n\t.size f, 4\n", "f"), "unknown local label 3f"),
        (lambda: asm.decode_word(0xD503201F), "not a signed dot product"),
    ],
)
def test_errors_name_what_was_looked_for(call: object, says: str) -> None:
    assert callable(call)
    with pytest.raises(AsmError, match=says):
        call()


@st.composite
def nests(draw: st.DrawFn) -> tuple[str, list[int], int]:
    """A random nest of bottom-tested loops: its assembly, the trip counts inside the outermost, and one iteration's
    length."""
    counts: list[int] = []
    lines: list[str] = []

    def level(depth: int) -> int:
        """Write one loop body; return the instructions of one iteration."""
        label = f".L{len(lines)}"
        lines.append(f"{label}:")
        mine = draw(st.integers(1, 4))
        lines.extend(["\tsdot\tv1.4s, v2.16b, v3.16b"] * mine)
        total = mine
        for _ in range(draw(st.integers(0, 2)) if depth < 2 else 0):
            trips = draw(st.integers(1, 5))
            counts.append(trips)
            total += trips * level(depth + 1)
            lines.append("\tadd\tx9, x9, 1")
            total += 1
        lines.extend(["\tsubs\tx1, x1, #1", f"\tbne\t{label}"])
        return total + 2

    length = level(0)
    return "f:\n\tmov\tx1, 5\n" + "\n".join(lines) + "\n\tret\n\t.size\tf, .-f\n", counts, length


@given(nests())
@settings(max_examples=60, deadline=None)
def test_random_nests_have_the_length_of_their_making(nest: tuple[str, list[int], int]) -> None:
    """Loops, nesting and repetition: the generator knows how many instructions one iteration executes."""
    text, counts, length = nest
    loop = asm.find_loop(asm.parse_function(text, "f"), "^sdot", 0).loop
    assert len(loop.linearise(counts)) == length
