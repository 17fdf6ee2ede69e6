"""Whether the simulated machine still does something."""

from typing import Callable, Optional, Sequence

BUSY_INSTRUCTIONS_PER_S = 30_000_000
"""Fewer on a core in a simulated second, and it idles: with nothing to run, Linux's timer ticks are 8 million a core
(measured), and a program that waits for memory all the time is at some hundred million."""

CHECKS = 10
"""Looks within the time after which a machine that idles is taken for hung."""

PS_PER_S = 1_000_000_000_000


class IdleWatch:
    """Notices that all cores have been idle for a simulated time.

    :param bound_ps: that time
    :param instructions: gives the instructions that each core has committed since it was made
    """

    def __init__(self, bound_ps: int, instructions: Callable[[], Sequence[int]]) -> None:
        self.interval_ps = max(1, bound_ps // CHECKS)
        self._bound_ps = bound_ps
        self._instructions = instructions
        self._last: Optional[Sequence[int]] = None
        self._last_ps = 0
        self._idle_since: Optional[int] = None

    def start(self, now_ps: int) -> None:
        """The simulation begins, or its cores have been replaced."""
        self._last, self._last_ps, self._idle_since = self._instructions(), now_ps, None

    def idle(self, now_ps: int) -> bool:
        """Look. :return: whether the machine has idled for the whole bound"""
        done = self._instructions()
        if self._last is None:
            self.start(now_ps)
            return False
        passed = now_ps - self._last_ps
        if passed <= 0:
            return False
        most = max(now - before for now, before in zip(done, self._last))
        busy = most * PS_PER_S >= BUSY_INSTRUCTIONS_PER_S * passed
        if busy:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = self._last_ps
        self._last, self._last_ps = done, now_ps
        return self._idle_since is not None and now_ps - self._idle_since >= self._bound_ps
