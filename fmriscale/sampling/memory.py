"""Memory that is looked up all over: in huge pages where it is large, and asked for before it is needed.

A look-up in memory that no cache knows costs twice: finding the page, and fetching the line. Pages of 2 MiB
in place of 4 KiB make the first rare; asking early lets the second go on beside other work.
"""

import mmap

import numpy as np
from llvmlite import ir
from numba import types  # pyright: ignore[reportPrivateImportUsage]
from numba.extending import intrinsic

LINE = 64
"""Bytes of a line of the processor's cache."""
HUGE_PAGE = 2 << 20
"""Bytes of a huge page."""


def zeros(n_bytes: int) -> np.ndarray:
    """Return bytes, all zero, that begin with a line of the cache; in huge pages as far as they fill some."""
    if n_bytes < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        raw = np.zeros(n_bytes + LINE, np.uint8)
        return raw[-raw.ctypes.data % LINE :][:n_bytes]
    pages = mmap.mmap(-1, n_bytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(pages, np.uint8)
    begin = -raw.ctypes.data % HUGE_PAGE  # what lies before is never touched, so it costs nothing
    return raw[begin : begin + n_bytes]


def together(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copy arrays into one piece of `zeros`, each at the beginning of a line."""
    sizes = [array.nbytes + -array.nbytes % LINE for array in arrays.values()]
    memory, first, copies = zeros(sum(sizes)), 0, {}
    for (name, array), size in zip(arrays.items(), sizes, strict=True):
        copies[name] = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
        copies[name][:] = array
        first += size
    return copies


@intrinsic
def prefetch(_context, _address):
    """Ask for the line of the cache that holds an address, without waiting for it."""

    def codegen(context, builder, _signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(ask, [pointer, number(0), number(3), number(1)])  # to be read, often, as data
        return context.get_dummy_value()

    return types.void(types.int64), codegen
