"""A `PlanSpec` in a memory file, written once and read by every worker.

The file is mapped and not read: routes and the routing table stay where they are until the build comes to them, so
that a worker does not stop for ten thousand routes at once.

    uint64 n, then n + 1 uint64 lengths    of the parts that follow
    part 0                                 control.dumps of the PlanSpec without the two below
    part 1                                 PlanSpec.router
    parts 2 …                              PlanSpec.chunks
"""

from __future__ import annotations

import mmap
import pickle
from array import array
from dataclasses import replace

from fastgw.plan import PlanSpec
from fastgw.server import control


def write(spec: PlanSpec) -> int:
    """A memfd; the caller closes it."""
    parts = [control.dumps(replace(spec, router=b"", chunks=[])), spec.router, *spec.chunks]
    lengths = array("Q", (len(parts) - 1, *map(len, parts)))
    return control.memory_file(b"".join((lengths.tobytes(), *parts)))


def read(fd: int) -> PlanSpec:
    """The descriptor may be closed afterwards."""
    view = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
    (count,) = view[:8].cast("Q")
    lengths = view[8 : 8 * (count + 2)].cast("Q")
    at = 8 * (count + 2)
    parts = []
    for length in lengths:
        parts.append(view[at : at + length])
        at += length
    spec: PlanSpec = pickle.loads(parts[0])
    spec.router, *spec.chunks = parts[1:]
    return spec
