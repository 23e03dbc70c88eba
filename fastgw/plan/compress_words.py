"""What `compress` would make of the answer to a request, in words, for `fastgw explain`."""

from __future__ import annotations

from collections.abc import Sequence

from fastgw._core.compress import preference
from fastgw.policies.compress import CompressOptions


def compress_words(options: CompressOptions, method: str, headers: Sequence[tuple[str, str]]) -> str:
    """`headers` are those of the request."""

    def said(name: str) -> list[str]:
        return [value for key, value in headers if key.lower() == name]

    accepted = said("accept-encoding")
    offered = [coding.encode() for coding in options.encodings]
    at = preference(offered, [value.encode("latin-1", "replace") for value in accepted])
    directives = ",".join(said("cache-control")).lower().split(",")
    if "no-transform" in [item.partition("=")[0].strip() for item in directives]:
        return "plain: the client says no-transform"
    if at < 0:
        asked = f"Accept-Encoding {', '.join(accepted)!r}" if accepted else "no Accept-Encoding"
        verb = "is" if len(options.encodings) == 1 else "are"
        return f"plain: {asked}, and {', '.join(options.encodings)} {verb} offered"
    credentials = (said("cookie") or said("authorization")) and options.credentials != "always"
    if credentials and (options.credentials == "never" or other_site(headers)):
        return f"plain: the request has credentials, and `credentials` is {options.credentials}"
    coding = options.encodings[at]
    types = f"{', '.join(options.types[:3])}{', …' if len(options.types) > 3 else ''}"
    head = "the header of it, " if method == "HEAD" else ""
    return (
        f"{head}{coding} at level {getattr(options.levels, coding)}, where the answer is not encoded yet, its type is "
        f"one of {types}, and it has {options.min_size} bytes or more"
    )


def other_site(headers: Sequence[tuple[str, str]]) -> bool:
    """As the policy judges: by Sec-Fetch-Site, without it by Origin or Referer."""
    found = {name.lower(): value.lower() for name, value in headers}
    site = found.get("sec-fetch-site")
    if site is None:
        return "origin" in found or "referer" in found
    return site not in ("same-origin", "same-site", "none")
