"""The index of the cache's level on disk: memory that all processes of a host share."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    META = 64

ctypedef struct Slot:
    uint64_t hi
    uint64_t lo
    uint64_t serial          # no two have the same; 0: it is dead
    uint64_t offset          # of its record in the file with the answers
    uint64_t size
    uint64_t purges          # those before it
    uint64_t nodes           # position of its first one
    uint32_t n_nodes
    uint32_t segment
    uint32_t at              # of its record in the file with the names
    uint32_t until           # seconds since 1970: useless after
    uint32_t stale
    uint32_t chain           # the next of its bucket

ctypedef struct Node:
    uint64_t tag
    uint32_t slot            # 0: in no list
    uint32_t next
    uint32_t prev
    uint32_t spare

ctypedef struct Head:
    uint64_t slots
    uint64_t slot_first      # positions, which only grow
    uint64_t slot_end
    uint64_t node_first
    uint64_t node_end
    uint64_t serial
    int64_t purged_until     # monotonic, ns: purges before it are done here
    uint32_t open
    uint32_t spare
    uint64_t counters[32]

ctypedef struct Record:
    # as it stands in the files, little-endian; name and hashes of tags follow, up to a multiple of 8
    uint32_t mark
    uint32_t state           # changes in place, in the file with the names
    uint64_t check           # of all that follows
    uint32_t length          # with name and tags
    uint32_t body_check      # CRC-32 of head and body
    uint64_t hi
    uint64_t lo
    uint32_t segment
    uint32_t head_len
    uint64_t offset
    uint64_t body_len
    int64_t stored
    int64_t expires
    int64_t keep_until
    uint32_t name_len
    uint32_t n_tags
    uint8_t meta[META]


cdef class DiskIndex:
    cdef object memory
    cdef Head *head
    cdef Slot *slots
    cdef uint32_t *buckets
    cdef uint32_t *tags
    cdef Node *nodes
    cdef uint64_t count, node_count
    cdef uint32_t mask
    cdef uint64_t seed[2]
    cdef uint32_t _find(self, uint64_t hi, uint64_t lo) noexcept
    cdef void _kill(self, uint32_t at) noexcept
    cdef bint _put(self, Record *r, const uint64_t *tags, uint64_t size, uint32_t at, uint64_t purges) noexcept
    cdef uint32_t _after(self, uint32_t node, uint32_t at) noexcept
