"""Checked configuration → what a worker serves by.

    spec = compile_spec(config)          # cold: in the agent or the supervisor; can be pickled
    plan = yield from build(spec, …)     # in the worker, in slices that do not stall its loop
"""

from fastgw.plan.build import Host, build, build_now, discover
from fastgw.plan.spec import PlanSpec, ServiceSpec, compile_spec, with_tls
from fastgw.plan.tls import CertificateSpec, Tickets, TlsSpec, UpstreamTlsSpec

__all__ = [
    "CertificateSpec", "Host", "PlanSpec", "ServiceSpec", "Tickets", "TlsSpec", "UpstreamTlsSpec", "build", "build_now",
    "compile_spec", "discover", "with_tls",
]  # fmt: skip
