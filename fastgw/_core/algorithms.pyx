"""What a limit's word means, by algorithm, and several limits decided together.

Each limit keeps one 64-bit word for a key in the table of bucket.pyx, which changes by one compare-and-swap: a decision is
`weigh(word, cost, now)` → refused, or the word that takes its place. What all words have in common: one that is less than
the clock reading `now` means the same as none (*idle equals absent*), so the table may give its place away; and the value that
the table fills a new slot with, a clock reading, means that nothing was taken. C is the cost, N the requests, P the period.

    token_bucket     t: when the bucket is full again (GCRA, see bucket.pyx). Admitted if max(t, now) + C·I ≤ now + B·I
    leaky_bucket     the same with B = burst + queue; what is beyond the burst waits until its token is there
    fixed_window     (w + 1)·P + n      n of window w, n < P. Admitted if n + C ≤ N
    sliding_window   (w + 2)·P + n·(N + 1) + m      n of window w, m of the one before, (N + 1)² ≤ P.
                     Admitted if ⌈m · (rest of the window) / P⌉ + n + C ≤ N
    sliding_log      a ring of N words under keys of their own, t + P for a request at t; one more is where the oldest is.
                     Admitted if the oldest C are over. A word is taken again P after it was at the earliest: there are
                     never more than N within P, whatever its processes do. What is over needs no place in the table.
    concurrency      counts in a table of its own: see holds.pyx

Windows begin with those of the wall clock: `phase` is added to the monotonic one, by which everything is decided. A clock
reading that is older than the word's window counts in that window.

Several limits. `decide` first looks whether all would admit, and changes nothing when one would not. Then it takes of each in
turn; when one refuses now, because another process was faster, what was taken of those before is given back. So of a request that
is refused nothing stays charged, and never is more admitted than each limit allows; meanwhile a third request may find a
limit lower by what is about to be given back, and be refused although it need not be.

Giving back (`undo`) subtracts what was added as long as the word is of the same time (the bucket did not become idle, the window
is the same). If it is not, then what was taken does not count any more, and nothing is done.
"""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.bucket cimport (
    EXHAUSTED, NO_ROOM, ROUNDS, TAKEN, BucketTable, Level, fgw_pair, fgw_share, fgw_share_up, read, swap,
)
from fastgw._core.clock cimport monotonic_ns
from fastgw._core.holds cimport HoldTable
from fastgw._core.request_log cimport log_forget, log_step, log_undo

ALGORITHMS = ("token_bucket", "leaky_bucket", "fixed_window", "sliding_window", "sliding_log", "concurrency")

# ---------------------------------------------------------------------- one word


cdef inline int _weigh_bucket(const Limit *l, uint64_t word, int64_t cost, int64_t now, uint64_t *after,
                              Level *level) noexcept nogil:
    cdef int64_t tat = <int64_t>word if <int64_t>word > now else now
    cdef int64_t top = now + l.capacity * l.interval
    cdef int64_t want = tat + cost * l.interval
    if want > top and cost > 0:
        level.remaining = (top - tat) // l.interval if top > tat else 0
        level.full_ns = tat - now
        level.retry_ns = want - top
        return EXHAUSTED
    after[0] = <uint64_t>want
    level.remaining = (top - want) // l.interval if top > want else 0
    level.full_ns = want - now
    level.retry_ns = 0
    if l.algorithm == LEAKY_BUCKET and level.full_ns > l.burst * l.interval:
        level.delay_ns = level.full_ns - l.burst * l.interval
    return TAKEN


cdef inline int _weigh_fixed(const Limit *l, uint64_t word, int64_t cost, int64_t now, uint64_t *after,
                             Level *level) noexcept nogil:
    cdef int64_t at = now + l.phase, window = at // l.per, count = 0
    cdef int64_t its = <int64_t>word // l.per - 1
    if its >= window:
        window = its
        count = <int64_t>word % l.per
    level.full_ns = (window + 1) * l.per - at
    if count + cost > l.requests and cost > 0:
        level.remaining = l.requests - count if l.requests > count else 0
        level.retry_ns = level.full_ns
        return EXHAUSTED
    after[0] = <uint64_t>((window + 1) * l.per + count + cost)
    level.remaining = l.requests - count - cost if l.requests > count + cost else 0
    level.retry_ns = 0
    return TAKEN


