"""Interleaved timing: every round runs every job once, so that a busy moment hits all of them alike.

Seconds are processor time of this process, which runs on one thread: on an idle machine that is the clock on
the wall, on a shared one it leaves out what others took.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Job = Callable[[], object]


@dataclass(frozen=True)
class Rounds:
    """Seconds of each job in each round; jobs of one round ran side by side and may be compared.

    Attributes:
        seconds: Per job, one value per round.
    """

    seconds: Mapping[str, list[float]]

    def milliseconds(self, name: str) -> float:
        """Return the median time of a job."""
        return round(1e3 * statistics.median(self.seconds[name]), 3)

    def ratio(self, name: str, over: str) -> float:
        """Return the median over the rounds of `name`'s time over that of `over`."""
        pairs = zip(self.seconds[name], self.seconds[over], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    def rates(self, name: str, amount: float) -> list[float]:
        """Return `amount` per second of a job, per round."""
        return [amount / value for value in self.seconds[name]]


def interleave(jobs: Mapping[str, Job], rounds: int, warm_up: int = 1) -> Rounds:
    """Time the jobs in turn, `rounds` times; the first `warm_up` rounds are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for counted in range(-warm_up, rounds):
        for name, job in jobs.items():
            begin = time.process_time()
            job()
            taken = time.process_time() - begin
            if counted >= 0:
                seconds[name].append(taken)
    return Rounds(seconds)


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median over the rounds of one rate divided by another."""
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)


def load_average() -> float:
    """Return the machine's load over the last minute: figures taken beside other work say so."""
    return round(os.getloadavg()[0], 2)
