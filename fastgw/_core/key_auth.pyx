"""Who calls, by an API key.

The tables map SHA-256 digests to consumers. Finding a key by its digest is safe against timing: what the look-up
compares is not the key but its hash, and a caller cannot steer a hash. To learn a digest byte by byte he would need
keys whose digests share ever longer beginnings with it, which is as hard as searching the key itself; and a digest he
had learnt would not be a key. (Comparing the *keys* with each of the table in turn would be the leak.)

There are two tables: keys of the file belong to a plan, and keys that are managed while the gateway runs to the worker
(`KeyTable`). What a plan makes of a managed key, the consumer of its file, it keeps until the table changes.
"""
from hashlib import sha256

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.clock cimport monotonic_ns, realtime_ns
from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, Consumer, Exchange, Hook
from fastgw._core.headers cimport H_COOKIE, Head, Header
from fastgw._core.identity cimport is_excluded
from fastgw._core.policy cimport apply_problem
from fastgw._core.template cimport decode, find_cookie, find_query
from fastgw._core.usage cimport UsageTable

from fastgw._core.exchange import Problem

cdef enum:
    MAX_KEY = 1024


cdef class Key:
    """`Key(consumer, until)`; `until` in ns since the epoch, 0 for ever."""

    def __init__(self, Consumer consumer, int64_t until):
        self.consumer = consumer
        self.until = until


cdef class KeyTable:
    """`KeyTable(usage=None)`: managed keys by their digests, each (id, name of its consumer, scopes or None, until)."""

    def __init__(self, UsageTable usage=None):
        self.managed = {}
        self.people = {}
        self.usage = usage if usage is not None else UsageTable.private(1024)

    def __repr__(self):
        return f"<KeyTable {len(self.managed)} keys>"

    def __len__(self):
        return len(self.managed)

    def replace(self, managed):
        self.managed = dict(managed)
        self.version += 1
        self.broken = False

    def meet(self, people):
        """Consumers that are managed, by name, in the place of those before."""
        self.people = dict(people)
        self.version += 1

    def hold(self, double seconds):
        """What is managed holds for so long from now on; 0: without end."""
        self.fresh = monotonic_ns() + <int64_t>(seconds * 1e9) if seconds > 0 else 0

    cdef bint stale(self) noexcept:
        return self.broken or (self.fresh != 0 and monotonic_ns() > self.fresh)

    def change(self, put, drop):
        self.managed.update(put)
        for digest in drop:
            self.managed.pop(digest, None)
        self.version += 1