cdef inline void _sliding(const Limit *l, uint64_t word, int64_t now, int64_t *window, int64_t *count,
                          int64_t *before) noexcept nogil:
    """The window that is now, what came in it, and in the one before."""
    cdef int64_t its = <int64_t>word // l.per - 2, both = <int64_t>word % l.per
    window[0] = (now + l.phase) // l.per
    count[0] = before[0] = 0
    if its >= window[0]:
        window[0] = its
        count[0] = both // (l.requests + 1)
        before[0] = both % (l.requests + 1)
    elif its == window[0] - 1:
        before[0] = both // (l.requests + 1)


cdef inline int64_t _sliding_wait(const Limit *l, int64_t room, int64_t before) noexcept nogil:
    """How much of a window may at most be left for `before` requests of the one before to be `room` at most."""
    if room >= before:
        return l.per
    return fgw_share(room, l.per, before) if room > 0 else 0


cdef int _weigh_sliding(const Limit *l, uint64_t word, int64_t cost, int64_t now, uint64_t *after,
                        Level *level) noexcept nogil:
    cdef int64_t window, count, before, rest, weighed
    _sliding(l, word, now, &window, &count, &before)
    rest = (window + 1) * l.per - now - l.phase
    if rest > l.per:
        rest = l.per                              # the clock reading is older than the window
    weighed = fgw_share_up(before, rest, l.per)
    level.full_ns = rest if before else 0
    if count:
        level.full_ns = rest + l.per
    if weighed + count + cost > l.requests and cost > 0:
        level.remaining = l.requests - weighed - count
        if level.remaining < 0:
            level.remaining = 0
        if count + cost <= l.requests:
            level.retry_ns = rest - _sliding_wait(l, l.requests - count - cost, before)
        else:
            level.retry_ns = rest + l.per - _sliding_wait(l, l.requests - cost, count)
        return EXHAUSTED
    count += cost
    after[0] = <uint64_t>((window + 2) * l.per + count * (l.requests + 1) + before)
    if count:
        level.full_ns = rest + l.per
    level.remaining = l.requests - weighed - count
    if level.remaining < 0:
        level.remaining = 0
    level.retry_ns = 0
    return TAKEN


cdef inline int _weigh(const Limit *l, uint64_t word, int64_t cost, int64_t now, uint64_t *after,
                       Level *level) noexcept nogil:
    level.now = now
    level.delay_ns = level.mark = 0
    if l.algorithm <= LEAKY_BUCKET:
        return _weigh_bucket(l, word, cost, now, after, level)
    if l.algorithm == FIXED_WINDOW:
        return _weigh_fixed(l, word, cost, now, after, level)
    return _weigh_sliding(l, word, cost, now, after, level)


cdef uint64_t _charged(const Limit *l, uint64_t word, int64_t cost, int64_t now) noexcept nogil:
    """The word when `cost` is taken whether it is there or not. A bucket goes as far as once its capacity below empty."""
    cdef int64_t window, count, before, tat, most
    if l.algorithm <= LEAKY_BUCKET:
        tat = <int64_t>word if <int64_t>word > now else now
        most = now + 2 * l.capacity * l.interval
        if tat >= most:
            return <uint64_t>tat
        if cost > 2 * l.capacity:
            cost = 2 * l.capacity
        tat += cost * l.interval
        return <uint64_t>(tat if tat < most else most)
    if cost > l.requests:
        cost = l.requests
    if l.algorithm == FIXED_WINDOW:
        window = (now + l.phase) // l.per
        count = 0
        if <int64_t>word // l.per - 1 >= window:
            window = <int64_t>word // l.per - 1
            count = <int64_t>word % l.per
        count = count + cost if count + cost < l.requests else l.requests
        return <uint64_t>((window + 1) * l.per + count)
    _sliding(l, word, now, &window, &count, &before)
    count = count + cost if count + cost < l.requests else l.requests
    return <uint64_t>((window + 2) * l.per + count * (l.requests + 1) + before)


