from collections.abc import Iterable

from fastgw._core.exchange import Hook

class Authorize(Hook):
    def __init__(
        self,
        scopes: Iterable[str],
        any_scope: Iterable[str],
        roles: Iterable[str],
        permissions: Iterable[tuple[str, Iterable[str]]],
        role_claim: str,
        scope_claims: Iterable[str],
        rule: str,
    ) -> None: ...

class Acl(Hook):
    def __init__(
        self, allow: tuple[Iterable[str], ...], deny: tuple[Iterable[str], ...], rule: str
    ) -> None: ...
