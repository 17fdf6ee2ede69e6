"""Counting the hits of SAIL's Pattern Reuse Table (PRT) on quantised activations.

SAIL evaluates a matrix-vector product bit-serially: for each weight group of NBW consecutive elements along k, and for
each activation bit from the least significant up, the NBW activation bits (two's complement) are a pattern that selects
one LUT entry. The PRT remembers recent (weight group, pattern) results; a hit skips the C-SRAM access.

Stated here, as no public source gives it (facts: arXiv 2509.25853, and a third-party review for the 32 entries):

* Groups restart at every scale block, as the partial sum must be scaled there. Where NBW does not divide the block,
  the block's last group is short; it is one lookup per bit like any other. (A k-quant's weights have sub-blocks of 16
  or 32 inside the activations' 256; hardware that restarts there has more short groups when NBW does not divide them.)
* A result belongs to its weight group, so a pattern can only hit within the same group. Scope "vector": reuse only
  among the bit planes of one activation vector. Scope "group": the whole batch runs through a group before the next
  group starts (vector after vector, each least significant bit first), so reuse also crosses the batch's vectors.
* Fully associative, least recently used entry replaced, each miss fills an entry. Entries of an earlier group never hit
  and are older than all of the current group's, so emptying the table between groups would change nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_NBW = 8


def n_groups(k: int, nbw: int, block: int) -> int:
    """Weight groups of NBW elements along k when groups restart at every scale block of ``block`` elements."""
    full, rest = divmod(k, block)
    return int(full * -(-block // nbw) + -(-rest // nbw))


def group_patterns(integers: NDArray[np.int8], nbw: int, bits: int, block: int) -> NDArray[np.uint8]:
    """Patterns uint8 [m, groups, bits] of quantised activations int8 [m, k], least significant bit first.

    Bit i of a pattern is the activation bit of the group's i-th element; a short group's upper bits are 0.
    Raises ValueError when nbw is outside 1..8 or an integer does not fit ``bits`` bits.
    """
    if not 1 <= nbw <= MAX_NBW:
        raise ValueError(f"nbw: expected 1..{MAX_NBW}, got {nbw}")
    limit = 2 ** (bits - 1)
    if integers.size and (integers.min() < -limit or integers.max() >= limit):
        raise ValueError(f"activations: expected {bits}-bit integers, got {integers.min()}..{integers.max()}")
    m, k = integers.shape
    raw = integers.view(np.uint8)
    pieces = []
    for start, stop in ((0, k - k % block), (k - k % block, k)):
        if start == stop:
            continue
        length = min(block, stop - start)
        tiles = raw[:, start:stop].reshape(m, -1, length)
        per_block = -(-length // nbw)
        padded = np.zeros((m, tiles.shape[1], per_block * nbw), dtype=np.uint8)
        padded[..., :length] = tiles
        pieces.append(padded.reshape(m, -1, nbw))
    elements = np.concatenate(pieces, axis=1)
    patterns = np.zeros((m, elements.shape[1], bits), dtype=np.uint8)
    for bit in range(bits):
        for i in range(nbw):
            patterns[..., bit] |= ((elements[..., i] >> bit) & 1) << i
    return patterns


def batch_sequences(patterns: NDArray[np.uint8], batch: int) -> NDArray[np.uint8]:
    """Lookup order of scope "group": [m, groups, bits] -> [m / batch, groups, batch * bits].

    Consecutive vectors form a batch. ValueError when batch does not divide m.
    """
    m, groups, bits = patterns.shape
    if batch < 1 or m % batch:
        raise ValueError(f"batch: expected a divisor of {m} vectors, got {batch}")
    by_batch = patterns.reshape(m // batch, batch, groups, bits).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(by_batch).reshape(m // batch, groups, batch * bits)


def seen_masks(patterns: NDArray[np.uint8], nbw: int) -> NDArray[np.uint64]:
    """Which patterns each group of each vector shows: [m, groups, bits] -> bit sets uint64 [m, groups, words]."""
    words = max(1, 2**nbw // 64)
    masks = np.zeros((*patterns.shape[:2], words), dtype=np.uint64)
    for bit in range(patterns.shape[-1]):
        plane = patterns[..., bit]
        flag = np.left_shift(np.uint64(1), (plane & 63).astype(np.uint64))
        for word in range(words):
            masks[..., word] |= flag if words == 1 else np.where(plane >> 6 == word, flag, np.uint64(0))
    return masks


def popcount(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number of set bits of each 64-bit word (the usual pairwise sums; numpy has bitwise_count only from 2.0 on)."""
    ones, pairs = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
    nibbles, bytes_ = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
    words = words - ((words >> np.uint64(1)) & ones)
    words = (words & pairs) + ((words >> np.uint64(2)) & pairs)
    words = (words + (words >> np.uint64(4))) & nibbles
    return ((words * bytes_) >> np.uint64(56)).astype(np.int64)


