"""The rooms `tls` against their files: what is found here stands at the key of the file.

What was read stays with the `Config` (`Config.tls`), so that what was checked is what is served.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import ssl
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastgw.config.certificates import CertificateFiles, load, load_authorities, load_revocations
from fastgw.config.errors import Finding, Path, did_you_mean
from fastgw.config.fields import shown
from fastgw.config.material import CertificateSpec, ListenerMaterial, UpstreamMaterial
from fastgw.config.schema.services import Service
from fastgw.config.schema.tls import (
    CIPHERSUITES,
    GROUPS,
    HYBRID_GROUPS,
    Certificate,
    Hsts,
    ListenerTls,
    UpstreamTls,
)

if TYPE_CHECKING:
    from fastgw.config.schema import Config

YEAR = 365 * 86400
MIN_STRENGTH = 128
OPERATOR = re.compile(r"[!+-]|@(STRENGTH|SECLEVEL=[0-5])\Z")


def files_of(certificate: Certificate) -> CertificateFiles:
    return CertificateFiles(certificate.cert, certificate.key, certificate.passphrase, certificate.ocsp)


def below(path: Path, findings: Iterable[Finding]) -> Iterable[Finding]:
    """The findings of a room at its place."""
    for finding in findings:
        finding.path = (*path, *finding.path)
        yield finding


def check_tls(check: Any) -> None:
    """Everything about TLS of a `rooms.Check`."""
    config = check.config
    if importlib.util.find_spec("fastgw._core.tls") is None:
        for place in asks_for_tls(config):
            message = "this fastgw was built without TLS"
            check.report(Finding("not_built", place, message, "libssl-dev installed, and fastgw built again"))
    for number, listener in enumerate(config.server.listeners):
        if listener.own_tls is not None:
            path: Path = ("server", "listeners", number, "tls")
            material, findings = check_listener(listener.own_tls)
            config.tls.listeners[str(listener.bind)] = material
            for finding in below(path, [*findings, *check_redirect(config, number)]):
                check.report(finding)
    for name, service in config.services.items():
        upstream, findings = check_service(service)
        if upstream is not None:
            config.tls.services[name] = upstream
        for finding in below(("services", name), findings):
            check.report(finding)


def asks_for_tls(config: Config) -> Iterable[Path]:
    for number, listener in enumerate(config.server.listeners):
        if listener.own_tls is not None:
            yield "server", "listeners", number, "tls"
    for name, service in config.services.items():
        if service.https:
            yield "services", name


# ------------------------------------------------------------------------------------------------- listeners


def check_listener(tls: ListenerTls) -> tuple[ListenerMaterial, list[Finding]]:
    found = [*check_shape(tls), *check_parameters(tls)]
    certificates: list[CertificateSpec] = []
    for number, certificate in enumerate(tls.certificates):
        spec, findings = load(files_of(certificate))
        found += below(("certificates", number), findings)
        if spec is not None:
            certificates.append(spec)
    if len(certificates) == len(tls.certificates):
        found += check_same_names(certificates)
    client_ca = crl = b""
    if tls.client_ca is not None:
        client_ca, findings = load_authorities(tls.client_ca, "client_ca")
        found += findings
    if tls.crl is not None:
        crl, findings = load_revocations(tls.crl, client_ca)
        found += findings
    return ListenerMaterial(tuple(certificates), client_ca, crl), found


def check_shape(tls: ListenerTls) -> Iterable[Finding]:
    """Keys that exclude or need each other."""
    if tls.certificates and tls.self_signed is not None:
        yield Finding("conflict", ("self_signed",), "there are `certificates` too", "one of the two")
    if not tls.certificates and tls.self_signed is None:
        yield Finding("missing_key", (), "there is no certificate", "`certificates`, or `self_signed: true`")
    marked = [number for number, certificate in enumerate(tls.certificates) if certificate.default]
    for number in marked[1:]:
        message = f"certificates[{marked[0]}] is the default already"
        yield Finding("conflict", ("certificates", number, "default"), message, "one default")
    if tls.client_auth == "none":
        for name in ("client_ca", "crl"):
            if getattr(tls, name) is not None:
                message = "has no effect: no client is asked for a certificate"
                yield Finding("unused", (name,), message, "client_auth: require or request", severity="warning")
    elif tls.client_ca is None:
        message = "nobody says which clients to trust"
        yield Finding("missing_key", ("client_auth",), message, "`client_ca`, a file with their authorities")
    if tls.hsts is not None:
        yield from below(("hsts",), check_hsts(tls.hsts))
    if "alpn" in tls.model_fields_set and "h2" in tls.alpn and importlib.util.find_spec("fastgw._core.h2") is None:
        message = "this fastgw was built without HTTP/2"
        yield Finding("not_built", ("alpn",), message, "libnghttp2-dev installed, and fastgw built again")
    if not tls.tickets.enabled:
        for name in tls.tickets.model_fields_set - {"enabled"}:
            yield Finding("unused", ("tickets", name), "has no effect: there are no tickets", severity="warning")


def check_redirect(config: Config, number: int) -> Iterable[Finding]:
    """Its address is one more that the gateway listens at."""
    tls = config.server.listeners[number].own_tls
    if tls is None or tls.redirect_http is None:
        return
    bind = tls.redirect_http.bind
    taken = {listener.bind: f"listeners[{n}]" for n, listener in enumerate(config.server.listeners)}
    taken |= {
        other.own_tls.redirect_http.bind: f"listeners[{n}].tls.redirect_http"
        for n, other in enumerate(config.server.listeners[:number])
        if other.own_tls is not None and other.own_tls.redirect_http is not None
    }
    if config.admin.enabled:
        taken[config.admin.bind] = "the admin listener"
    if bind in taken and (bind.port or bind.unix):
        yield Finding("conflict", ("redirect_http",), f"{bind} is already at {taken[bind]}", "each address once")


def check_hsts(hsts: Hsts) -> Iterable[Finding]:
    # the rules of https://hstspreload.org
    if hsts.preload and (not hsts.include_subdomains or hsts.max_age < YEAR):
        wanted = "include_subdomains: true, and max_age of 365d or more"
        yield Finding("conflict", ("preload",), "browsers do not take this site into their lists", wanted)


def check_same_names(certificates: Sequence[CertificateSpec]) -> Iterable[Finding]:
    """Of two certificates with keys of one kind for one name, only the first is ever served for it."""
    first: dict[tuple[str, bytes], int] = {}
    for number, certificate in enumerate(certificates):
        twice: dict[int, list[str]] = {}
        for name in certificate.names:
            other = first.setdefault((certificate.kind, name), number)
            if other != number:
                twice.setdefault(other, []).append(name.decode())
        for other, names in twice.items():
            words = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            message = f"certificates[{other}] has {words} too, with a key of the same kind, and is taken"
            yield Finding("duplicate_name", ("certificates", number), message, severity="warning")


# ------------------------------------------------------------------------------------------------- parameters


def lowest_version(tls: ListenerTls) -> str:
    """What `min_version` comes to."""
    return tls.min_version or ("1.3" if tls.profile == "modern" else "1.2")


def check_parameters(tls: ListenerTls) -> Iterable[Finding]:
    lowest = lowest_version(tls)
    if tls.max_version is not None and tls.max_version < lowest:
        where = "min_version" if tls.min_version else "profile"
        message = f"is {tls.max_version}, and `{where}` asks for {lowest} at least"
        yield Finding("conflict", ("max_version",), message, f"{lowest} or newer")
    if tls.ciphers and lowest == "1.3":
        message = "has no effect: they are ciphers of TLS 1.2, and only 1.3 is spoken"
        yield Finding("unused", ("ciphers",), message, "`ciphersuites`", severity="warning")
    if tls.ciphersuites and tls.max_version == "1.2":
        message = "has no effect: they are of TLS 1.3, and only 1.2 is spoken"
        yield Finding("unused", ("ciphersuites",), message, "`ciphers`", severity="warning")
    yield from check_ciphers(tls.ciphers)
    for number, suite in enumerate(tls.ciphersuites):
        if suite not in CIPHERSUITES:
            yield unknown(("ciphersuites", number), suite, "cipher suite of TLS 1.3", CIPHERSUITES)
    for number, group in enumerate(tls.groups):
        if group.lower() not in known_groups():
            yield unknown(("groups", number), group, "group this OpenSSL has", sorted(known_groups()))


def unknown(path: Path, word: str, what: str, known: Sequence[str]) -> Finding:
    hint = did_you_mean(word, known)
    expected = "" if hint else "one of " + ", ".join(known)
    return Finding("bad_choice", path, f"{shown(word)} is no {what}", expected, hint)


def known_groups() -> frozenset[str]:
    return GROUPS | HYBRID_GROUPS if ssl.OPENSSL_VERSION_INFO >= (3, 5) else GROUPS


def check_ciphers(ciphers: Sequence[str]) -> Iterable[Finding]:
    """OpenSSL drops words it does not know in silence, so each is tried alone; then what all of them give."""
    wrong = False
    for number, word in enumerate(ciphers):
        if OPERATOR.match(word) and (word.startswith("@") or selected(word[1:])):
            continue
        if word in CIPHERSUITES:
            wrong = True
            message = f"{shown(word)} is of TLS 1.3"
            yield Finding("bad_choice", ("ciphers", number), message, "under `ciphersuites`")
        elif not selected(word):
            wrong = True
            hint = did_you_mean(word, (str(cipher["name"]) for cipher in selected("ALL:COMPLEMENTOFALL")))
            expected = "" if hint else "names as `openssl ciphers` prints them"
            message = f"{shown(word)} is no cipher this OpenSSL has"
            yield Finding("bad_choice", ("ciphers", number), message, expected, hint)
    if not ciphers or wrong:
        return
    together = selected(":".join(ciphers))
    if not together:
        yield Finding("bad_value", ("ciphers",), "leaves no cipher", "at least one")
    weak = [
        str(cipher["name"])
        for cipher in together
        if int(cipher["strength_bits"]) < MIN_STRENGTH or cipher["auth"] == "auth-null"
    ]
    if weak:
        message = f"selects {', '.join(weak[:3])}{' and others' if len(weak) > 3 else ''}, which protect nothing"
        yield Finding("weak_key", ("ciphers",), message, "authenticated ciphers of 128 bits", "'!aNULL' takes them out")


@functools.lru_cache(maxsize=256)
def selected(words: str) -> tuple[dict[str, Any], ...]:
    """The ciphers of TLS 1.2 and before that OpenSSL selects by a cipher string; none when it takes it not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(words)
    except ssl.SSLError:
        return ()
    found: list[Any] = [cipher for cipher in context.get_ciphers() if cipher["name"] not in CIPHERSUITES]
    return tuple(found)


