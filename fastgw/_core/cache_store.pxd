"""The storage of the HTTP cache: answers in memory that all workers of a host share. It knows nothing of HTTP.

Usage, from C:

    key = storage.key(name, n)
    if storage.look(key, name, n, &found) == LOOK_HIT:      # pinned: readable until `release`, whatever happens to it
        … found.head, found.head_len; piece by piece of the body: storage.piece(&found, at, &n) …
        storage.release(&found)
    elif storage.claim(key, lease, &claim) == CLAIM_MINE:   # look once more: who had the claim may have filled meanwhile
        … asks the upstream …
        storage.begin(&fill, key, …); storage.append(&fill, …)*; storage.finish(&fill) or storage.drop(&fill)
        storage.unclaim(&claim)

Every call is short and none waits for longer than LOCK_WAIT. To be called with the GIL held. Times are the wall clock in ns,
unless they are called monotonic.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgw._core.cache_layout cimport META, Memory

cdef enum LookResult:
    LOOK_MISS = 0
    LOOK_HIT = 1

cdef enum ClaimResult:
    CLAIM_MINE = 0           # also when it cannot be noted: then nobody waits for it, and claim.cell is -1
    CLAIM_OTHERS = 1         # somebody fetches it

cdef enum FillResult:        # all but FILL_OK: the fill is over, nothing is kept of it
    FILL_OK = 0
    FILL_NO_ROOM = 1
    FILL_TOO_LARGE = 2       # name and head together over HEAD_MOST, the body over `largest`, or tags over TAGS_MOST
    FILL_CUT = 3             # finish: another length than was expected
    FILL_PURGED = 4          # finish: purged while it was filled, or after it was asked for

cdef enum FreshenResult:
    FRESHEN_GONE = 0         # it is not that version any more
    FRESHEN_OK = 1
    FRESHEN_TIMES = 2        # times and meta are new, the head is the old one: there was no room for another

cdef enum:
    HEAD_MOST = 65536
    TAGS_MOST = 128

cdef int64_t LOCK_WAIT       # ns

ctypedef struct Key:
    uint64_t hi
    uint64_t lo

ctypedef struct Found:
    uint32_t entry           # 0: nothing is held
    uint32_t run             # where `piece` was last, so that reading in order costs no search
    uint64_t run_at
    uint64_t version
    int64_t stored
    int64_t expires
    int64_t keep_until
    uint8_t meta[META]
    const char *head
    uint32_t head_len
    uint64_t body_len

ctypedef struct Times:
    int64_t stored
    int64_t expires          # fresh until; a soft purge makes it 0
    int64_t keep_until       # useless after: it may be evicted before all others; `look` finds it still
    int64_t asked            # monotonic: when the upstream was asked; purges since then hold for the answer. 0: now

ctypedef struct Claim:
    Key key
    uint64_t serial
    int cell                 # -1: not noted

ctypedef struct Fill:
    uint32_t entry           # 0: none is under way
    uint32_t run
    uint64_t version
    uint64_t body_len        # so far
    int64_t expected         # -1: not known
    int64_t asked
    int64_t own              # as `asked`, for purges of this host alone: of what another one stored
    char *at
    size_t room
    bint promoted            # set after `begin`: it comes from a slower level, and gives way to what is there at `finish`


cdef class Storage:
    cdef object memory
    cdef readonly object owner
    cdef public object disk              # what all processes know of the level on disk; None: there is none
    cdef Memory m
    cdef readonly int process            # -1: not attached: everything misses, nothing is kept
    cdef readonly uint64_t largest       # bytes of a body
    cdef uint32_t left[64]               # fills that could not be dropped when they should
    cdef int left_count
    cdef void _drop_left(self) noexcept nogil
    cdef Key key(self, const char *p, size_t n) noexcept nogil
    cdef uint64_t tag(self, const char *p, size_t n) noexcept nogil
    cdef int look(self, Key key, const char *name, size_t n, Found *found) noexcept nogil
    cdef const char* piece(self, Found *found, uint64_t at, size_t *n) noexcept nogil   # NULL at the end
    cdef void release(self, Found *found) noexcept nogil                                # harmless when nothing is held
    cdef int claim(self, Key key, int64_t lease_ns, Claim *claim) noexcept nogil
    cdef bint claimed(self, Key key) noexcept nogil                                     # without the lock, for polling
    cdef void unclaim(self, Claim *claim) noexcept nogil
    # `meta`: META bytes. `tags`: as `tag` gives them
    cdef int begin(self, Fill *fill, Key key, const char *name, size_t n, const char *head, size_t head_len,
                   const uint8_t *meta, const Times *times, const uint64_t *tags, size_t n_tags,
                   int64_t expected) noexcept nogil
    cdef int append(self, Fill *fill, const char *p, size_t n) noexcept nogil
    cdef int finish(self, Fill *fill) noexcept nogil
    cdef void drop(self, Fill *fill) noexcept nogil                                     # harmless when none is under way
    # `head` NULL: the head stays
    cdef int freshen(self, Key key, uint64_t version, const char *head, size_t head_len, const uint8_t *meta,
                     const Times *times) noexcept nogil
    # by the exact name of the primary key, with all its variants: how many; -1: the lock could not be had
    cdef int64_t purge_name(self, const char *name, size_t n, bint soft) noexcept nogil
    cdef bint lock(self, int64_t wait) noexcept nogil
    cdef void unlock(self) noexcept nogil
    cdef int _grow(self, Fill *fill, size_t more) noexcept nogil
    cdef int _begin(self, Fill *fill, Key key, const char *name, size_t n, const char *head, size_t head_len,
                    const uint8_t *meta, const Times *times, const uint64_t *tags, size_t n_tags,
                    int64_t expected) noexcept nogil
    cdef void _give_up(self, Fill *fill) noexcept nogil
    cdef bint _replace_head(self, uint32_t entry, const char *head, size_t head_len) noexcept nogil
