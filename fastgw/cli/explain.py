"""`fastgw explain FILE 'GET http://host/path'`: which route takes a request, and why the others do not."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import orjson

from fastgw.cli.loading import load_or_print

if TYPE_CHECKING:
    from fastgw._core.client_certificate import ClientCertificate
    from fastgw.config import Config

# What else the route has: key of the data, and the word that its lines begin with.
TOLD = (
    ("limits", "limit"),
    ("quotas", "quota"),
    ("cache", "cache"),
    ("compress", "compress"),
    ("mirror", "mirror"),
    ("websocket", "websocket"),
    ("circuit_breaker", "circuit"),
    ("fallback", "fallback"),
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "explain",
        help="tell which route takes a request, and why",
        description="Lists the routes whose host and path fit, in the router's order, with the first predicate that "
        "failed; then the chosen route, its policies in order, its service and the target sent there, and what the "
        "policies that ask who calls say to the keys and tokens of -H. Exit code 0: a route was found; 1: none, or the "
        "configuration has problems.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "request",
        metavar="REQUEST",
        help="'GET http://host/path?query', or a URL alone for GET; tcp://host:port for a listener of `protocol: tcp`, "
        "tls://name:port for one with `tls: passthrough`",
    )
    parser.add_argument("-H", "--header", action="append", default=[], metavar="'Name: value'")
    parser.add_argument("--client-ip", default="127.0.0.1", metavar="ADDRESS")
    parser.add_argument(
        "--client-cert", metavar="FILE", help="the client's certificate (PEM), as if the listener had verified it"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastgw.plan.explain import as_data, ask, explain

    config = load_or_print(args.file)
    if config is None:
        return 1
    method, _, url = args.request.strip().rpartition(" ")
    if url.startswith(("tcp://", "tls://")):
        return connection(config, url, args.json)
    headers = []
    for header in args.header:
        name, colon, value = header.partition(":")
        if not colon:
            print(f"fastgw: {header!r} is not a header; write 'Name: value'", file=sys.stderr)
            return 2
        headers.append((name.strip(), value.strip()))
    try:
        asked = ask(config, (method or "GET").upper(), url, headers, args.client_ip)
        found = explain(config, asked)
    except ValueError as error:
        print(f"fastgw: {error}", file=sys.stderr)
        return 2
    data = as_data(config, found)
    if found.chosen is not None and found.asked is not None:
        from fastgw.server.verdicts import verdicts

        try:
            certificate = shown_certificate(args.client_cert) if args.client_cert else None
            data["verdicts"] = verdicts(config, found.chosen, found.asked, found.captures, certificate)
        except OSError as error:
            print(f"fastgw: {args.client_cert}: {error.strerror}", file=sys.stderr)
            return 2
        except ValueError as error:
            print(f"fastgw: the policies cannot be asked: {error}", file=sys.stderr)
    if args.json:
        print(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
    else:
        print(text(args.file, data))
    return 0 if found.chosen is not None else 1


def shown_certificate(file: str) -> ClientCertificate:
    """OSError, ValueError for what is none."""
    import ssl
    from pathlib import Path

    from fastgw._core.client_certificate import ClientCertificate

    text = Path(file).read_text("ascii", "replace")
    begin = text.find("-----BEGIN CERTIFICATE-----")
    end = text.find("-----END CERTIFICATE-----", begin)
    if begin < 0 or end < 0:
        raise ValueError(f"{file} has no certificate in PEM")
    return ClientCertificate(ssl.PEM_cert_to_DER_cert(text[begin : end + len("-----END CERTIFICATE-----")]))


def connection(config: Config, url: str, as_json: bool) -> int:
    from fastgw.plan.tcp import explain_connection

    try:
        data = explain_connection(config, url)
    except ValueError as error:
        print(f"fastgw: {error}", file=sys.stderr)
        return 2
    if as_json:
        print(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
    else:
        for name, value in data.items():
            words = ", ".join(value) if isinstance(value, list) else "none" if value is None else value
            print(f"{name:<15} {words}")
    return 0 if "service" in data else 1


def several(data: dict[str, object], key: str) -> list[Any]:
    """What is listed below the key; nothing where it is missing."""
    found = data.get(key, [])
    assert isinstance(found, list)
    return found


def text(file: str, data: dict[str, object]) -> str:
    lines = []
    candidates = data["candidates"]
    assert isinstance(candidates, list)
    if candidates:
        lines.append("candidates, in the router's order:")
        width = max(len(c["route"]) for c in candidates)
        for c in candidates:
            verdict = "chosen" if c["chosen"] else f"no: {c['failed']}" if c["failed"] else "fits, but comes later"
            lines.append(f"  {c['route']:<{width}}  {file}:{c['line']}  {verdict}")
    lines.append(f"{data['other_routes']} other routes: host or path does not fit")
    if "route" in data:
        policies = data["policies"]
        assert isinstance(policies, list)
        lines += ["", f"route     {data['route']}"]
        if data["captures"]:
            lines.append(f"captures  {data['captures']}")
        chain = " → ".join(f"{use['name']} ({file}:{use['line']})" for use in policies)
        lines.append(f"policies  {chain or 'none'}")
        if "service" in data:
            lines.append(f"service   {data['service']}")
        if "split" in data:
            lines.append(f"split     {data['split']}")
        lines += [f"endpoint  {words}" for words in several(data, "endpoint")]
        lines += [f"{key:<9} {words}" for key in ("speaks", "discovery") for words in several(data, key)]
        resilience = data["resilience"]
        assert isinstance(resilience, dict)
        lines += [f"{key:<9} {words}" for key, its in resilience.items() for words in its]
        from fastgw.server.verdicts import as_text

        lines += as_text(several(data, "verdicts"))
        lines += [f"{word:<9} {words}" for key, word in TOLD for words in several(data, key)]
        lines.append(f"target    {data['target']}")
        if data["status"] == 308:
            lines.append("answer    308 to the path with the other trailing slash")
    else:
        words = {400: "the target is refused", 404: "no route matches", 405: f"Allow: {data.get('allow')}"}
        status = data["status"]
        assert isinstance(status, int)
        lines += ["", f"answer    {status}: {words.get(status, '')}"]
    return "\n".join(lines)
