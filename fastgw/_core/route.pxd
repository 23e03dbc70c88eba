"""Stage `route`: the radix router. One table in C memory, no Python object per route."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgw._core.exchange cimport MAX_CAPTURES, Capture
from fastgw._core.headers cimport Head

cpdef enum:
    MAX_DEPTH = 128              # segments looked at one by one; the rest of a deeper path is prefix matter

cdef enum:
    MAX_STEPS = 4096             # nodes visited for one request, whatever the table and the path

ctypedef struct Match:
    int status                   # 200, 404, 405, or 308: the path with the other trailing slash is there
    int route                    # index in the plan, -1
    int n_captures
    Capture captures[MAX_CAPTURES]         # offsets within the path

# A node of the tree over path segments. Chains are indexes + 1, 0 is the end.
ctypedef struct Node:
    uint32_t exact, exact_tail       # entries of routes that end here
    uint32_t prefix, prefix_tail     # entries of routes that go on with "/*"
    uint32_t params                  # edges of parameters, those with a regex first
    uint32_t regexes, regexes_tail   # at a root: entries whose whole path is a regex

ctypedef struct Edge:                # one literal child; open addressing over (node, segment)
    uint32_t node                    # + 1, 0 is free
    uint32_t child
    uint32_t text, text_len
    uint64_t hash

ctypedef struct Param:
    int32_t regex                    # -1: any segment that is not empty
    uint32_t child
    uint32_t next

ctypedef struct Entry:
    uint64_t methods                 # bit per index of headers.METHODS; 0 = all
    uint32_t route
    uint32_t next
    uint32_t predicates, n_predicates
    int32_t regex                    # whole-path regex, -1
    uint8_t slash                    # 1: this is the other form of its path, answer 308

ctypedef struct Predicate:
    uint8_t kind, op
    uint32_t name, name_len
    uint32_t value, value_len
    int32_t regex

ctypedef struct Query:               # one look-up under way
    const char *host
    const char *path
    uint32_t path_len
    const char *query
    uint32_t query_len
    const uint8_t *address
    int method
    int steps
    bint collect                     # only gather the methods that would do
    uint64_t allowed


cdef class Table:
    """An array of structs that grows, and can be written out."""
    cdef char *p
    cdef uint32_t n, cap, size
    cdef int _room(self, uint32_t more) except -1
    cdef uint32_t add(self) except 0xffffffff
    cdef int put(self, const char *data, uint32_t bytes_) except -1


cdef class Router:
    cdef Table nodes, edges, params, entries, predicates, text
    cdef readonly list patterns          # regexes as bytes
    cdef dict pattern_ids
    cdef dict last_own                   # node → its last exact entry that is no slash form, where it has slash forms
    cdef list compiled                   # re2 objects, None until compile()
    cdef uint32_t edge_count
    cdef bint has_exact_hosts, has_wild_hosts
    cdef readonly int routes
    cdef uint32_t _child(self, uint32_t node, const char *text, uint32_t n, bint make) except 0xffffffff
    cdef int _grow_edges(self) except -1
    cdef int _append(self, uint32_t *first, uint32_t *tail, uint32_t made) noexcept
    cdef int _insert(self, uint32_t *first, uint32_t before, uint32_t made) noexcept
    cdef int match(self, Head head, const char *host, size_t host_len, const char *path, size_t path_len,
                   const char *query, size_t query_len, const uint8_t *client_addr, Match *out) except -1
    cdef bytes allowed(self, Head head, const char *host, size_t host_len, const char *path, size_t path_len,
                       const char *query, size_t query_len, const uint8_t *client_addr)
    cdef int _search(self, Head head, Query *q, const char *host, size_t host_len, Match *out) except -1
    cdef int _root(self, Head head, Query *q, uint32_t root, Match *out) except -1
    cdef int _walk(self, Head head, Query *q, uint32_t node, uint32_t at, int depth, bint is_root, Match *out) except -1
    cdef int _entries(self, Head head, Query *q, uint32_t chain, Match *out) except -1
    cdef int _regexes(self, Head head, Query *q, uint32_t chain, Match *out) except -1
    cdef bint _holds(self, Head head, Query *q, Entry *entry) except -1
    cdef bint _predicate(self, Head head, Query *q, Predicate *p) except -1
    cdef bint _value(self, Predicate *p, const char *value, size_t n) except -1
    cdef bint _query_param(self, Query *q, Predicate *p) except -1
    cdef bint _cookie(self, Head head, Predicate *p) except -1