cdef int _step(BucketTable table, const Limit *l, uint64_t key, int64_t cost, int64_t now, bint forced,
               Level *level) noexcept nogil:
    cdef fgw_pair *slot
    cdef uint64_t lo, hi, after = 0
    cdef int64_t clock
    cdef int rounds
    for rounds in range(ROUNDS):
        slot = table.find(key)
        if slot == NULL:
            slot = table.claim(key)
            if slot == NULL:
                return NO_ROOM
            clock = monotonic_ns()
            if clock > now:
                now = clock
        if not read(slot, &lo, &hi) or lo != key:
            continue                           # it was reclaimed: look again
        if forced:
            after = _charged(l, hi, cost, now)
        elif _weigh(l, hi, cost, now, &after, level) == EXHAUSTED:
            return EXHAUSTED
        if after == hi:
            return TAKEN
        if swap(slot, key, hi, key, after):
            level.mark = <int64_t>after
            return TAKEN
    return NO_ROOM


# ---------------------------------------------------------------------- one limit, whatever it is


cdef int take(BucketTable table, HoldTable holds, const Limit *limit, uint64_t hash, int64_t cost, int64_t now,
              Level *level) noexcept nogil:
    """Takes `cost`, or nothing: bucket.Taken. Fills `level`. `cost` is at most the limit's capacity."""
    cdef uint64_t key = key_of(limit, hash)
    level.mark = 0
    if limit.algorithm == CONCURRENCY:
        return holds.take(key, limit.requests, now, True, level)
    if cost == 0:
        return peek(table, holds, limit, hash, 0, now, level)
    if limit.algorithm == SLIDING_LOG:
        return log_step(table, limit.requests, limit.per, key, cost, now, True, False, level)
    return _step(table, limit, key, cost, now, False, level)


cdef int peek(BucketTable table, HoldTable holds, const Limit *limit, uint64_t hash, int64_t cost, int64_t now,
              Level *level) noexcept nogil:
    """What `take` would answer; changes nothing."""
    cdef uint64_t lo, hi, after, key = key_of(limit, hash)
    cdef fgw_pair *slot
    if limit.algorithm == CONCURRENCY:
        return holds.take(key, limit.requests, now, False, level)
    if limit.algorithm == SLIDING_LOG:
        return log_step(table, limit.requests, limit.per, key, cost, now, False, False, level)
    slot = table.find(key)
    if slot == NULL or not read(slot, &lo, &hi) or lo != key:
        hi = 0
    return _weigh(limit, hi, cost, now, &after, level)


cdef void undo(BucketTable table, HoldTable holds, const Limit *limit, uint64_t hash, int64_t cost,
               Level *level) noexcept nogil:
    """Gives back what a `take` took, which filled `level`."""
    cdef uint64_t lo, hi, key = key_of(limit, hash)
    cdef fgw_pair *slot
    cdef int64_t back
    cdef int rounds
    if limit.algorithm == CONCURRENCY:
        holds.give(level.mark)
        return
    if cost == 0:
        return
    if limit.algorithm == SLIDING_LOG:
        log_undo(table, limit.requests, limit.per, key, cost, level)
        return
    slot = table.find(key)
    if slot == NULL:
        return
    if level.mark == 0:
        return
    for rounds in range(ROUNDS):
        if not read(slot, &lo, &hi) or lo != key:
            return
        if limit.algorithm <= LEAKY_BUCKET:
            # only while it cannot have become idle since: then somebody may have begun anew from a full bucket
            if monotonic_ns() >= level.mark:
                return
            back = cost * limit.interval
        elif <int64_t>hi // limit.per != level.mark // limit.per:
            return
        elif limit.algorithm == FIXED_WINDOW:
            back = cost
        else:
            back = cost * (limit.requests + 1)
        if swap(slot, key, hi, key, hi - <uint64_t>back):
            return


cdef int charge(BucketTable table, const Limit *limit, uint64_t hash, int64_t cost, int64_t now,
                Level *level) noexcept nogil:
    """Takes `cost` afterwards, also what is not there: see `_charged`; of a log as many entries as are free. `level` is as
    it is then."""
    cdef uint64_t key = key_of(limit, hash)
    cdef int outcome = TAKEN
    if limit.algorithm == CONCURRENCY:
        return TAKEN
    if limit.algorithm == SLIDING_LOG:
        log_step(table, limit.requests, limit.per, key, cost if cost < limit.requests else limit.requests, now, True, True,
                 level)
    else:
        outcome = _step(table, limit, key, cost, now, True, level)
    peek(table, None, limit, hash, 0, now, level)
    return outcome


