"""How important a request is, and whose it is: asked where something is short, so once for those that have to wait.

The class of a request is that of the first rule that fits, else that of its route, else the default one. A rule whose
class is a template fits when it gives the name of a class.
"""
from libc.string cimport memcmp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.cidr cimport ALLOWED, CidrTable
from fastgw._core.exchange cimport Consumer, Exchange
from fastgw._core.headers cimport Header
from fastgw._core.template cimport ESCAPE_HEADER, Compiled

cdef bytes MAPPED = bytes(10) + b"\xff\xff"


cdef class Rule:
    """`level`, or `words` (parts of a template) that give the name of a class; sets are None where they do not matter."""

    def __init__(self, *, int level=-1, words=None, routes=None, plans=None, consumers=None, groups=None, callers=None,
                 headers=()):
        self.level = level
        self.words = None if words is None else Compiled(words)
        self.routes = None if routes is None else frozenset(routes)
        self.plans = None if plans is None else frozenset(plans)
        self.consumers = None if consumers is None else frozenset(consumers)
        self.groups = None if groups is None else frozenset(groups)
        self.callers = None
        if callers is not None:
            self.callers = CidrTable([(ALLOWED, "", "\n".join(callers).encode())])
        self.headers = tuple(headers)

    cdef bint fits(self, Exchange ex) except -1:
        cdef Consumer consumer = ex.consumer
        cdef Header *line
        cdef bytes name, value
        if self.routes is not None and (ex.route is None or ex.route.name not in self.routes):
            return False
        if self.callers is not None and (ex.client_len == 0 or self.callers.find(ex.client_addr) != ALLOWED):
            return False
        if self.plans is not None and (consumer is None or consumer.plan not in self.plans):
            return False
        if self.consumers is not None and (consumer is None or consumer.name not in self.consumers):
            return False
        if self.groups is not None and (consumer is None or self.groups.isdisjoint(consumer.groups)):
            return False
        for name, value in self.headers:
            line = ex.request.find(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            if line == NULL:
                return False
            if value is not None and not (<Py_ssize_t>line.value_len == PyBytes_GET_SIZE(value) and memcmp(
                    ex.request.buf + line.value, PyBytes_AS_STRING(value), line.value_len) == 0):
                return False
        return True


cdef class Priorities:
    """`names` of the classes, the most important one first; `rules` are keyword arguments of Rule; `routes` gives the
    class of a route by its name."""

    def __init__(self, tuple names, str default, rules=(), routes=()):
        self.names = names
        self.default = names.index(default)
        self.levels = {name.encode(): level for level, name in enumerate(names)}
        self.rules = tuple([Rule(**given) for given in rules])
        self.routes = {route: names.index(name) for route, name in dict(routes).items()}

    cdef int level_of(self, Exchange ex) except -1:
        cdef Rule rule
        for rule in self.rules:
            if not rule.fits(ex):
                continue
            if rule.level >= 0:
                return rule.level
            rule.words.write(ex, ESCAPE_HEADER)
            found = self.levels.get(PyBytes_FromStringAndSize(rule.words.out, rule.words.len))
            if found is not None:
                return found
        if self.routes and ex.route is not None:
            found = self.routes.get(ex.route.name)
            if found is not None:
                return found
        return self.default

    def find(self, Exchange ex):
        """For tools and tests: the name of a request's class."""
        return self.names[self.level_of(ex)]


cdef class Tenants:
    """`parts` of a template, None for the client's address; `weights` by plan, 1 for the others. With `secret` names are
    shown as hashes."""

    def __init__(self, parts=None, weights=(), bint secret=False):
        self.key = None if parts is None else Compiled(parts)
        self.weights = dict(weights)
        self.secret = secret

    cdef bytes name_of(self, Exchange ex):
        """Never empty: whoever has no key counts by address; of IPv6 the first 64 bits, as one customer has that many."""
        if self.key is not None:
            self.key.write(ex, ESCAPE_HEADER)
            if self.key.len:
                return PyBytes_FromStringAndSize(self.key.out, self.key.len)
        if ex.client_len == 0:
            return b"unix"
        if memcmp(ex.client_addr, PyBytes_AS_STRING(MAPPED), 12) == 0:
            return PyBytes_FromStringAndSize(ex.client_text, ex.client_len)
        return b"%s::/64" % b":".join([b"%02x%02x" % (ex.client_addr[i], ex.client_addr[i + 1]) for i in range(0, 8, 2)])

    cdef int weight_of(self, Exchange ex) except -1:
        if not self.weights or ex.consumer is None:
            return 1
        return self.weights.get(ex.consumer.plan, 1)

    def find(self, Exchange ex):
        """For tools and tests: the tenant of a request, and its weight."""
        return self.name_of(ex), self.weight_of(ex)
