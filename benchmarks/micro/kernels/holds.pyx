"""holds: a place taken and given back."""
from fastgw._core.bucket cimport Level
from fastgw._core.holds cimport HoldTable


def take_and_give(long n):
    cdef HoldTable table = HoldTable.private(1024)
    cdef Level level
    cdef long i
    for i in range(n):
        table.take(<unsigned long>(i & 255) + 1, 10, 0, True, &level)
        table.give(level.mark)
    assert table.under_way() == 0


CASES = [("take and give", take_and_give)]