cdef bint forget(BucketTable table, const Limit *limit, uint64_t hash) noexcept nogil:
    """The key is as if it had never come. False when it is not there. Requests under way stay counted."""
    cdef uint64_t lo, hi, key = key_of(limit, hash)
    cdef fgw_pair *slot
    cdef int64_t now = monotonic_ns()
    cdef int rounds
    if limit.algorithm == CONCURRENCY:
        return False
    if limit.algorithm == SLIDING_LOG:
        return log_forget(table, limit.requests, key)
    slot = table.find(key)
    if slot == NULL:
        return False
    for rounds in range(ROUNDS):
        if not read(slot, &lo, &hi) or lo != key:
            return False
        if <int64_t>hi <= now or swap(slot, key, hi, key, <uint64_t>now):
            return True
    return False


# ---------------------------------------------------------------------- several limits


# Where a limit's word is, what it was, and what takes its place; no slot: it is looked for again.
ctypedef struct Found:
    fgw_pair *slot
    uint64_t key
    uint64_t word
    uint64_t after


cdef inline int _look(BucketTable table, HoldTable holds, const Limit *limit, uint64_t hash, int64_t cost, int64_t now,
                      Found *found, Level *level) noexcept nogil:
    """As `peek`, and remembers what it was decided on."""
    cdef uint64_t lo
    found.slot = NULL
    if limit.algorithm > SLIDING_WINDOW:
        return peek(table, holds, limit, hash, cost, now, level)
    found.key = key_of(limit, hash)
    found.slot = table.find(found.key)
    if found.slot == NULL or not read(found.slot, &lo, &found.word) or lo != found.key:
        found.slot = NULL
        found.word = 0
    return _weigh(limit, found.word, cost, now, &found.after, level)


cdef int decide(BucketTable table, HoldTable holds, const Limit *limits, int count, uint64_t hash, int64_t cost,
                int64_t now, Verdict *verdict) noexcept nogil:
    """All of them, or none. `verdict.levels` are filled for all, unless there was no room."""
    cdef Found found[MAX_LIMITS]
    cdef int i, j, outcome
    verdict.which = -1
    verdict.delay_ns = 0
    if count == 1:
        outcome = take(table, holds, limits, hash, cost, now, &verdict.levels[0])
        verdict.outcome = outcome
        if outcome != TAKEN:
            verdict.which = 0
        else:
            verdict.delay_ns = verdict.levels[0].delay_ns
        return outcome
    for i in range(count):
        outcome = _look(table, holds, &limits[i], hash, cost, now, &found[i], &verdict.levels[i])
        if outcome == NO_ROOM:
            continue                              # `take` says so
        if outcome == EXHAUSTED and (
                verdict.which < 0 or verdict.levels[i].retry_ns > verdict.levels[verdict.which].retry_ns):
            verdict.which = i
    if verdict.which >= 0:
        for i in range(count):
            # of those that would have admitted it nothing was taken
            peek(table, holds, &limits[i], hash, cost if i == verdict.which else 0, now, &verdict.levels[i])
        verdict.outcome = EXHAUSTED
        return EXHAUSTED
    for i in range(count):
        if found[i].slot != NULL and cost and swap(found[i].slot, found[i].key, found[i].word, found[i].key,
                                                   found[i].after):
            # the word is still the one that was looked at
            verdict.levels[i].mark = <int64_t>found[i].after
        else:
            outcome = take(table, holds, &limits[i], hash, cost, now, &verdict.levels[i])
            if outcome != TAKEN:
                verdict.which = i
                for j in range(i):
                    undo(table, holds, &limits[j], hash, cost, &verdict.levels[j])
                verdict.outcome = outcome
                verdict.delay_ns = 0
                return outcome
        if verdict.levels[i].delay_ns > verdict.delay_ns:
            verdict.delay_ns = verdict.levels[i].delay_ns
    verdict.outcome = TAKEN
    return TAKEN


