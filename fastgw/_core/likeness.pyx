"""An exchange that asks for the same as another one: hedges, copies for a second service, refreshing what is cached.

Here stands what the request *is*: head, target, who asks, its ids. What becomes of it (route, bodies, times, who hears of
the answer) belongs to whoever makes the other one.
"""
from libc.string cimport memcpy

from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport Head, Header


cdef int copy_head(Head to, Head source) except -1:
    """All of a request's head: bytes, lines (those that are dropped too), framing."""
    to.take(source.buf, source.len)
    to.count = 0
    while to.count < source.count:
        to._new_item()
    memcpy(to.items, source.items, source.count * sizeof(Header))
    to.method_len = source.method_len
    to.target, to.target_len = source.target, source.target_len
    to.reason, to.reason_len = source.reason, source.reason_len
    to.line_end, to.head_len = source.line_end, source.head_len
    to.minor, to.method = source.minor, source.method
    to.chunked, to.has_length, to.content_length = source.chunked, source.has_length, source.content_length
    to.keep_alive, to.named_by_connection = source.keep_alive, source.named_by_connection
    to.dropped = source.dropped
    return 0


cdef int ask_alike(Exchange own, Exchange ex) except -1:
    """`own` is as `take()` gives it. Its head has its own bytes: editing one says nothing to the other."""
    copy_head(own.request, ex.request)
    own.plan, own.settings = ex.plan, ex.settings
    own.is_head, own.secure, own.translated = ex.is_head, ex.secure, ex.translated
    own.path, own.path_len = ex.path, ex.path_len
    own.has_query, own.query, own.query_len = ex.has_query, ex.query, ex.query_len
    own.out_target, own.out_target_len = ex.out_target, ex.out_target_len
    own.out_method, own.out_method_len = ex.out_method, ex.out_method_len
    own.authority, own.authority_len = ex.authority, ex.authority_len
    own.n_captures = ex.n_captures
    memcpy(own.captures, ex.captures, sizeof(ex.captures))
    memcpy(own.client_addr, ex.client_addr, sizeof(ex.client_addr))
    memcpy(own.client_text, ex.client_text, sizeof(ex.client_text))
    memcpy(own.peer_text, ex.peer_text, sizeof(ex.peer_text))
    own.client_len, own.peer_len, own.trusted_peer = ex.client_len, ex.peer_len, ex.trusted_peer
    own.client_cert = ex.client_cert
    own.consumer, own.claims = ex.consumer, ex.claims
    own.id_hi, own.id_lo, own._id = ex.id_hi, ex.id_lo, ex._id
    own.trace_flags = ex.trace_flags
    memcpy(own.trace_id, ex.trace_id, sizeof(ex.trace_id))
    memcpy(own.span_id, ex.span_id, sizeof(ex.span_id))
    return 0
