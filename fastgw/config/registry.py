"""What the configuration must know of a policy without importing one: its name, its options, and four
facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel


class Reference(NamedTuple):
    """Something of the configuration that a policy needs: `kind` is service or store, which its options name, or
    credential: the field that one consumer at least must have. `path` is where among the options."""

    kind: str
    name: str
    path: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """One kind of policy.

    name            the word in the file, or a dotted path `package.module:Class`
    options         the pydantic model of what stands under the name
    terminal        it answers every request that comes to it, so its route needs no service
    identifies      it may establish the consumer or the claims
    needs_identity  told the options: does it want a consumer or claims that a policy before it must
    establish?
    http2           it speaks HTTP/2 to the service, whatever the client speaks
    references      told the options: the services, stores and credentials it uses, which must be there
    handler         whatever the plan compiler builds from; not looked at here
    """

    name: str
    options: type[BaseModel]
    terminal: bool = False
    identifies: bool = False
    needs_identity: Callable[[Any], bool] | None = None
    http2: bool = False
    references: Callable[[Any], Iterable[Reference]] | None = None
    handler: Any = None


class Resolver(Protocol):
    """How a policy is found by its name. `names()` is for suggestions and the JSON Schema."""

    def __call__(self, name: str) -> PolicySpec | None: ...

    def names(self) -> Iterable[str]: ...


class Registry:
    """A Resolver over a fixed set; a mapping of name → options model will do."""

    def __init__(self, specs: Iterable[PolicySpec] | Mapping[str, type[BaseModel]] = ()) -> None:
        if isinstance(specs, Mapping):
            specs = [PolicySpec(name, model) for name, model in specs.items()]
        self._specs = {spec.name: spec for spec in specs}

    def __call__(self, name: str) -> PolicySpec | None:
        return self._specs.get(name)

    def names(self) -> Iterable[str]:
        return self._specs
