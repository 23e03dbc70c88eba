from collections.abc import Iterable, Sequence

from fastgw._core.exchange import Consumer, Hook

class Composition(Hook): ...

class AllOf(Composition):
    def __init__(self, name: str, members: Sequence[Hook], excluded: Iterable[bytes]) -> None: ...

class AnyOf(Composition):
    optional: bool
    def __init__(
        self,
        name: str,
        members: Sequence[Hook],
        excluded: Iterable[bytes],
        optional: bool,
        anonymous: Consumer | None,
        apart: Sequence[bool],
    ) -> None: ...
