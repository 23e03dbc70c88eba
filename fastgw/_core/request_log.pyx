"""sliding_log: a ring of entries in the table of bucket.pyx, one for each request that still counts, and one more that says
where the oldest is. See algorithms.pyx for what its words mean."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.bucket cimport EXHAUSTED, NO_ROOM, ROUNDS, TAKEN, BucketTable, Level, fgw_mix, fgw_pair, read, swap
from fastgw._core.clock cimport monotonic_ns

cdef uint64_t GOLDEN = <uint64_t>0x9e3779b97f4a7c15


cdef inline uint64_t _entry(uint64_t key, int64_t number) noexcept nogil:
    return fgw_mix(key ^ (<uint64_t>(number + 1) * GOLDEN))


cdef inline int64_t _end_of(BucketTable table, uint64_t key, int64_t number) noexcept nogil:
    """Until when the entry counts; 0: it is not there, hence over."""
    cdef uint64_t lo, hi, wanted = _entry(key, number)
    cdef fgw_pair *slot = table.find(wanted)
    if slot == NULL or not read(slot, &lo, &hi) or lo != wanted:
        return 0
    return <int64_t>hi


cdef inline int64_t _turn(int64_t requests) noexcept nogil:
    """The cursor's word: the multiple of this that is not less than the newest entry's end, and more, and the number of
    the oldest entry."""
    cdef int64_t turn = 1
    while turn < requests:
        turn *= 2
    return turn


cdef inline uint64_t _cursor(uint64_t word, int64_t turn, int64_t end, int64_t at) noexcept nogil:
    """The cursor's next word: greater than `word`, not less than `end`, at entry `at`."""
    cdef int64_t start = <int64_t>word - <int64_t>word % turn
    if start + at <= <int64_t>word:
        start += turn
    if start < end:
        start = end + turn - end % turn
    return <uint64_t>(start + at)


cdef void _log_level(BucketTable table, int64_t requests, uint64_t key, int64_t at, int64_t now,
                     Level *level) noexcept nogil:
    """How many entries are over: in the order of the ring, those come first."""
    cdef int64_t low = 0, high = requests, middle, end
    if _end_of(table, key, at) > now:
        high = 0                                       # the oldest is not over: none is
    while low < high:
        middle = (low + high) >> 1
        if _end_of(table, key, (at + middle) % requests) <= now:
            low = middle + 1
        else:
            high = middle
    level.remaining = low
    end = _end_of(table, key, (at + requests - 1) % requests)
    level.full_ns = end - now if end > now else 0


cdef bint _log_claim(BucketTable table, uint64_t key, int64_t number, int64_t *now, int64_t per, int *outcome) noexcept nogil:
    """Takes an entry that is over. False: it is not, or (`outcome`) there is no room."""
    cdef uint64_t lo, hi, wanted = _entry(key, number)
    cdef fgw_pair *slot = table.find(wanted)
    cdef int64_t clock
    if slot == NULL:
        slot = table.claim(wanted)
        if slot == NULL:
            outcome[0] = NO_ROOM
            return False
        clock = monotonic_ns()
        if clock > now[0]:
            now[0] = clock
    if not read(slot, &lo, &hi) or lo != wanted or <int64_t>hi > now[0]:
        return False
    return swap(slot, wanted, hi, wanted, <uint64_t>(now[0] + per))


cdef void _log_release(BucketTable table, uint64_t key, int64_t number, int64_t end, int64_t now) noexcept nogil:
    cdef uint64_t wanted = _entry(key, number)
    cdef fgw_pair *slot = table.find(wanted)
    if slot != NULL:
        swap(slot, wanted, <uint64_t>end, wanted, <uint64_t>now)


