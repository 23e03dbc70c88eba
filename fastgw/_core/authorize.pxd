"""What who calls may do."""
from fastgw._core.exchange cimport Exchange, Hook


cdef class Authorize(Hook):
    cdef frozenset scopes, any_scope, roles
    cdef tuple permissions               # (permission, frozenset of the roles that have it)
    cdef str role_claim
    cdef tuple scope_claims
    cdef str rule
    cdef object _scopes(self, Exchange ex)
    cdef set _roles(self, Exchange ex)
    cdef int _refuse(self, Exchange ex, str code, str detail) except -1


cdef class Acl(Hook):
    cdef frozenset allow_consumers, allow_groups, allow_plans, deny_consumers, deny_groups, deny_plans
    cdef bint allows
    cdef str rule
    cdef bint _among(self, Exchange ex, frozenset consumers, frozenset groups, frozenset plans) except -1
