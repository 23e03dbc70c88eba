"""fastgw: an API gateway with a Cython hot path."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastgw._core.exchange import Exchange, Problem, Refused, Reply, WholeBody
    from fastgw.config import check, load
    from fastgw.gateway import Gateway
    from fastgw.policies.base import BuildContext, Policy, PolicyError

__version__ = "0.1.0"

# Public name → where it is. Imported on first use: `import fastgw` loads nothing.
_PLACES = {
    "BuildContext": "fastgw.policies.base",
    "Exchange": "fastgw._core.exchange",
    "Gateway": "fastgw.gateway",
    "Policy": "fastgw.policies.base",
    "PolicyError": "fastgw.policies.base",
    "Problem": "fastgw._core.exchange",
    "Refused": "fastgw._core.exchange",
    "Reply": "fastgw._core.exchange",
    "WholeBody": "fastgw._core.exchange",
    "check": "fastgw.config",
    "load": "fastgw.config",
}

__all__ = [
    "BuildContext",
    "Exchange",
    "Gateway",
    "Policy",
    "PolicyError",
    "Problem",
    "Refused",
    "Reply",
    "WholeBody",
    "__version__",
    "check",
    "load",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'fastgw' has no attribute {name!r}")
    return getattr(import_module(place), name)
