"""Stage `route`: the radix router. One table in C memory, no Python object per route.

The tree is over path segments. Literal children live in one hash table keyed by node and segment, so a look-up costs
one probe per segment however many routes there are. Precedence: exact host, longest wildcard, no host; per segment
literal, parameter with a regex, parameter; at the root then whole-path regexes; then the prefix. Among routes of one
path the one with more predicates comes first, then file order (the caller adds them in that order). The search backs
up fully, within MAX_STEPS nodes.

The whole table can be written to one block of bytes and read back: one process compiles, the others load.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.headers cimport H_COOKIE, H_ORIGIN, H_USER_AGENT, Head, Header, equals_lower, method_id

import pickle

from fastgw._core.headers import METHODS

cdef enum:
    OPTIONS = 6
    HEAD_METHOD = 1

cdef enum PredicateKind:
    P_HEADER
    P_QUERY
    P_COOKIE
    P_AGENT_CLASS
    P_AGENT
    P_ADDRESS

cdef enum PredicateOp:
    O_EXACT
    O_REGEX
    O_PRESENT
    O_ABSENT

KINDS = {"header": P_HEADER, "query": P_QUERY, "cookie": P_COOKIE, "agent_class": P_AGENT_CLASS, "agent": P_AGENT,
         "address": P_ADDRESS}
OPS = {"exact": O_EXACT, "regex": O_REGEX, "present": O_PRESENT, "absent": O_ABSENT}

# Pseudo-nodes under which hosts are looked up in the table of edges.
cdef enum:
    EXACT_HOST = 0x7ffffffe
    WILD_HOST = 0x7ffffffd

BOTS = (b"bot", b"crawl", b"spider", b"slurp", b"facebookexternalhit", b"archiver")
TOOLS = (b"curl/", b"wget/", b"httpie/", b"python-", b"okhttp/", b"go-http-client/", b"postmanruntime/", b"java/",
         b"apache-httpclient/", b"axios/", b"node-fetch/", b"libwww-perl/", b"ruby", b"insomnia/", b"grpc-")
MOBILES = (b"mobile", b"android", b"iphone", b"ipad")


def agent_class(agent):
    """`bot`, `tool`, `mobile` or `desktop` (a browser that is not mobile); "" for anything else."""
    lower = bytes(agent).lower()
    if any(word in lower for word in BOTS):
        return "bot"
    if lower.startswith(TOOLS):
        return "tool"
    if any(word in lower for word in MOBILES):
        return "mobile"
    return "desktop" if lower.startswith(b"mozilla/") else ""


cdef class Table:
    def __cinit__(self, uint32_t size):
        self.size = size
        self.cap = 64
        self.p = <char*>malloc(<size_t>self.cap * size)
        if self.p == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.p)

    cdef int _room(self, uint32_t more) except -1:
        cdef char *grown
        cdef size_t cap = self.cap
        if self.n + more <= self.cap:
            return 0
        while cap < self.n + more:
            cap = cap * 3 // 2 + 16
        grown = <char*>realloc(self.p, cap * self.size)
        if grown == NULL:
            raise MemoryError()
        self.p = grown
        self.cap = cap
        return 0

    cdef uint32_t add(self) except 0xffffffff:
        """The index of a new item, all zero."""
        self._room(1)
        memset(self.p + <size_t>self.n * self.size, 0, self.size)
        self.n += 1
        return self.n - 1

    cdef int put(self, const char *data, uint32_t bytes_) except -1:
        """For text: the offset at which it now stands."""
        cdef uint32_t at = self.n
        self._room(bytes_)
        memcpy(self.p + at, data, bytes_)
        self.n += bytes_
        return at

    def dump(self):
        return PyBytes_FromStringAndSize(self.p, <size_t>self.n * self.size)

    def load(self, bytes data):
        cdef uint32_t n = PyBytes_GET_SIZE(data) // self.size
        self.n = 0
        self._room(n)
        memcpy(self.p, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        self.n = n


cdef inline uint64_t _hash(uint32_t node, const char *p, uint32_t n) noexcept nogil:
    """FNV-1a over eight bytes at a time with a final mix: a table hash, chosen for short segments."""
    cdef uint64_t h = 0xcbf29ce484222325u ^ (<uint64_t>node * 0x9e3779b97f4a7c15u), word
    while n >= 8:
        memcpy(&word, p, 8)
        h = (h ^ word) * 0x9fb21c651e98df25u
        h ^= h >> 32
        p += 8
        n -= 8
    word = n
    while n:
        n -= 1
        word = (word << 8) | <unsigned char>p[n]
    h = (h ^ word) * 0x9fb21c651e98df25u
    # short segments differ in their high bytes only: without these two lines a thousand of them share slots
    h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93u
    return h ^ (h >> 32)


cdef class Router:
    """Made by `add()` in order of precedence among equal paths, or by `load()` from the bytes of `dump()`."""

    def __init__(self):
        self.nodes = Table(sizeof(Node))
        self.edges = Table(sizeof(Edge))
        self.params = Table(sizeof(Param))
        self.entries = Table(sizeof(Entry))
        self.predicates = Table(sizeof(Predicate))
        self.text = Table(1)
        self.patterns = []
        self.pattern_ids = {}
        self.compiled = []
        self.last_own = {}
        self.nodes.add()                      # node 0: the root without a host
        self.params.add()                     # index 0 is the end of a chain
        self.entries.add()
        self.edges._room(64)
        self.edges.n = 64
        memset(self.edges.p, 0, 64 * sizeof(Edge))

    # ------------------------------------------------------------------ building

    cdef int _grow_edges(self) except -1:
        cdef Table old = self.edges
        cdef Table bigger = Table(sizeof(Edge))
        cdef uint32_t n = old.n * 2, i, mask = old.n * 2 - 1
        cdef uint64_t at
        cdef Edge *from_ = <Edge*>old.p
        cdef Edge *to
        bigger._room(n)
        bigger.n = n
        memset(bigger.p, 0, <size_t>n * sizeof(Edge))
        to = <Edge*>bigger.p
        for i in range(old.n):
            if from_[i].node:
                at = from_[i].hash & mask
                while to[at].node:
                    at = (at + 1) & mask
                to[at] = from_[i]
        self.edges = bigger
        return 0

    cdef uint32_t _child(self, uint32_t node, const char *text, uint32_t n, bint make) except 0xffffffff:
        """The node behind a literal segment, + 1; 0 when there is none."""
        cdef uint64_t h = _hash(node, text, n)
        cdef uint32_t mask = self.edges.n - 1
        cdef uint64_t at = h & mask
        cdef Edge *edges = <Edge*>self.edges.p
        cdef uint32_t child
        while edges[at].node:
            if edges[at].hash == h and edges[at].node == node + 1 and edges[at].text_len == n \
                    and memcmp(self.text.p + edges[at].text, text, n) == 0:
                return edges[at].child + 1
            at = (at + 1) & mask
        if not make:
            return 0
        child = self.nodes.add()
        edges[at].node = node + 1
        edges[at].child = child
        edges[at].text = self.text.put(text, n)
        edges[at].text_len = n
        edges[at].hash = h
        self.edge_count += 1
        if self.edge_count * 2 > self.edges.n:
            self._grow_edges()
        return child + 1

    def _pattern(self, pattern):
        raw = pattern.encode() if isinstance(pattern, str) else pattern
        found = self.pattern_ids.setdefault(raw, len(self.patterns))
        if found == len(self.patterns):
            self.patterns.append(raw)
            self.compiled.append(None)
        return found

    def root(self, bytes host):
        """The root of a host: `b""` for none, `b"*.example.com"` for a wildcard."""
        cdef uint32_t found
        if not host:
            return 0
        if host.startswith(b"*."):
            self.has_wild_hosts = True
            found = self._child(WILD_HOST, PyBytes_AS_STRING(host) + 1, PyBytes_GET_SIZE(host) - 1, True)
        else:
            self.has_exact_hosts = True
            found = self._child(EXACT_HOST, PyBytes_AS_STRING(host), PyBytes_GET_SIZE(host), True)
        return found - 1

    def add(self, int route, hosts, list segments, str kind, methods, list predicates, slash="strict",
            regex=None):
        """One route. `segments` are ("literal", bytes), ("param", None) or ("regex", pattern); `kind` is "exact",
        "prefix" or "regex" (then `regex` is the whole path's). `predicates` are (kind, op, name, value) with bytes;
        an address predicate's value is 17 bytes per network (address as IPv6, prefix length).
        """
        cdef uint64_t bits = 0
        cdef uint32_t node, at = self.predicates.n
        cdef bytes text
        cdef Predicate *p
        cdef int32_t compiled
        for name in methods:
            bits |= <uint64_t>1 << METHODS.index(name)
        for what, op, name, value in predicates:
            compiled = self._pattern(value) if op == "regex" else -1
            self.predicates.add()
            # put() may move the text only, add() the predicates only
            p = <Predicate*>self.predicates.p + (self.predicates.n - 1)
            p.kind = KINDS[what]
            p.op = OPS[op]
            p.regex = compiled
            p.name_len = len(name)
            p.name = self.text.put(PyBytes_AS_STRING(name), len(name))
            p.value_len = len(value)
            p.value = self.text.put(PyBytes_AS_STRING(value), len(value))
        for host in hosts or (b"",):
            node = self.root(host)
            if kind == "regex":
                self._entry(node, "regex", route, bits, at, len(predicates), self._pattern(regex), 0)
                continue
            node = self._path(node, segments)
            self._entry(node, kind, route, bits, at, len(predicates), -1, 0)
            if kind == "exact" and slash != "strict" and segments:
                last = len(segments) - 1          # not -1: this module is compiled without wraparound
                other = segments[:last] if segments[last] == ("literal", b"") else [*segments, ("literal", b"")]
                if other:
                    node = self._path(self.root(host), other)
                    # the paths that routes have themselves come before the other forms, whatever the order
                    self.last_own.setdefault(node, (<Node*>self.nodes.p + node).exact_tail)
                    self._entry(node, "slashed", route, bits, at, len(predicates), -1, 1 if slash == "redirect" else 0)
        self.routes = max(self.routes, route + 1)

    def _path(self, uint32_t node, list segments):
        cdef bytes text
        for what, value in segments:
            if what == "literal":
                text = value
                node = self._child(node, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), True) - 1
            else:
                node = self._param(node, -1 if what == "param" else self._pattern(value))
        return node

    def _param(self, uint32_t node, int32_t regex):
        cdef Node *parent = <Node*>self.nodes.p + node
        cdef uint32_t at = parent.params, last = 0, child, made
        cdef Param *p
        while at:
            p = <Param*>self.params.p + at
            if p.regex == regex:
                return p.child
            if p.regex < 0:
                break                         # the plain one stays last
            last = at
            at = p.next
        child = self.nodes.add()
        made = self.params.add()
        p = <Param*>self.params.p + made
        p.regex = regex
        p.child = child
        p.next = at
        if last:
            (<Param*>self.params.p)[last].next = made
        else:
            (<Node*>self.nodes.p)[node].params = made
        return child

    def _entry(self, uint32_t node, str kind, int route, uint64_t methods, uint32_t predicates, int n_predicates,
               int32_t regex, int slash):
        cdef uint32_t made = self.entries.add()
        cdef Entry *entries = <Entry*>self.entries.p
        cdef Node *n = <Node*>self.nodes.p + node
        cdef Entry *entry = &entries[made]
        entry.route = route
        entry.methods = methods
        entry.predicates = predicates
        entry.n_predicates = n_predicates
        entry.regex = regex
        entry.slash = slash
        if kind == "exact" and node in self.last_own:
            self._insert(&n.exact, self.last_own[node], made)
            self.last_own[node] = made
        elif kind == "exact" or kind == "slashed":
            self._append(&n.exact, &n.exact_tail, made)
        elif kind == "prefix":
            self._append(&n.prefix, &n.prefix_tail, made)
        else:
            self._append(&n.regexes, &n.regexes_tail, made)

    cdef int _append(self, uint32_t *first, uint32_t *tail, uint32_t made) noexcept:
        """An entry behind the last of its chain."""
        if tail[0]:
            (<Entry*>self.entries.p)[tail[0]].next = made
        else:
            first[0] = made
        tail[0] = made
        return 0

    cdef int _insert(self, uint32_t *first, uint32_t before, uint32_t made) noexcept:
        """An entry behind a certain one of its chain (0: as the first), which is not the last."""
        cdef Entry *entries = <Entry*>self.entries.p
        entries[made].next = entries[before].next if before else first[0]
        if before:
            entries[before].next = made
        else:
            first[0] = made
        return 0

    # ------------------------------------------------------------------ writing and reading

    def dump(self):
        """The whole table as bytes."""
        return pickle.dumps((
            [table.dump() for table in (self.nodes, self.edges, self.params, self.entries, self.predicates, self.text)],
            self.patterns, self.edge_count, self.has_exact_hosts, self.has_wild_hosts, self.routes,
        ), pickle.HIGHEST_PROTOCOL)

    @classmethod
    def load(cls, data):
        """A Router from the bytes of `dump()`; its regexes are compiled by `compile()`."""
        cdef Router router = Router()
        tables, router.patterns, router.edge_count, exact, wild, router.routes = pickle.loads(data)
        router.has_exact_hosts = exact
        router.has_wild_hosts = wild
        for table, content in zip((router.nodes, router.edges, router.params, router.entries, router.predicates,
                                   router.text), tables):
            table.load(content)
        router.compiled = [None] * len(router.patterns)
        return router

    def compile(self, compile_one):
        """A generator: makes the regexes with `compile_one(pattern)`, one per step."""
        for index, pattern in enumerate(self.patterns):
            if self.compiled[index] is None:
                self.compiled[index] = compile_one(pattern)
                yield

    def __repr__(self):
        return f"<Router {self.routes} routes, {self.nodes.n} nodes, {len(self.patterns)} regexes>"

    # ------------------------------------------------------------------ looking up

    cdef int match(self, Head head, const char *host, size_t host_len, const char *path, size_t path_len,
                   const char *query, size_t query_len, const uint8_t *client_addr, Match *out) except -1:
        cdef Query q
        cdef Header *wanted
        q.path = path
        q.path_len = path_len
        q.query = query
        q.query_len = query_len
        q.address = client_addr
        q.steps = 0
        q.collect = False
        q.allowed = 0
        q.method = head.method
        if q.method == OPTIONS and head.find_id(H_ORIGIN) != NULL:
            # a CORS pre-flight asks for the route of the request that is to come
            wanted = head.find(b"access-control-request-method", 29)
            if wanted != NULL:
                q.method = method_id(head.buf + wanted.value, wanted.value_len)
        out.n_captures = 0
        out.route = -1
        if self._search(head, &q, host, host_len, out):
            return 0
        out.status = 405 if q.allowed and q.steps <= MAX_STEPS else 404
        return 0

    cdef bytes allowed(self, Head head, const char *host, size_t host_len, const char *path, size_t path_len,
                       const char *query, size_t query_len, const uint8_t *client_addr):
        """For Allow: the methods that routes of this path take, e.g. b"GET, HEAD, OPTIONS"."""
        cdef Query q
        cdef Match out
        cdef int i
        q.path = path
        q.path_len = path_len
        q.query = query
        q.query_len = query_len
        q.address = client_addr
        q.steps = 0
        q.collect = True
        q.allowed = 0
        q.method = -1
        out.n_captures = 0
        self._search(head, &q, host, host_len, &out)
        if q.allowed & 1:
            q.allowed |= <uint64_t>1 << HEAD_METHOD
        q.allowed |= <uint64_t>1 << OPTIONS
        return b", ".join([METHODS[i].encode() for i in range(len(METHODS)) if (q.allowed >> i) & 1])

    cdef int _search(self, Head head, Query *q, const char *host, size_t host_len, Match *out) except -1:
        """Exact host, then wildcards from the longest, then routes without a host."""
        cdef char lower[256]
        cdef size_t i, n = 0
        cdef uint32_t root
        cdef unsigned char c
        if self.has_exact_hosts or self.has_wild_hosts:
            for i in range(host_len):
                c = <unsigned char>host[i]
                if c == c":" and host[0] != c"[":
                    break
                if n == 255:
                    n = 0
                    break
                lower[n] = c | 0x20 if c"A" <= c <= c"Z" else c
                n += 1
                if c == c"]":
                    break
            if n and lower[n - 1] == c".":
                n -= 1
            if n and self.has_exact_hosts:
                root = self._child(EXACT_HOST, lower, n, False)
                if root and self._root(head, q, root - 1, out):
                    return 1
            if n and self.has_wild_hosts:
                for i in range(1, n):
                    if lower[i] == c".":
                        root = self._child(WILD_HOST, lower + i, n - i, False)
                        if root and self._root(head, q, root - 1, out):
                            return 1
        return self._root(head, q, 0, out)

    cdef int _root(self, Head head, Query *q, uint32_t root, Match *out) except -1:
        out.n_captures = 0
        return self._walk(head, q, root, 1, 0, True, out)

    cdef int _walk(self, Head head, Query *q, uint32_t node, uint32_t at, int depth, bint is_root,
                   Match *out) except -1:
        """From a node on; `at` is the offset of the next segment, path_len + 1 when there is none left."""
        cdef uint32_t n, child, param, end
        cdef const char *slash
        cdef int captures = out.n_captures
        cdef Node *here = <Node*>self.nodes.p + node
        cdef Param *p
        q.steps += 1
        if q.steps > MAX_STEPS:
            return 0
        if at > q.path_len:
            if here.exact and self._entries(head, q, here.exact, out):
                return 1
        elif depth < MAX_DEPTH:
            slash = <const char*>memchr(q.path + at, c"/", q.path_len - at)
            end = q.path_len if slash == NULL else slash - q.path
            n = end - at
            # the root itself ends here: "/" has one segment, which is empty
            child = self._child(node, q.path + at, n, False)
            if child and self._walk(head, q, child - 1, end + 1, depth + 1, False, out):
                return 1
            # out of steps means no route, never a less exact one: its policies may be weaker
            if q.steps > MAX_STEPS:
                return 0
            if n:
                param = here.params
                while param:
                    p = <Param*>self.params.p + param
                    out.n_captures = captures
                    if p.regex < 0 or self.compiled[p.regex].fullmatch(
                            PyBytes_FromStringAndSize(q.path + at, n)) is not None:
                        if captures < MAX_CAPTURES:
                            out.captures[captures].start = at
                            out.captures[captures].len = n
                            out.n_captures = captures + 1
                        if self._walk(head, q, p.child, end + 1, depth + 1, False, out):
                            return 1
                    q.steps += 1
                    if q.steps > MAX_STEPS:
                        return 0
                    param = p.next
        out.n_captures = captures
        if is_root and here.regexes and self._regexes(head, q, here.regexes, out):
            return 1
        if q.steps > MAX_STEPS:
            return 0
        if here.prefix:
            out.n_captures = captures
            if captures < MAX_CAPTURES:
                out.captures[captures].start = at if at <= q.path_len else q.path_len
                out.captures[captures].len = q.path_len - at if at <= q.path_len else 0
                out.n_captures = captures + 1
            if self._entries(head, q, here.prefix, out):
                return 1
            out.n_captures = captures
        return 0

    cdef int _entries(self, Head head, Query *q, uint32_t chain, Match *out) except -1:
        cdef Entry *entry
        while chain:
            entry = <Entry*>self.entries.p + chain
            if self._holds(head, q, entry):
                out.status = 308 if entry.slash else 200
                out.route = entry.route
                return 1
            chain = entry.next
        return 0

    cdef int _regexes(self, Head head, Query *q, uint32_t chain, Match *out) except -1:
        cdef Entry *entry
        cdef bytes path = PyBytes_FromStringAndSize(q.path, q.path_len)
        cdef int i
        while chain:
            entry = <Entry*>self.entries.p + chain
            q.steps += 1
            if q.steps > MAX_STEPS:
                return 0
            found = self.compiled[entry.regex].fullmatch(path)
            if found is not None and self._holds(head, q, entry):
                out.n_captures = 0
                # named groups in the order they stand
                for name, number in sorted(found.re.groupindex.items(), key=lambda item: item[1]):
                    if out.n_captures < MAX_CAPTURES:
                        start, end = found.span(number)
                        out.captures[out.n_captures].start = max(start, 0)
                        out.captures[out.n_captures].len = max(end - start, 0)
                        out.n_captures += 1
                out.status = 200
                out.route = entry.route
                return 1
            chain = entry.next
        return 0

    cdef bint _holds(self, Head head, Query *q, Entry *entry) except -1:
        cdef uint32_t i
        cdef uint64_t methods = entry.methods
        for i in range(entry.n_predicates):
            if not self._predicate(head, q, <Predicate*>self.predicates.p + entry.predicates + i):
                return False
        if q.collect:
            q.allowed |= methods
            return False
        if methods == 0 or (q.method >= 0 and (methods >> q.method) & 1):
            return True
        if q.method == HEAD_METHOD and methods & 1:
            return True                       # RFC 9110 9.3.2: HEAD goes where GET goes
        q.allowed |= methods
        return False

    # ------------------------------------------------------------------ predicates

    cdef bint _predicate(self, Head head, Query *q, Predicate *p) except -1:
        cdef Header *h
        cdef int i
        cdef uint32_t k
        cdef const uint8_t *net
        cdef bint present = False
        cdef const char *name = self.text.p + p.name
        if p.kind == P_HEADER:
            for i in range(head.count):
                h = &head.items[i]
                if h.drop or h.name_len != p.name_len or not equals_lower(head.buf + h.name, name, p.name_len):
                    continue
                present = True
                if p.op <= O_REGEX and self._value(p, head.buf + h.value, h.value_len):
                    return True
            return p.op == O_PRESENT and present or p.op == O_ABSENT and not present
        if p.kind == P_QUERY:
            return self._query_param(q, p)
        if p.kind == P_COOKIE:
            return self._cookie(head, p)
        if p.kind == P_ADDRESS:
            for k in range(0, p.value_len, 17):
                net = <const uint8_t*>self.text.p + p.value + k
                if memcmp(net, q.address, net[16] >> 3) == 0 and (
                        net[16] & 7 == 0
                        or (net[net[16] >> 3] ^ q.address[net[16] >> 3]) >> (8 - (net[16] & 7)) == 0):
                    return True
            return False
        h = head.find_id(H_USER_AGENT)
        if p.kind == P_AGENT:
            return h != NULL and self._value(p, head.buf + h.value, h.value_len)
        return agent_class(b"" if h == NULL else head.value_of(h)).encode() == \
            PyBytes_FromStringAndSize(self.text.p + p.value, p.value_len)

    cdef bint _value(self, Predicate *p, const char *value, size_t n) except -1:
        if p.op == O_EXACT:
            return n == p.value_len and memcmp(value, self.text.p + p.value, n) == 0
        text = PyBytes_FromStringAndSize(value, n)
        regex = self.compiled[p.regex]
        return regex.fullmatch(text) is not None or not text.isascii() and _as_latin_1(regex, text)

    cdef bint _query_param(self, Query *q, Predicate *p) except -1:
        """Names and values are compared decoded; the first pair of that name that fits decides."""
        cdef char name[512]
        cdef char value[2048]
        cdef const char *s = q.query
        cdef const char *e = q.query + q.query_len
        cdef const char *amp
        cdef const char *eq
        cdef int name_n, value_n
        cdef bint present = False
        while s < e:
            amp = <const char*>memchr(s, c"&", e - s)
            if amp == NULL:
                amp = e
            eq = <const char*>memchr(s, c"=", amp - s)
            if eq == NULL:
                eq = amp
            name_n = _decoded(s, eq - s, name, 512)
            if name_n == <int>p.name_len and memcmp(name, self.text.p + p.name, name_n) == 0:
                present = True
                if p.op <= O_REGEX:
                    value_n = _decoded(eq + 1, amp - eq - 1, value, 2048) if eq < amp else 0
                    if value_n >= 0 and self._value(p, value, value_n):
                        return True
            s = amp + 1
        return p.op == O_PRESENT and present or p.op == O_ABSENT and not present

    cdef bint _cookie(self, Head head, Predicate *p) except -1:
        """RFC 6265 4.2: pairs separated by "; ", names compared exactly."""
        cdef Header *h
        cdef const char *s
        cdef const char *e
        cdef const char *end
        cdef const char *eq
        cdef int i
        cdef bint present = False
        for i in range(head.count):
            h = &head.items[i]
            if h.id != H_COOKIE or h.drop:
                continue
            s = head.buf + h.value
            e = s + h.value_len
            while s < e:
                while s < e and (s[0] == c" " or s[0] == c";"):
                    s += 1
                end = <const char*>memchr(s, c";", e - s) if s < e else NULL
                if end == NULL:
                    end = e
                eq = <const char*>memchr(s, c"=", end - s) if s < end else NULL
                if eq != NULL and eq - s == <Py_ssize_t>p.name_len \
                        and memcmp(s, self.text.p + p.name, p.name_len) == 0:
                    present = True
                    if p.op <= O_REGEX and self._value(p, eq + 1, end - eq - 1):
                        return True
                s = end + 1
        return p.op == O_PRESENT and present or p.op == O_ABSENT and not present


cdef bint _as_latin_1(regex, bytes text) except -1:
    """RFC 9110 5.5: field values were Latin-1 once, and may hold any byte still. RE2 reads UTF-8, where such a byte is no
    character: not even `.*` would match, and one byte would be the way around a route that looks for something.
    """
    try:
        text.decode()
    except UnicodeDecodeError:
        return regex.fullmatch(text.decode("latin-1")) is not None
    return False


cdef int _decoded(const char *p, size_t n, char *out, int room) noexcept nogil:
    """application/x-www-form-urlencoded; -1 when it does not fit."""
    cdef size_t i = 0
    cdef int o = 0, hi, lo
    while i < n:
        if o == room:
            return -1
        if p[i] == c"+":
            out[o] = c" "
        elif p[i] == c"%" and i + 2 < n and _unhex(p[i + 1]) >= 0 and _unhex(p[i + 2]) >= 0:
            out[o] = _unhex(p[i + 1]) * 16 + _unhex(p[i + 2])
            i += 2
        else:
            out[o] = p[i]
        o += 1
        i += 1
    return o


cdef inline int _unhex(unsigned char c) noexcept nogil:
    if c"0" <= c <= c"9":
        return c - c"0"
    c |= 0x20
    return c - c"a" + 10 if c"a" <= c <= c"f" else -1


def lookup(Router router, method="GET", host="", path="/", query="", headers=(), address="127.0.0.1"):
    """For tools and tests: (status, route index, captures as text, allowed methods)."""
    import ipaddress

    cdef Match out
    cdef bytes h = host.encode(), p = path.encode(), q = query.encode(), packed
    # bytes that are no UTF-8 come as Python's surrogates, as they do from a command line
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    cdef Head head = Head.request(f"{method} / HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode("utf-8", "surrogateescape"))
    packed = ipaddress.ip_address(address).packed
    if len(packed) == 4:
        packed = bytes(10) + b"\xff\xff" + packed
    router.match(head, h, len(h), p, len(p), q, len(q), <const uint8_t*>PyBytes_AS_STRING(packed), &out)
    captures = [p[out.captures[i].start:out.captures[i].start + out.captures[i].len].decode()
                for i in range(out.n_captures)]
    allowed = b"" if out.status != 405 else router.allowed(
        head, h, len(h), p, len(p), q, len(q), <const uint8_t*>PyBytes_AS_STRING(packed))
    return out.status, out.route, captures, allowed.decode()
