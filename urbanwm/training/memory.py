"""Memory that a training step frees stays with the process: the next step needs it again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt` (malloc.h)."""
KEPT_BYTES = 2**29
"""Free memory that is not handed back; a step of the default experiment frees about a tenth of it."""
LARGEST_KEPT_BYTES = 2**25
"""Size of a buffer from which on it is mapped afresh each time; the most that glibc allows."""


def keep_freed_memory() -> bool:
    """Make glibc reuse freed buffers; return False where the C library is another one.

    By default it returns large buffers to the kernel, which clears every page before the next step gets it
    back: 400 to 14,000 page faults in every step of the reference, up to 60 ms of system time. It takes no
    more memory than a step needs at its peak.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    limits = {M_TRIM_THRESHOLD: KEPT_BYTES, M_MMAP_THRESHOLD: LARGEST_KEPT_BYTES}
    return all(library.mallopt(name, limit) == 1 for name, limit in limits.items())
