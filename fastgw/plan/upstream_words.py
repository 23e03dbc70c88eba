"""What is spoken to the services of a route, who knows their endpoints, what answers for them, in words."""

from __future__ import annotations

from fastgw.config import Config
from fastgw.config.fields import format_duration
from fastgw.config.schema.routes import Route
from fastgw.config.schema.services import Service
from fastgw.config.schema.tls import UpstreamTls
from fastgw.plan.resilience import services_of
from fastgw.policies.fallback import FallbackOptions

SPOKEN = {"http/1.1": "HTTP/1.1", "h2": "HTTP/2", "h2c": "HTTP/2", "auto": "HTTP/2 or HTTP/1.1 (ALPN)"}


def schemes_of(service: Service) -> set[str]:
    found = {str(endpoint.url).partition(":")[0] for endpoint in service.endpoints}
    return found | ({service.discovery.scheme} if service.discovery is not None else set())


def speaks(service: Service) -> str:
    """Empty where it is HTTP/1.1 without TLS, as nearly everywhere."""
    secure = "https" in schemes_of(service)
    words = "HTTP/1.1" if service.protocol == "auto" and not secure else SPOKEN[service.protocol]
    told = [] if service.proxy_protocol is None else [f"after a PROXY header {service.proxy_protocol}"]
    if secure:
        words += " over TLS"
        tls = service.tls or UpstreamTls()
        name = tls.server_name or "the endpoint's host"
        who = "the system's authorities" if tls.ca is None else tls.ca
        checked = f"checked for {name} by {who}" if tls.verify else "not checked"
        told.append(f"its certificate is {checked}")
        told += [f"shown {tls.cert}"] if tls.cert is not None else []
    return "; ".join([words, *told]) if secure or told or words != "HTTP/1.1" else ""


def found_by(service: Service, name: str) -> str:
    source = service.discovery
    assert source is not None
    where = source.path or source.address or ("this cluster" if source.type == "kubernetes" else "this host's resolver")
    until = "those of the file" if service.endpoints else "none"
    words = f"{source.type}, {source.service or name} at {where}"
    return f"{words}; before it answers, and {format_duration(source.keep)} after it last did: {until}"


def fallback_words(options: FallbackOptions) -> str:
    what = []
    if options.service is not None:
        what.append(f"{options.service} is asked, for {format_duration(options.timeout)}")
    if options.reply is not None:
        what.append(f"the answer {options.reply.status} of the file")
    return f"after {', '.join(options.when)}: {', then '.join(what)}"


def upstream_words(config: Config, route: Route) -> dict[str, list[str]]:
    """By key; those that nothing is said of are left out."""
    services = [(name, config.services[name]) for name in services_of(route)]
    uses = (use.options for use in config.chain(route))
    found = {
        "speaks": [f"{name}: {words}" for name, service in services if (words := speaks(service))],
        "discovery": [f"{name}: {found_by(service, name)}" for name, service in services if service.discovery],
        "fallback": [fallback_words(options) for options in uses if isinstance(options, FallbackOptions)],
    }
    return {key: lines for key, lines in found.items() if lines}