cdef class KeyAuth(Hook):
    """`KeyAuth(keys by digest, consumers by name, table, header, query, cookie, forward, optional, anonymous, excluded)`

    header, query and cookie may be None.
    """

    def __init__(self, dict keys, dict consumers, KeyTable table, bytes header, bytes query, bytes cookie, bint forward,
                 bint optional=False, Consumer anonymous=None, excluded=()):
        self.name = "key_auth"
        self.phases = PHASE_REQUEST
        self.keys = keys
        self.consumers = consumers
        self.table = table if table is not None else KeyTable()
        self.version = -1
        self.header = None if header is None else header.lower()
        self.query = query
        self.cookie = cookie
        self.forward = forward
        self.optional = optional
        self.anonymous = anonymous
        self.excluded = tuple(excluded)
        # RFC 9110 11.6.1 wants a challenge with every 401; there is no registered scheme for keys
        words = (("header", header), ("query", query), ("cookie", cookie))
        self.challenge = "ApiKey " + ", ".join([f'{word}="{name.decode()}"' for word, name in words if name is not None])

    def __repr__(self):
        return f"<KeyAuth {len(self.keys)} keys>"

    cdef int request(self, Exchange ex) except -1:
        cdef bytes key, digest
        cdef Key found
        cdef uint64_t name
        cdef bint bad = False
        if self.excluded and is_excluded(self.excluded, ex):
            return CONTINUE
        key = self._find(ex, &bad)
        if bad:
            return self._refuse(ex, "invalid_key", "The API key is malformed.")
        if key is None:
            if self.optional:
                if self.anonymous is not None:
                    ex.consumer = self.anonymous
                return CONTINUE
            return self._refuse(ex, "unauthorized", "An API key is required.")
        digest = sha256(key).digest()
        found = self.keys.get(digest)
        if found is None:
            # a table that could not be read leaves what is known; one that is too old knows nothing any more
            found = None if self.table.fresh != 0 and self.table.stale() else self._known(digest)
            if found is None:
                if self.table.stale():
                    return apply_problem(ex, Problem(503, "policy_unavailable", "The keys cannot be read.", side=2))
                return self._refuse(ex, "invalid_key", None)
        if found.until != 0 and realtime_ns() >= found.until:
            return self._refuse(ex, "key_expired", None)
        if found.slot == 0:
            memcpy(&name, PyBytes_AS_STRING(digest), 8)
            found.slot = self.table.usage.slot(name or 1)
        self.table.usage.used(found.slot)
        ex.consumer = found.consumer
        return CONTINUE

    cdef Key _known(self, bytes digest):
        """A managed key, with the consumer of this plan."""
        cdef KeyTable table = self.table
        cdef Consumer base
        cdef Key key
        if table.version != self.version:
            self.bound = {}
            self.version = table.version
        key = self.bound.get(digest)
        if key is not None:
            return key
        managed = table.managed.get(digest)
        if managed is None:
            return None
        name, consumer, scopes, until = managed
        base = self.consumers.get(consumer)
        if base is None:
            base = table.people.get(consumer)
        if base is None:                              # this plan does not know it any more
            return None
        key = Key(Consumer(base.name, base.groups, base.metadata, name, base.plan,
                           base.scopes if scopes is None else scopes), until)
        self.bound[digest] = key
        return key

    cdef bytes _find(self, Exchange ex, bint *bad):
        """The key, and takes it out of what the upstream gets. The header comes first, then query, then cookie."""
        cdef Head head = ex.request
        cdef Header *h
        cdef const char *p
        cdef size_t n
        cdef char plain[MAX_KEY]
        cdef bytes key = None
        if self.header is not None:
            h = head.find(PyBytes_AS_STRING(self.header), PyBytes_GET_SIZE(self.header))
            if h != NULL:
                # two keys: which of them would the upstream believe?
                if h.value_len == 0 or h.value_len > MAX_KEY or head.count_of(
                        PyBytes_AS_STRING(self.header), PyBytes_GET_SIZE(self.header)) != 1:
                    bad[0] = True
                    return None
                key = head.value_of(h)
                if not self.forward:
                    h.drop = 1
                    head.dropped += 1
        if self.query is not None and find_query(
                ex, PyBytes_AS_STRING(self.query), PyBytes_GET_SIZE(self.query), &p, &n):
            if key is None:
                if n == 0 or n > MAX_KEY:
                    bad[0] = True
                    return None
                n = decode(p, n, True, <unsigned char*>plain)
                key = PyBytes_FromStringAndSize(plain, n)
            if not self.forward:
                self._hide(ex)
        if self.cookie is not None and find_cookie(
                ex, PyBytes_AS_STRING(self.cookie), PyBytes_GET_SIZE(self.cookie), &p, &n):
            if key is None:
                if n == 0 or n > MAX_KEY:
                    bad[0] = True
                    return None
                key = PyBytes_FromStringAndSize(p, n)
            if not self.forward:
                self._hide_cookie(ex)
        return key

    cdef int _refuse(self, Exchange ex, str code, str detail) except -1:
        return apply_problem(ex, Problem(401, code, detail, headers=(("WWW-Authenticate", self.challenge),)))

    cdef int _hide(self, Exchange ex) except -1:
        """The query without the key's parameter."""
        cdef bytes query = PyBytes_FromStringAndSize(ex.request.buf + ex.query, ex.query_len)
        cdef list kept = [pair for pair in query.split(b"&") if pair.partition(b"=")[0] != self.query]
        cdef bytes rest = b"&".join(kept)
        ex.query = ex.request.store(PyBytes_AS_STRING(rest), PyBytes_GET_SIZE(rest))
        ex.query_len = PyBytes_GET_SIZE(rest)
        ex.has_query = bool(kept)
        return 0

    cdef int _hide_cookie(self, Exchange ex) except -1:
        """The cookies without the key's. RFC 6265 4.2.1: cookie-string = cookie-pair *( ";" SP cookie-pair )."""
        cdef Head head = ex.request
        cdef list lines = []
        cdef Header *h
        cdef int i
        for i in range(head.count):
            h = &head.items[i]
            if h.id == H_COOKIE and not h.drop:
                pairs = [pair.strip() for pair in head.value_of(h).split(b";")]
                lines.append(b"; ".join([pair for pair in pairs if pair and pair.partition(b"=")[0] != self.cookie]))
        head.remove_name(b"cookie", 6)
        for line in lines:
            if line:
                head.append(b"Cookie", 6, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
        return 0
