"""One health check of one endpoint."""

from __future__ import annotations

import asyncio
import os
import ssl

from fastgw.config.schema.address import Origin
from fastgw.config.schema.health import HealthCheck
from fastgw.config.schema.tls import UpstreamTls
from fastgw.upstreams.discovery.base import SourceError
from fastgw.upstreams.discovery.http import Call

BODY = 64 * 1024
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def trust_of(tls: UpstreamTls, ca: bytes, cert: bytes, key: bytes, http2: bool = False) -> ssl.SSLContext:
    """As the service's own connections: `ca`, `cert` and `key` are PEM; no `ca` is the system's; `http2`: that is
    asked for (ALPN). ssl.SSLError or OSError when they cannot be used."""
    context = ssl.create_default_context(cadata=ca.decode() or None)
    context.minimum_version = VERSIONS[tls.min_version]
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if http2:
        context.set_alpn_protocols(["h2"])                   # RFC 9113 3.2
    if cert:
        # the library reads files only; this one has no name and is never on a disk
        fd = os.memfd_create("check", os.MFD_CLOEXEC)
        try:
            os.write(fd, cert + b"\n" + key)
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
    return context


class Check:
    """`await Check(…).run(host)`: "" when the endpoint is well, else why it is not, in a few words.

    host_header   sent as Host; None: the endpoint's own
    trust         for https endpoints
    server_name   asked for by TLS and checked; None: the endpoint's host
    """

    def __init__(
        self,
        options: HealthCheck,
        origin: Origin,
        host_header: str | None = None,
        trust: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        self.options = options
        self.origin = origin
        self.trust = trust if not origin.unix and origin.scheme == "https" else None
        self.server_name = server_name
        self.headers = {"Accept": "*/*"}
        if options.host or host_header:
            self.headers["Host"] = options.host or host_header or ""

    async def run(self, host: str) -> str:
        """`host`: an IP address, or a unix socket's path; never a name."""
        try:
            async with asyncio.timeout(self.options.timeout):
                if self.options.type == "tcp":
                    return await self.tcp(host)
                return await (self.grpc(host) if self.options.type == "grpc" else self.http(host))
        except TimeoutError:
            return f"no answer in {self.options.timeout:g} s"
        except SourceError as error:
            return str(error)
        except ssl.SSLError as error:
            return f"TLS: {error.reason or type(error).__name__}"
        except OSError as error:
            return os.strerror(error.errno) if error.errno else type(error).__name__

    def at(self, host: str) -> tuple[str, int]:
        return host, self.options.port or self.origin.port

    async def connect(self, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.origin.unix:
            return await asyncio.open_unix_connection(host)
        name = (self.server_name or self.origin.host) if self.trust is not None else None
        return await asyncio.open_connection(*self.at(host), ssl=self.trust, server_hostname=name)

    async def tcp(self, host: str) -> str:
        _, writer = await self.connect(host)
        writer.transport.abort()
        return ""

    async def grpc(self, host: str) -> str:
        from fastgw.upstreams.grpc_health import HealthCall

        reader, writer = await self.connect(host)
        try:
            agreed = writer.get_extra_info("ssl_object")
            if agreed is not None and agreed.selected_alpn_protocol() != "h2":
                return "the endpoint does not agree to HTTP/2"
            name = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
            own = "localhost" if self.origin.unix else f"{name}:{self.origin.port}"
            call = HealthCall(
                reader,
                writer,
                service=self.options.service,
                authority=self.headers.get("Host") or own,
                scheme="http" if agreed is None else "https",
                timeout=self.options.timeout,
            )
            return await call.run()
        finally:
            writer.transport.abort()

    async def http(self, host: str) -> str:
        options = self.options
        call = Call(
            self.origin, "GET", options.path, headers=self.headers, timeout=options.timeout, trust=self.trust,
            at=self.at(host), server_name=self.server_name,
        )  # fmt: skip
        async with call:
            status = str(call.status)
            if status not in options.statuses and f"{status[0]}xx" not in options.statuses:
                return f"status {status}"
            if options.body is not None and not await call.has(options.body.encode(), BODY):
                return "the body has not the text that it should"
        return ""
