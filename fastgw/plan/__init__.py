"""Checked configuration → what a worker serves by.

    spec = compile_spec(config)          # cold: in the agent or the supervisor; can be pickled
    plan = yield from build(spec, …)     # in the worker, in slices that do not stall its loop
"""

from fastgw.plan.build import Host, build, build_now
from fastgw.plan.spec import PlanSpec, ServiceSpec, compile_spec

__all__ = ["Host", "PlanSpec", "ServiceSpec", "build", "build_now", "compile_spec"]
