"""The policies that come with fastgw, and how others are found.

    resolve("jwt")                      one of BUILTIN
    resolve("geo_block")                an entry point of the group `fastgw.policies`
    resolve("mycompany.edge:GeoBlock")  a dotted path, package.module:Class

`RESOLVER` is what `fastgw.config.load` takes: the same look-up, as a `PolicySpec`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from pydantic import BaseModel

from fastgw.config.registry import PolicySpec
from fastgw.policies.base import BuildContext, Policy, PolicyError, Shared

GROUP = "fastgw.policies"

BUILTIN: dict[str, str] = {
    "request_id": "fastgw.policies.request_id:RequestId",
    "ban": "fastgw.policies.ban:Ban",
    "memory": "fastgw.policies.memory:MemoryGuard",
    "overload": "fastgw.policies.overload:Overload",
    "ip": "fastgw.policies.ip:Ip",
    "geo": "fastgw.policies.geo:Geo",
    "headers": "fastgw.policies.headers:Headers",
    "key_auth": "fastgw.policies.key_auth:KeyAuth",
    "jwt": "fastgw.policies.jwt:Jwt",
    "oauth2_introspection": "fastgw.policies.oauth2_introspection:OAuth2Introspection",
    "client_credentials": "fastgw.policies.client_credentials:ClientCredentials",
    "token_exchange": "fastgw.policies.token_exchange:TokenExchange",
    "identity_token": "fastgw.policies.identity_token:IdentityToken",
    "jwks": "fastgw.policies.jwks:Jwks",
    "session": "fastgw.policies.session:SessionPolicy",
    "oidc": "fastgw.policies.oidc:Oidc",
    "basic_auth": "fastgw.policies.basic_auth:BasicAuth",
    "hmac": "fastgw.policies.hmac:Hmac",
    "mtls": "fastgw.policies.mtls:Mtls",
    "forward_auth": "fastgw.policies.forward_auth:ForwardAuth",
    "opa": "fastgw.policies.opa:Opa",
    "any_of": "fastgw.policies.any_of:AnyOf",
    "all_of": "fastgw.policies.all_of:AllOf",
    "authorize": "fastgw.policies.authorize:Authorize",
    "acl": "fastgw.policies.acl:Acl",
    "abac": "fastgw.policies.abac:Abac",
    "identity": "fastgw.policies.identity:Identity",
    "cors": "fastgw.policies.cors:Cors",
    "security_headers": "fastgw.policies.security_headers:SecurityHeaders",
    "csrf": "fastgw.policies.csrf:Csrf",
    "bot": "fastgw.policies.bot:Bot",
    "validate": "fastgw.policies.validate:Validate",
    "openapi": "fastgw.policies.openapi:Openapi",
    "waf": "fastgw.policies.waf:Waf",
    "rate_limit": "fastgw.policies.rate_limit:RateLimit",
    "quota": "fastgw.policies.quota:Quota",
    "grpc_web": "fastgw.policies.grpc_web:GrpcWeb",
    "grpc_transcode": "fastgw.policies.grpc_transcode:GrpcTranscode",
    "idempotency": "fastgw.policies.idempotency:Idempotency",
    "cache": "fastgw.policies.cache:Cache",
    "compress": "fastgw.policies.compress:Compress",
    "decompress": "fastgw.policies.decompress:Decompress",
    "coalesce": "fastgw.policies.coalesce:Coalesce",
    "fallback": "fastgw.policies.fallback:Fallback",
    "mirror": "fastgw.policies.mirror:Mirror",
    "respond": "fastgw.policies.respond:Respond",
    "redirect": "fastgw.policies.redirect:Redirect",
}
"""The only list of built-in policies: the word in the file → where its class is (imported on first use)."""

__all__ = [
    "BUILTIN",
    "GROUP",
    "RESOLVER",
    "BuildContext",
    "Policy",
    "PolicyError",
    "Resolver",
    "Shared",
    "resolve",
    "spec_of",
]


@lru_cache(maxsize=1)
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def resolve(name: str) -> type[Policy]:
    """The class of a policy. PolicyError, with the reason, when there is none or it is not a policy."""
    if name in BUILTIN:
        return _load(name, BUILTIN[name])
    if ":" in name:
        return _load(name, name)
    point = _entry_points().get(name)
    if point is not None:
        return _load(name, point.value)
    raise PolicyError(f"there is no policy {name!r}")


def _load(name: str, path: str) -> type[Policy]:
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute or not all(part.isidentifier() for part in attribute.split(".")):
        raise PolicyError(f"{name!r} is not a path to a policy; write package.module:Class")
    try:
        found: object = import_module(module_name)
    except Exception as error:
        raise PolicyError(f"{module_name} can not be imported: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise PolicyError(f"{module_name} has no {attribute}") from None
    return _checked(path, found)


def _checked(path: str, found: object) -> type[Policy]:
    if not isinstance(found, type) or not issubclass(found, Policy):
        raise PolicyError(f"{path} is not a class derived from fastgw.Policy")
    if not isinstance(getattr(found, "name", None), str) or not found.name:
        raise PolicyError(f"{path} has no `name`")
    if not isinstance(found.Options, type) or not issubclass(found.Options, BaseModel):
        raise PolicyError(f"{path}: `Options` is not a pydantic model")
    return found


def spec_of(name: str, policy: type[Policy]) -> PolicySpec:
    """What the configuration has to know of a policy."""
    return PolicySpec(
        name=name,
        options=policy.Options,
        terminal=policy.terminal,
        identifies=policy.identifies,
        needs_identity=policy.needs_identity,
        http2=policy.http2,
        references=policy.references,
        handler=policy,
    )


class Resolver:
    """Gives the configuration its policies by name; `PolicySpec.handler` is the class."""

    def __call__(self, name: str) -> PolicySpec | None:
        """None when nothing has that name; PolicyError when something has it and can not be used."""
        if name not in BUILTIN and ":" not in name and name not in _entry_points():
            return None
        return spec_of(name, resolve(name))

    def names(self) -> Iterable[str]:
        return (*BUILTIN, *_entry_points())


RESOLVER = Resolver()
