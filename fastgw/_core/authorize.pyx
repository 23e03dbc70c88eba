"""What who calls may do: scopes and roles (`authorize`), and lists of consumers, groups and plans (`acl`).

Everything is a set that was made with the plan. Nobody is nobody: a request without a consumer and without claims is
refused with 401, because another credential could help; one that is known and may not is refused with 403.
"""
from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, Consumer, Exchange, Hook
from fastgw._core.policy cimport apply_problem
from fastgw._core.template cimport claim_of

from fastgw._core.exchange import Problem


cdef int _unknown(Exchange ex) except -1:
    return apply_problem(ex, Problem(401, "unauthorized", "Nobody was recognised.",
                                     headers=(("WWW-Authenticate", "Bearer"),)))


cdef object _texts(object value):
    """A claim as a collection of texts: a text has them with spaces between (RFC 8693 4.2), a list one by one."""
    if isinstance(value, str):
        return (<str>value).split()
    if isinstance(value, (list, tuple)):
        return [one for one in value if isinstance(one, str)]
    return ()


cdef class Authorize(Hook):
    """`Authorize(scopes, any_scope, roles, permissions, role_claim, scope_claims, rule)`

    All of `scopes`, one of `any_scope`, one of `roles`, and each of `permissions`, (name, roles that have it), by some
    role. What is empty is not asked for.
    """

    def __init__(self, scopes, any_scope, roles, permissions, str role_claim, scope_claims, str rule):
        self.name = "authorize"
        self.phases = PHASE_REQUEST
        self.scopes = frozenset(scopes)
        self.any_scope = frozenset(any_scope)
        self.roles = frozenset(roles)
        self.permissions = tuple([(name, frozenset(given)) for name, given in permissions])
        self.role_claim = role_claim
        self.scope_claims = tuple(scope_claims)
        self.rule = rule

    cdef object _scopes(self, Exchange ex):
        """Those of the consumer's credential; a token that says them, but names nobody, has its own."""
        if ex.consumer is not None and ex.consumer.scopes is not None:
            return ex.consumer.scopes
        for name in self.scope_claims:
            value = claim_of(ex.claims, name)
            if value is not None:
                return _texts(value)
        return ()

    cdef set _roles(self, Exchange ex):
        cdef set found = set(_texts(claim_of(ex.claims, self.role_claim)))
        if ex.consumer is not None:
            found.update(ex.consumer.groups)
        return found

    cdef int request(self, Exchange ex) except -1:
        cdef set roles
        if ex.consumer is None and ex.claims is None:
            return _unknown(ex)
        if self.scopes or self.any_scope:
            scopes = self._scopes(ex)
            if self.scopes and not self.scopes.issubset(scopes):
                wanted = " ".join(sorted(self.scopes))
                # RFC 6750 3.1: insufficient_scope
                challenge = f'Bearer error="insufficient_scope", scope="{wanted}"'
                return apply_problem(ex, Problem(
                    403, "insufficient_scope", f"The scopes {wanted} are needed.",
                    headers=(("WWW-Authenticate", challenge),), members={"rule": self.rule}))
            if self.any_scope and self.any_scope.isdisjoint(scopes):
                return self._refuse(ex, "insufficient_scope",
                                    f"One of the scopes {' '.join(sorted(self.any_scope))} is needed.")
        if self.roles or self.permissions:
            roles = self._roles(ex)
            if self.roles and self.roles.isdisjoint(roles):
                return self._refuse(ex, "missing_role", f"One of the roles {' '.join(sorted(self.roles))} is needed.")
            for name, having in self.permissions:
                if (<frozenset>having).isdisjoint(roles):
                    return self._refuse(ex, "missing_role", f"The permission {name} is needed.")
        return CONTINUE

    cdef int _refuse(self, Exchange ex, str code, str detail) except -1:
        return apply_problem(ex, Problem(403, code, detail, members={"rule": self.rule}))


cdef class Acl(Hook):
    """`Acl(allow, deny, rule)`, each (consumers, groups, plans). `deny` counts before `allow`; with nothing in `allow`
    everybody passes who is not denied."""

    def __init__(self, allow, deny, str rule):
        self.name = "acl"
        self.phases = PHASE_REQUEST
        self.allow_consumers, self.allow_groups, self.allow_plans = [frozenset(names) for names in allow]
        self.deny_consumers, self.deny_groups, self.deny_plans = [frozenset(names) for names in deny]
        self.allows = bool(self.allow_consumers or self.allow_groups or self.allow_plans)
        self.rule = rule

    cdef bint _among(self, Exchange ex, frozenset consumers, frozenset groups, frozenset plans) except -1:
        cdef Consumer consumer = ex.consumer
        return (consumer.name in consumers or (groups and not groups.isdisjoint(consumer.groups))
                or (consumer.plan is not None and consumer.plan in plans))

    cdef int request(self, Exchange ex) except -1:
        if ex.consumer is None:
            return _unknown(ex)
        if self._among(ex, self.deny_consumers, self.deny_groups, self.deny_plans) or (
                self.allows and not self._among(ex, self.allow_consumers, self.allow_groups, self.allow_plans)):
            return apply_problem(ex, Problem(403, "acl_refused", None, members={"rule": self.rule}))
        return CONTINUE