# ------------------------------------------------------------------------------------------------- services


def check_service(service: Service) -> tuple[UpstreamMaterial | None, list[Finding]]:
    """None when no endpoint is https."""
    tls = service.tls
    https = service.https
    found: list[Finding] = []
    if tls is None:
        return (UpstreamMaterial() if https else None), found
    if not https:
        message = "has no effect: no endpoint is https"
        found.append(Finding("unused", ("tls",), message, "https://host:port", severity="warning", at_key=True))
    material, findings = check_upstream(tls)
    found += below(("tls",), findings)
    return (material if https else None), found


def check_upstream(tls: UpstreamTls) -> tuple[UpstreamMaterial, list[Finding]]:
    found: list[Finding] = []
    ca = cert = private = b""
    if not tls.verify:
        message = "anybody on the way can answer in the upstream's place"
        wanted = "true, with `ca` for an own authority"
        found.append(Finding("exposed", ("verify",), message, wanted, severity="warning"))
        if tls.ca is not None:
            message = "has no effect: nothing is checked"
            found.append(Finding("unused", ("ca",), message, "verify: true", severity="warning"))
    if tls.ca is not None:
        ca, findings = load_authorities(tls.ca, "ca")
        found += findings
    if (tls.cert is None) != (tls.key is None):
        there, missing = ("cert", "key") if tls.key is None else ("key", "cert")
        found.append(Finding("missing_key", (there,), f"there is no `{missing}` with it", "both, or none"))
    elif tls.cert is not None and tls.key is not None:
        spec, findings = load(CertificateFiles(tls.cert, tls.key, tls.passphrase))
        # who shows a certificate needs no name in it
        found += [finding for finding in findings if "name" not in finding.message or finding.severity == "error"]
        if spec is not None:
            cert, private = spec.chain_pem, spec.key_pem
    return UpstreamMaterial(ca, cert, private), found
