"""Memory of a process that computes for long: what it frees stays with it, in pages worth keeping."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's `mallopt` (malloc.h)."""
MADV_HUGEPAGE = 14
"""Advice of Linux' `madvise` (mman.h)."""
KEPT_BYTES = 2**29
"""Free memory that is not handed back; a step of the default experiment frees about a tenth of it."""
LARGEST_KEPT_BYTES = 2**25
"""Size of a buffer from which on it is mapped afresh each time; the most that glibc allows."""
PREPARED_BYTES = 2**28
"""Addresses that the heap takes at once for large pages; memory only as far as it is used."""
LARGE_PAGE_BYTES = 2**21
TOP_PAD_BYTES = 2**17
"""What glibc lets the heap grow by at least, unless told."""


def keep_freed_memory() -> bool:
    """Make glibc reuse freed buffers; return False where the C library is another one.

    By default it returns large buffers to the kernel, which clears every page before the next step gets it
    back: 400 to 14,000 page faults in every step of the reference, up to 60 ms of system time. A worker of
    Dask is told by its nanny to return everything at once (`MALLOC_TRIM_THRESHOLD_`), which doubles the time
    of a city's fit. It takes no more memory than a step needs at its peak.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    limits = {M_TRIM_THRESHOLD: KEPT_BYTES, M_MMAP_THRESHOLD: LARGEST_KEPT_BYTES}
    kept = all(library.mallopt(name, limit) == 1 for name, limit in limits.items())
    if kept:
        _grow_in_large_pages(library)
    return kept


def _grow_in_large_pages(library: ctypes.CDLL) -> None:
    """Let the heap grow once by `PREPARED_BYTES`, and ask the kernel for pages of 2 MiB there.

    A step walks through 60 MB, more small pages than a core remembers the places of: 4 % of its time. A
    kernel that does not know such pages, or keeps them from those who ask, gives small ones.
    """
    library.sbrk.restype, library.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    begin = library.sbrk(0)
    library.mallopt(M_TOP_PAD, PREPARED_BYTES)
    # So large that the heap grows, unless as much of it is free from the last time.
    library.free(library.malloc(LARGEST_KEPT_BYTES - LARGE_PAGE_BYTES))
    library.mallopt(M_TOP_PAD, TOP_PAD_BYTES)
    first = -(-begin // LARGE_PAGE_BYTES) * LARGE_PAGE_BYTES
    library.madvise(first, max(0, library.sbrk(0) - first), MADV_HUGEPAGE)
