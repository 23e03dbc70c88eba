"""`mtls`: who calls, by the certificate of his connection."""

from __future__ import annotations

from collections.abc import Iterable

from fastgw._core.exchange import Consumer, Exchange, Problem
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._credentials import refused
from fastgw.policies._members import ANONYMOUS, Paths, consumer_of, named
from fastgw.policies.base import BuildContext, Policy, PolicyError

CHALLENGE = "Mutual"
"""No scheme is registered (RFC 9110 §16.4); browsers do not know this one, and that is as well."""


class MtlsOptions(Room):
    """Certificates stand with the consumers (`certificates`); authorities with the listener (`tls.client_ca`)."""

    optional: bool = key(
        False,
        "Connections without a certificate pass too, as the consumer `anonymous` where the file has one, else as "
        "nobody. A certificate that is nobody's is refused all the same.",
    )
    excluded_paths: Paths = key((), "Paths that need none: exact, or `/prefix/*`.", max_length=1000)


class Mtls(Policy):
    """Finds the consumer by the client's certificate, which the listener has verified.

    A consumer's `certificates` name it by fingerprint, by alternative name, or by subject; the first of them that
    names a consumer counts, in that order. 401 `unauthorized`, `invalid_certificate`. Order: before everything that
    asks who calls. Failure: closed.
    """

    name = "mtls"
    Options = MtlsOptions
    identifies = True
    options: MtlsOptions

    @classmethod
    def references(cls, options: MtlsOptions) -> Iterable[Reference]:
        yield Reference("credential", "certificates", ())

    def __init__(self, options: MtlsOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.known: dict[str, Consumer] = {}
        for one in context.consumers:
            for name in one.certificates:
                if self.known.setdefault(name, consumer_of(one, context.plans, credential=name)).name != one.name:
                    raise PolicyError("two consumers have the same certificate")
        if not self.known:
            raise PolicyError("no consumer has a certificate")
        self.anonymous = named(context, ANONYMOUS) if options.optional else None
        self.exact = frozenset(path for path in options.excluded_paths if not path.endswith("/*"))
        self.below = tuple(path[:-1] for path in options.excluded_paths if path.endswith("/*"))

    def request(self, exchange: Exchange) -> Problem | None:
        if self.exact or self.below:
            path = exchange.path
            if path in self.exact or path.startswith(self.below) or f"{path}/" in self.below:
                return None
        shown = exchange.client_cert
        if shown is None:
            if self.options.optional:
                exchange.consumer = self.anonymous
                return None
            return refused("unauthorized", CHALLENGE, "A client certificate is required.")
        for name in (f"fingerprint:{shown.fingerprint}", *shown.names, f"subject:{shown.subject}"):
            found = self.known.get(name)
            if found is not None:
                exchange.consumer = found
                return None
        return refused("invalid_certificate", CHALLENGE)