cdef int set_limit(Limit *limit, BucketTable table, str algorithm, int64_t requests, int64_t per, int64_t burst,
                   int64_t queue, int64_t delay, bytes name) except -1:
    """`per` and `delay` in ns; `name` tells the limit from all others of the host. ValueError for what cannot be counted.

    The words of windows depend on `requests` and `per`, so another number begins anew; a bucket's level stays."""
    cdef int64_t waiting
    limit.algorithm = ALGORITHMS.index(algorithm)
    limit.requests = limit.capacity = limit.burst = requests
    limit.per = per
    limit.interval = limit.phase = 0
    if requests < 1 or per < 1 or queue < 0 or delay < 0:
        raise ValueError("a limit has 1 request at least, and some time for it")
    if limit.algorithm <= LEAKY_BUCKET:
        # rounded up to a whole nanosecond: never more than was asked for
        limit.interval = (per + requests - 1) // requests
        limit.burst = limit.capacity = burst
        if limit.algorithm == LEAKY_BUCKET:
            waiting = delay // limit.interval
            limit.capacity += queue if queue < waiting else waiting
        if burst < 1 or limit.capacity > 2_000_000_000_000_000_000 // limit.interval:
            raise ValueError("the burst would take more than half a century to fill again")
    elif limit.algorithm <= SLIDING_WINDOW:
        limit.phase = table.epoch % per
        if requests > per // 10 or (limit.algorithm == SLIDING_WINDOW and requests > 3_000_000_000 // 2) or (
                limit.algorithm == SLIDING_WINDOW and (requests + 1) * (requests + 1) > per):
            raise ValueError("too many requests for so short a window")
    elif limit.algorithm == SLIDING_LOG and requests > MAX_LOG:
        raise ValueError(f"a log has {MAX_LOG} requests at most")
    elif limit.algorithm == CONCURRENCY and requests > MAX_HELD:
        raise ValueError(f"{MAX_HELD} requests under way at most")
    parts = (algorithm, requests, per) if FIXED_WINDOW <= limit.algorithm <= SLIDING_LOG else (algorithm,)
    full = name + repr(parts).encode()
    limit.salt = table.hash(full, len(full))
    return 0


cdef class One:
    """One limit, for tools and tests: `One(table, holds, algorithm, requests, per_ns, burst, queue, delay_ns, name)`."""

    def __init__(self, BucketTable table not None, HoldTable holds, str algorithm, int64_t requests, int64_t per,
                 int64_t burst=0, int64_t queue=0, int64_t delay=0, bytes name=b""):
        self.table = table
        self.holds = holds
        set_limit(&self.limit, table, algorithm, requests, per, burst or requests, queue, delay, name)
        if self.limit.algorithm == CONCURRENCY and holds is None:
            raise ValueError("concurrency is counted in a HoldTable")

    @property
    def phase(self):
        return self.limit.phase

    @property
    def interval(self):
        return self.limit.interval

    cdef object _told(self, int outcome, Level *level):
        if outcome == NO_ROOM:
            return None
        return (outcome == TAKEN, level.remaining, level.full_ns, level.retry_ns, level.delay_ns, level.now, level.mark)

    def take(self, uint64_t key, now=None, int64_t cost=1):
        """(admitted, remaining, full_ns, retry_ns, delay_ns, the clock reading it was decided at, mark); None: no room."""
        cdef Level level
        cdef int64_t at = monotonic_ns() if now is None else now
        return self._told(take(self.table, self.holds, &self.limit, key, cost, at, &level), &level)

    def peek(self, uint64_t key, now=None, int64_t cost=1):
        cdef Level level
        cdef int64_t at = monotonic_ns() if now is None else now
        return self._told(peek(self.table, self.holds, &self.limit, key, cost, at, &level), &level)

    def charge(self, uint64_t key, now=None, int64_t cost=1):
        cdef Level level
        cdef int64_t at = monotonic_ns() if now is None else now
        return self._told(charge(self.table, &self.limit, key, cost, at, &level), &level)

    def undo(self, uint64_t key, int64_t cost, int64_t now, int64_t mark):
        """Of a `take` that told this `now` and `mark`."""
        cdef Level level
        level.now = now
        level.mark = mark
        undo(self.table, self.holds, &self.limit, key, cost, &level)

    def forget(self, uint64_t key):
        return forget(self.table, &self.limit, key)


def take_all(list ones not None, uint64_t key, now=None, int64_t cost=1):
    """Several limits over one table: (outcome, which refuses or -1). For tests."""
    cdef Limit limits[MAX_LIMITS]
    cdef Verdict verdict
    cdef int i
    cdef One one = ones[0]
    if len(ones) > MAX_LIMITS:
        raise ValueError("too many limits")
    for i in range(len(ones)):
        limits[i] = (<One>ones[i]).limit
    decide(one.table, one.holds, limits, len(ones), key, cost, monotonic_ns() if now is None else now, &verdict)
    return verdict.outcome, verdict.which