cdef int log_step(BucketTable table, int64_t requests, int64_t per, uint64_t key, int64_t cost, int64_t now, bint taking,
                  bint forced, Level *level) noexcept nogil:
    cdef fgw_pair *slot
    cdef uint64_t lo, hi
    cdef int64_t at, end, clock, turn = _turn(requests)
    cdef int64_t taken
    cdef int rounds, outcome
    for rounds in range(ROUNDS):
        slot = table.claim(key) if taking else table.find(key)
        at = 0
        hi = 0
        if slot == NULL:
            if taking:
                return NO_ROOM
        elif not read(slot, &lo, &hi) or lo != key:
            continue
        else:
            at = <int64_t>hi % turn % requests
            # the oldest, the one after it and the newest are looked at whatever comes of it
            table.prefetch(_entry(key, at))
            table.prefetch(_entry(key, (at + 1) % requests))
            table.prefetch(_entry(key, (at + requests - 1) % requests))
        if taking and cost > 1:
            # all have a place before the first is taken: what is taken has one and the same time
            for taken in range(cost):
                if table.find(_entry(key, (at + taken) % requests)) == NULL:
                    if table.claim(_entry(key, (at + taken) % requests)) == NULL:
                        return NO_ROOM
                    clock = monotonic_ns()
                    now = clock if clock > now else now
        level.delay_ns = 0
        level.retry_ns = 0
        level.mark = at
        taken = 0
        outcome = EXHAUSTED
        while taken < cost:
            end = _end_of(table, key, (at + taken) % requests)
            if end > now or (taking and not _log_claim(table, key, (at + taken) % requests, &now, per, &outcome)):
                break
            taken += 1
        level.now = now
        if taken == cost or (forced and outcome != NO_ROOM and taken):
            if taking and taken:
                swap(slot, key, hi, key, _cursor(hi, turn, now + per, (at + taken) % requests))
                at = (at + taken) % requests
            _log_level(table, requests, key, at, now, level)
            if not taking:
                level.remaining -= cost
            return TAKEN
        while taking and taken:
            taken -= 1
            _log_release(table, key, (at + taken) % requests, now + per, now)
        if outcome == NO_ROOM:
            return NO_ROOM
        end = _end_of(table, key, at)
        if end > now and requests > 1 and _end_of(table, key, (at + 1) % requests) < end:
            # whoever took it has not moved the cursor, or will not any more
            if slot == NULL:
                slot = table.claim(key)
                if slot == NULL:
                    return NO_ROOM
                continue
            swap(slot, key, hi, key, _cursor(hi, turn, end, (at + 1) % requests))
            continue
        if cost > 1:
            end = _end_of(table, key, (at + cost - 1) % requests)
        if end <= now and taking and not forced:
            continue                                   # somebody else took one of them at this moment
        _log_level(table, requests, key, at, now, level)
        level.retry_ns = end - now if end > now else 1
        return EXHAUSTED
    return NO_ROOM


cdef void log_undo(BucketTable table, int64_t requests, int64_t per, uint64_t key, int64_t cost,
                   const Level *level) noexcept nogil:
    """Gives back the entries that `log_step` took, which filled `level`."""
    cdef uint64_t lo, hi
    cdef int64_t i, turn = _turn(requests)
    cdef fgw_pair *slot = table.find(key)
    if slot == NULL:
        return
    for i in range(cost):
        _log_release(table, key, (level.mark + i) % requests, level.now + per, level.now)
    # the cursor goes back too, unless somebody has gone on from where we left it
    if read(slot, &lo, &hi) and lo == key and <int64_t>hi % turn == (level.mark + cost) % requests:
        swap(slot, key, hi, key, _cursor(hi, turn, level.now + per, level.mark))


cdef bint log_forget(BucketTable table, int64_t requests, uint64_t key) noexcept nogil:
    """None of its entries counts any more. False when the key is not there."""
    cdef int64_t i, end, now = monotonic_ns()
    if table.find(key) == NULL:
        return False
    for i in range(requests):
        end = _end_of(table, key, i)
        if end > now:
            _log_release(table, key, i, end, now)
    return True
