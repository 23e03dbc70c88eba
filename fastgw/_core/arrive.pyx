"""Stage `route`: from the head of a request to the first hook of its route.

    start → who sends it, what is asked for → route → hooks

What is answered here has no policies: a path that nobody has, a method that is not offered, a bad handshake. What
follows is the business of `respond.Relay`, whose other half this is.
"""
from libc.stdint cimport int64_t
from cpython.bytes cimport PyBytes_FromStringAndSize

from fastgw._core.exchange cimport REPLIED, S_POLICY, WAIT, Exchange, Hook, Route
from fastgw._core.forwarding cimport begin_trace, find_client, make_id
from fastgw._core.headers cimport H_ORIGIN, Head
from fastgw._core.plan cimport Plan
from fastgw._core.policy cimport apply_problem
from fastgw._core.route cimport Match
from fastgw._core.settings cimport Settings
from fastgw._core.target cimport normalize
from fastgw._core.trial cimport Trial
from fastgw._core.upgrade cimport ASKED, MALFORMED, OTHER_VERSION, Handshake, handshake
from fastgw._core.ws cimport withhold_extensions

from fastgw._core.exchange import Problem

cdef enum:
    GET = 0
    HEAD = 1
    OPTIONS = 6


cdef class Arrivals(Driver):
    cdef int hooks(self, Exchange ex) except -1:
        raise NotImplementedError

    cdef int answer(self, Exchange ex) except -1:
        raise NotImplementedError

    cdef int reply(self, Exchange ex) except -1:
        raise NotImplementedError

    cdef int started(self, Exchange ex) except -1:
        """The exchange counts from here on: it will be recorded, whatever becomes of it."""
        self.active += 1
        (<Plan>ex.plan).alive += 1
        ex.state = S_POLICY
        make_id(ex)
        return 0

    cdef int start(self, Exchange ex) except -1:
        """The request's head is in ex.request and its connection has filled in who sent it."""
        cdef int stop
        stop = self.understand(ex)
        return 0 if stop else self._route(ex)

    cdef int understand(self, Exchange ex) except -1:
        """Who sends it, and what is asked for. 1: it is answered already."""
        cdef Settings settings = <Settings>ex.settings
        cdef int status
        self.started(ex)
        find_client(ex, settings)
        if settings.trace:
            begin_trace(ex, settings)
        status = normalize(ex.request, settings.path_mode, settings.merge_slashes, &ex.path, &ex.path_len,
                           &ex.query, &ex.query_len, &ex.has_query, &ex.authority, &ex.authority_len)
        if status < 0:
            self.fail(ex, "bad_target", None)
            return 1
        if ex.path_len == 1 and ex.request.buf[ex.path] == c"*":
            # RFC 9110 9.3.7: OPTIONS * asks about the server itself
            ex.set_reply(204, b"", None)
            ex.response.add("Allow", "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS")
            self.answer(ex)
            return 1
        return 0

    cdef int _route(self, Exchange ex) except -1:
        cdef Plan plan = <Plan>ex.plan
        cdef Head head = ex.request
        cdef Match match
        cdef Route route
        cdef int i
        cdef bytes allowed
        if plan.trial is not None:
            plan = (<Trial>plan.trial).choose(ex)
        if plan.public is not None and (head.method == GET or head.method == HEAD):
            route = plan.public.get(PyBytes_FromStringAndSize(head.buf + ex.path, ex.path_len))
            if route is not None:
                ex.route = route
                return self.hooks(ex)
        match.status = 404
        plan.router.match(head, head.buf + ex.authority, ex.authority_len, head.buf + ex.path, ex.path_len,
                          head.buf + ex.query, ex.query_len, ex.client_addr, &match)
        if match.status != 200:
            if match.status == 404:
                return self.fail(ex, "not_found", None)
            if match.status == 308:
                return self._slash(ex)
            allowed = plan.router.allowed(head, head.buf + ex.authority, ex.authority_len, head.buf + ex.path,
                                          ex.path_len, head.buf + ex.query, ex.query_len, ex.client_addr)
            if head.method == OPTIONS:
                # RFC 9110 9.3.7: what could be asked of this resource
                ex.set_reply(204, b"", None)
                ex.response.add("Allow", allowed)
                return self.answer(ex)
            ex.allow = allowed
            return self.fail(ex, "method_not_allowed", None)
        route = <Route>plan.routes[match.route]
        ex.route = route
        ex.n_captures = match.n_captures
        for i in range(match.n_captures):
            ex.captures[i] = match.captures[i]
        ex.body_limit = route.body_limit if route.body_limit >= 0 else (<Settings>ex.settings).body_limit
        if route.total_ns:
            ex.total_at = ex.t_start + route.total_ns
            self.reactor.wheel.arm(&ex.total, ex.total_at)
        if head.head_len > route.header_limit or head.count > route.header_count:
            return self.fail(ex, "headers_too_large", "The limits here are lower.")
        if head.has_length and head.content_length > ex.body_limit:
            return self.fail(ex, "body_too_large", f"The limit here is {ex.body_limit} bytes.")
        if head.upgrade and (ex.extended or route.websocket is not None) and self._upgrade(ex):
            return 0
        if route.preflights and head.method == OPTIONS and head.find_id(H_ORIGIN) != NULL \
                and head.find(b"access-control-request-method", 29) != NULL:
            return self._preflight(ex)
        return self.hooks(ex)

    cdef int _upgrade(self, Exchange ex) except -1:
        """A client that wants a WebSocket. 1: it was answered already."""
        cdef Handshake found = handshake(ex.request)
        if ex.route.websocket is None:
            self.fail(ex, "method_not_implemented", "There are no WebSockets here.")
        elif found == MALFORMED:
            self.fail(ex, "bad_request", "This is no handshake of a WebSocket.")
        elif found == OTHER_VERSION:
            # RFC 6455 4.4
            apply_problem(ex, Problem(426, "upgrade_required", "Version 13 of WebSocket is spoken here.", side=1,
                                      headers=(("Sec-WebSocket-Version", "13"),)))
            self.answer(ex)
        else:
            withhold_extensions(ex)
            ex.upgrading = found == ASKED
            return 0
        return 1

    cdef int _slash(self, Exchange ex) except -1:
        """The route has the path with the other form of its trailing slash."""
        cdef bytes path = PyBytes_FromStringAndSize(ex.request.buf + ex.path, ex.path_len)
        path = path[:-1] if path.endswith(b"/") else path + b"/"
        if ex.has_query:
            path += b"?" + PyBytes_FromStringAndSize(ex.request.buf + ex.query, ex.query_len)
        ex.set_reply(308, b"", None)
        # "//host" would be another site
        ex.response.add("Location", b"/" + path.lstrip(b"/"))
        return self.answer(ex)

    cdef int _preflight(self, Exchange ex) except -1:
        """A CORS pre-flight carries no credentials: the policies that answer it come before all others."""
        cdef Hook hook
        cdef int verdict, i
        for i in range(ex.route.chain_len):
            hook = <Hook>ex.route.chain[i]
            if hook.preflight:
                verdict = hook.request(ex)
                if verdict == REPLIED:
                    return self.reply(ex)
                if verdict == WAIT:
                    raise RuntimeError(f"the pre-flight hook of {hook.name} may not wait")
        return self.hooks(ex)
