"""What a failure looks like to the client: problem+json (RFC 9457), text/html for browsers, or the user's own."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import orjson

from fastgw._core.codes import CODES, SIDES

if TYPE_CHECKING:
    from fastgw._core.exchange import Exchange, Problem

_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{status} {title}</title></head>
<body><h1>{status} {title}</h1><p>{detail}</p><p><small>{code} · {request_id}</small></p></body></html>
"""

TITLES = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 413: "Content Too Large", 414: "URI Too Long", 417: "Expectation Failed",
    429: "Too Many Requests", 431: "Request Header Fields Too Large", 499: "Client Closed Request",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip


def prefers_html(accept: str) -> bool:
    """True when text/html is named and no JSON type is: what a browser sends for a page."""
    return "text/html" in accept and "json" not in accept


def reason(problem: Problem) -> str:
    """One sentence: the detail, or the title of its code."""
    known = CODES.get(problem.code)
    return problem.detail or (known.title if known else TITLES.get(problem.status, "Error"))


def render(problem: Problem, exchange: Exchange) -> tuple[str, bytes]:
    """(content type, body). The user's own page comes first: for the code, the status, the class."""
    pages = getattr(exchange.plan, "error_pages", None) if exchange.plan is not None else None
    if pages:
        page = pages.get(problem.code) or pages.get(str(problem.status)) or pages.get(f"{problem.status // 100}xx")
        if page is not None:
            return page.content_type, page.render(problem, exchange)
    known = CODES.get(problem.code)
    title = known.title if known else TITLES.get(problem.status, "Error")
    request_id = exchange.id
    if prefers_html(exchange.request.get("accept") or ""):
        text = _HTML.format(
            status=problem.status,
            title=html.escape(TITLES.get(problem.status, title)),
            detail=html.escape(problem.detail or title),
            code=html.escape(problem.code),
            request_id=html.escape(request_id),
        )
        return "text/html; charset=utf-8", text.encode()
    members: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": problem.status,
        "code": problem.code,
        "side": SIDES[problem.side],
        "request_id": request_id,
    }
    if problem.detail:
        members["detail"] = problem.detail
    members.update(problem.members)
    return "application/problem+json", orjson.dumps(members)
