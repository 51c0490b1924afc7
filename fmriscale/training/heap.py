"""Memory of tensors on a CPU: this process keeps what it has freed, in large pages."""

import contextlib
import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of the parameters in glibc's malloc.h."""
KEPT, SHARED = 2**31 - 1, 2**30
"""Freed bytes that may stay with the process; smallest block that is a mapping of its own."""


def keep_pages() -> None:
    """Let tensors take the place of those before them, instead of new pages from the system.

    A step frees and takes the same activations again and again. By itself glibc gives their memory back
    and asks for it anew, and the system then clears thousands of pages in every step. Large pages spare
    most look-ups of addresses. Results are the same. To be called before the first tensor is made:
    torch reads the environment once. Where the C library is another one, it is left as it is.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, SHARED)
        mallopt(TRIM_THRESHOLD, KEPT)
