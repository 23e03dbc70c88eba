"""The shared memory of the cache: where what lies, and what its words mean."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "cache_shared.h":
    uint32_t fgw_load32(const uint32_t *p) noexcept nogil
    void fgw_store32(uint32_t *p, uint32_t v) noexcept nogil
    uint64_t fgw_load64(const uint64_t *p) noexcept nogil
    void fgw_store64(uint64_t *p, uint64_t v) noexcept nogil
    uint16_t fgw_load16(const uint16_t *p) noexcept nogil
    void fgw_store16(uint16_t *p, uint16_t v) noexcept nogil
    void fgw_add64(uint64_t *p, uint64_t v) noexcept nogil
    int fgw_cas32(uint32_t *p, uint32_t have, uint32_t want) noexcept nogil
    void fgw_fence() noexcept nogil
    void fgw_fence_loads() noexcept nogil
    void fgw_fence_stores() noexcept nogil
    int FGW_LOCKED, FGW_OWNER_DIED, FGW_NOT_LOCKED
    int fgw_mutex_format(void *place) noexcept nogil
    int fgw_mutex_lock(void *place, int64_t wait, uint64_t *waited) noexcept nogil
    void fgw_mutex_consistent(void *place) noexcept nogil
    void fgw_mutex_unlock(void *place) noexcept nogil
    uint64_t fgw_life(uint32_t pid) noexcept nogil
    int fgw_gone(uint32_t pid) noexcept nogil
    void fgw_siphash128(const void *p, size_t n, uint64_t k0, uint64_t k1, uint64_t *lo, uint64_t *hi) noexcept nogil

cdef enum:
    BLOCK = 512              # bytes: the smallest run
    MAX_ORDER = 9            # the largest run is 512 blocks, 256 KiB
    MAX_RUN = 512
    RUN_FREE = 0x80          # in `order`: a free run begins here
    RUN_KEPT = 0x40          # while the memory is put in order after a crash
    PROCESSES = 544          # that may have the memory at a time: two gateways of 256 workers during an upgrade
    META = 64
    PURGES = 8192            # that are remembered for answers which were asked for before
    NEWS = 16384             # answers stored lately, for who follows them
    CLAIM_WAYS = 8
    FREQ_MOST = 15

cdef enum EntryState:
    FREE = 0
    FILLING = 1              # its owner writes it; in no list
    LIVE = 2                 # in the index, in a queue, in the lists of its tags
    DEAD = 3                 # replaced, purged or evicted while somebody reads it
    FREEING = 4              # nobody can reach it any more

cdef enum QueueName:
    NO_QUEUE = 0
    SMALL = 1                # what came in, until it is asked for again
    MAIN = 2

cdef enum PurgeKind:
    PURGE_ALL = 1
    PURGE_KEY = 2            # and its variants
    PURGE_PREFIX = 3
    PURGE_TAG = 4

ctypedef struct Entry:
    uint64_t hi              # the key
    uint64_t lo
    uint64_t version         # no two fills have the same
    uint32_t state
    uint32_t seq             # odd while times, meta and head are changed in place
    int64_t stored           # wall clock, ns, all three
    int64_t expires
    int64_t keep_until
    uint32_t name_len
    uint32_t head_len
    uint64_t body_len        # 64
    uint32_t first           # run with the name, the head, and the beginning of the body; 0: none
    uint32_t head_run        # where the head is that came with a revalidation; 0: in `first`
    uint32_t retired         # runs of heads before that; they go with the entry, or when nobody reads
    uint32_t body_at         # in `first`
    uint32_t blocks          # of all its runs
    uint32_t chain           # the next of its bucket
    uint32_t next            # of its queue; of the dead; of the free
    uint32_t prev
    uint32_t tags            # its first tag node
    uint32_t owner           # the process that fills it
    uint8_t freq             # uses, up to FREQ_MOST, halved with every epoch
    uint8_t queue
    uint8_t epoch            # of `freq`
    uint8_t spare[5]
    uint64_t spare_word
    uint8_t meta[META]

ctypedef struct Node:        # one tag of one entry
    uint64_t tag
    uint32_t entry
    uint32_t next            # of the same bucket
    uint32_t prev
    uint32_t sibling         # the next of the same entry; of the free

ctypedef struct ClaimCell:
    uint64_t hi
    uint64_t lo
    int64_t until            # monotonic, ns; 0: free
    uint32_t owner
    uint32_t pid
    uint64_t serial

ctypedef struct Purge:
    int64_t at               # monotonic, ns
    uint64_t tag             # the hash: of a key, a tag, or a prefix
    uint32_t kind
    uint32_t soft
    uint32_t n               # bytes of the prefix
    uint32_t foreign         # it came from another host

ctypedef struct News:        # an answer that was stored
    uint64_t hi
    uint64_t lo
    uint64_t version
    uint64_t purges          # so many there had been before
    uint32_t entry
    uint32_t promoted        # it came from a level behind the memory

ctypedef struct Process:
    uint32_t pid             # 0: free
    uint32_t spare
    uint64_t began           # as `fgw_life` tells it: a number that is used again is another process
    uint64_t hits
    uint64_t misses
    uint64_t waits           # for the lock, in vain
    uint64_t waited          # ns, for the lock
    uint64_t pad[2]

ctypedef struct Head:
    char magic[8]
    uint64_t memory          # bytes that were asked for
    uint64_t entries         # records, the first of which is none
    uint64_t blocks          # of which the first MAX_RUN are never used
    uint64_t seed[2]
    uint64_t mark[2]         # how far the purges of other hosts were read
    uint8_t lock[64]
    # written by who holds the lock
    uint64_t version         # the last one given
    uint64_t serial          # of claims
    uint32_t index_seq       # counts what left the index; odd while it is built anew
    uint32_t entry_free
    uint32_t entry_end       # records from here on were never used
    uint32_t block_end       # likewise blocks
    uint32_t free_blocks
    uint32_t live
    uint32_t filling
    uint32_t dead
    uint32_t dead_first      # entries that wait for their readers
    uint32_t dead_last
    uint32_t small_first     # newest
    uint32_t small_last
    uint32_t main_first
    uint32_t main_last
    uint32_t small_blocks
    uint32_t main_blocks
    uint32_t main_count
    uint32_t small_tick      # evictions from either queue
    uint32_t main_tick
    uint32_t small_share     # of the blocks, in parts of 2**32
    uint32_t hand            # the next of the main queue to be looked at; 0: its oldest
    uint32_t epoch
    uint32_t node_free
    uint32_t node_end
    uint32_t nodes_used
    uint32_t processes_end
    uint32_t free[16]        # by order: the first free run
    uint64_t evictions
    uint64_t expirations     # evicted when they were useless already
    uint64_t fills
    uint64_t refused         # no room, too large, too many tags
    uint64_t purges
    uint64_t purged          # entries
    uint64_t recoveries
    uint64_t ghost_hits
    uint64_t epoch_end       # of `evictions`
    uint64_t body_bytes
    uint64_t purge_at        # purges that were remembered
    uint64_t gone_hits       # of processes that are gone
    uint64_t gone_misses
    uint64_t gone_waits
    uint64_t gone_waited
    # for the level on disk, whose writer follows what is stored and purged
    uint64_t news_at         # that were noted
    uint64_t news_read       # of which the writer has seen so many,
    uint64_t purges_read     # and so many of `purge_at`
    uint32_t followed        # whether news are noted at all

ctypedef struct Memory:      # of one process: where things are
    Head *head
    Process *processes
    Entry *entries
    uint32_t *buckets
    uint64_t *ghosts
    uint32_t *tag_buckets
    Node *nodes
    ClaimCell *claims
    Purge *purges
    News *news
    uint32_t *link           # of blocks: the next run of a chain, or of a free list
    uint32_t *prev           # of a free list
    uint8_t *order
    char *data
    uint16_t *pins           # PROCESSES rows of `entries` counts
    uint32_t bucket_mask     # of buckets, ghosts (of 4), and buckets of tags
    uint32_t claim_mask
    uint32_t node_count
    uint32_t entry_count
    uint32_t block_count

cdef uint64_t lay(Memory *m, char *base, uint64_t memory, uint64_t entries) except? 0
cdef uint64_t entries_for(uint64_t memory) noexcept nogil
cdef bint pinned(Memory *m, uint32_t entry) noexcept nogil

cdef inline uint32_t* bucket_of(Memory *m, uint64_t lo) noexcept nogil:
    return &m.buckets[<uint32_t>lo & m.bucket_mask]