def lru_hits(sequences: NDArray[np.uint8], entries: int) -> NDArray[np.int64]:
    """Hits of each sequence in an LRU table of 1..255 entries: [..., n] lookups -> [...].

    All sequences advance together, one lookup a step.
    """
    if not 1 <= entries <= 255:
        raise ValueError(f"entries: expected 1..255, got {entries}")
    lanes = np.ascontiguousarray(sequences.reshape(-1, sequences.shape[-1]).T)
    hits = np.zeros(lanes.shape[1], dtype=np.int64)
    # So many lanes at a time that their stacks stay in the CPU's cache.
    stretch = 16384
    for first in range(0, lanes.shape[1], stretch):
        hits[first : first + stretch] = _lru_stretch(lanes[:, first : first + stretch], entries)
    return hits.reshape(sequences.shape[:-1])


def _lru_stretch(lanes: NDArray[np.uint8], entries: int) -> NDArray[np.int64]:
    """Hits [width] of lookups [steps, width]: a recency stack a lane, byte masks (0 or 255) instead of branches."""
    steps, width = lanes.shape
    # Empty levels hold 255. Where 255 is a pattern too, it "matches" the first empty level, which is where a new
    # entry stops shifting the others anyway; `filled` tells such a match from a hit.
    stack = np.full((min(entries, steps), width), 255, dtype=np.uint8)
    filled = np.zeros(width, dtype=np.uint8)
    hits = np.zeros(width, dtype=np.int64)
    for step in range(steps):
        wanted = lanes[step]
        carry = wanted.copy()
        searching = np.full(width, 255, dtype=np.uint8)
        depth = np.zeros(width, dtype=np.uint8)
        for level, here in enumerate(stack):
            differs = np.negative((here != wanted).view(np.uint8))
            swap = here ^ carry
            swap &= searching
            here ^= swap
            carry ^= swap
            searching &= differs
            depth -= searching  # adds 1 modulo 256 where the mask is 255
            if level % 4 == 3 and not searching.any():
                break
        hit = depth < filled
        hits += hit
        filled += ~hit & (filled < len(stack))
    return hits


class GroupLookups:
    """The lookups of one matmul input, ready to be counted for several batch and table sizes.

    Built from quantised activations int8 [m, k] (see `group_patterns`).
    """

    def __init__(self, integers: NDArray[np.int8], nbw: int, bits: int, block: int) -> None:
        self.nbw, self.bits = nbw, bits
        self.patterns = group_patterns(integers, nbw, bits, block)
        self._masks = seen_masks(self.patterns, nbw)

    def hit_rates(self, batch: int, entries: tuple[int, ...]) -> NDArray[np.float64]:
        """Hits / lookups of each batch of consecutive vectors: [len(entries), m / batch]. Scope "vector" is batch 1.

        A table that holds all of a group's distinct patterns misses once for each; only groups with more of them than
        entries are simulated.
        """
        sequences = batch_sequences(self.patterns, batch)
        sets, groups, lookups = sequences.shape
        seen = np.bitwise_or.reduce(self._masks.reshape(sets, batch, groups, -1), axis=1)
        distinct = popcount(seen).sum(axis=-1)
        out = np.zeros((len(entries), sets), dtype=np.float64)
        for row, size in enumerate(entries):
            hits = lookups - distinct
            overflowing = distinct > size
            if overflowing.any():
                hits[overflowing] = lru_hits(sequences[overflowing], size)
            out[row] = hits.sum(axis=-1) / (groups * lookups)
        return out
