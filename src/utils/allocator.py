"""How the C library is to treat freed memory."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
LARGEST_INT = 2**31 - 1
LARGEST_HEAP_BLOCK = 2**30  # bytes; larger ones are mapped and given back
LARGEST_OF_OLDER = 2**25  # that older versions take, which refuse more


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for the next allocation, where it is glibc.

    By default it hands large blocks back to the system, and every tensor of some megabytes costs a page fault
    per 4 KiB when it is written for the first time: thousands in each gradient step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        if not mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK):
            mallopt(M_MMAP_THRESHOLD, LARGEST_OF_OLDER)
        mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
