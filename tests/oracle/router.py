"""Which route takes a request: docs/routing.md written down a second time, plain and slow, for tests to compare with.

Works on routes as a file has them (dicts) and imports nothing of fastgw. Every route is asked by itself whether it
fits; those that do are sorted by the precedence of the page.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

AGENTS = {
    "": "",
    "curl/8.1": "tool",
    "Mozilla/5.0 (X11) Firefox": "desktop",
    "Mozilla/5.0 (iPhone) Mobile": "mobile",
    "Mozilla/5.0 Googlebot": "bot",
    "strange": "",
}
"""User agents and their classes; the model knows no others."""


@dataclass(frozen=True)
class Request:
    method: str = "GET"
    host: str = ""
    path: str = "/"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    address: str = "127.0.0.1"

    def all(self, name):
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass(frozen=True)
class Verdict:
    status: int                  # 200, 308 (the path with the other slash), 404, 405
    route: int | None            # position in the file
    allowed: frozenset[str]      # with 405
    fitting: tuple[int, ...]     # whose host and path fit, in the order in which they are considered
    holding: frozenset[int]      # of these: the ones whose predicates, methods included, hold


# ------------------------------------------------------------------------------------------------ host


def host_of(text):
    """Lower case, no port, no dot at the end."""
    name = text.lower()
    name = name[: name.index("]") + 1] if name.startswith("[") else name.split(":")[0]
    return name[:-1] if name.endswith(".") else name


def hosts_of(route):
    given = route.get("host", [])
    return [given] if isinstance(given, str) else list(given)


def host_ranks(route, host):
    """(how exact, the host of the route) of each of its hosts that fits: smaller is more exact."""
    if not hosts_of(route):
        return [((2, 0), "")]
    found = []
    for wanted in hosts_of(route):
        if wanted.startswith("*."):
            if host.endswith(wanted[1:]) and host != wanted[1:]:
                found.append(((1, -len(wanted)), wanted))
        elif host == wanted:
            found.append(((0, 0), wanted))
    return found


# ------------------------------------------------------------------------------------------------ path


def pieces_of(path):
    """["a", "{x}", "{n:[0-9]+}", "*"] of "/a/{x}/{n:[0-9]+}/*"; regexes of the model have no slash and no brace."""
    return path[1:].split("/")


def is_regex(piece):
    return piece.startswith("{") and ":" in piece


def regex_of(piece):
    return piece[1:-1].split(":", 1)[1]


def same_place(first, second):
    """Do two segments of routes stand for the same thing, whatever the names?"""
    if is_regex(first) and is_regex(second):
        return regex_of(first) == regex_of(second)
    if first.startswith("{") and second.startswith("{"):
        return not is_regex(first) and not is_regex(second)
    return first == second


def predicates(route):
    """How many there are."""
    each = sum(len(route.get(key, ())) for key in ("headers", "query", "cookies"))
    return each + sum(key in route for key in ("user_agent", "client_ip", "methods"))


def considered(routes):
    """Positions: more predicates first, then as in the file."""
    return sorted(range(len(routes)), key=lambda i: (-predicates(routes[i]), i))


def turn(routes, host, pieces, at):
    """Parameters with different regexes at one place take turns as their routes are considered."""
    for place, number in enumerate(considered(routes)):
        route = routes[number]
        if host not in (hosts_of(route) or [""]) or route["path"].startswith("~"):
            continue
        others = pieces_of(route["path"])
        if len(others) > at and all(same_place(a, b) for a, b in zip(others[: at + 1], pieces, strict=False)):
            return place
    raise AssertionError("the route itself is at that place")


def path_ranks(routes, route, host, path):
    """(how exact segment by segment, is it the other slash) when the path fits, as a list of one; [] otherwise."""
    wanted = route["path"]
    if wanted.startswith("~"):
        return [(((3, 0),), False)] if re.fullmatch(wanted[1:].strip(), path, re.ASCII) else []
    own, given = pieces_of(wanted), path[1:].split("/")
    forms = [(own, False)]
    if route.get("trailing_slash", "strict") != "strict" and own[-1] != "*" and wanted != "/":
        forms.append((own[:-1] if own[-1] == "" else [*own, ""], True))
    for pieces, other in forms:
        rest = pieces[-1] == "*"
        fixed = pieces[:-1] if rest else pieces
        if len(given) < len(fixed) or (len(given) > len(fixed) and not rest):
            continue
        rank = []
        for at, (piece, value) in enumerate(zip(fixed, given, strict=False)):
            if is_regex(piece):
                if not value or not re.fullmatch(regex_of(piece), value, re.ASCII):
                    break
                rank.append((1, turn(routes, host, own, at)))
            elif piece.startswith("{"):
                if not value:
                    break
                rank.append((2, 0))
            else:
                if piece != value:
                    break
                rank.append((0, 0))
        else:
            return [((*rank, (4, 0)) if rest else tuple(rank), other)]
    return []


# ------------------------------------------------------------------------------------------------ predicates


def value_holds(wanted, values):
    if wanted == "*":
        return bool(values)
    if wanted == "!":
        return not values
    if wanted.startswith("~"):
        return any(re.fullmatch(wanted[1:].strip(), value) for value in values)
    return wanted in values


def query_of(query):
    """Names and values decoded; a pair without "=" has an empty value."""
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        yield tuple(as_text(unquote_to_bytes(part.replace("+", " "))) for part in (name, value))


def as_text(raw):
    """UTF-8, or Latin-1 when it is not."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def cookies_of(request):
    for line in request.all("cookie"):
        for pair in line.split(";"):
            name, equals, value = pair.lstrip(" ").partition("=")
            if equals:
                yield name, value


def predicates_hold(route, request):
    for name, wanted in route.get("headers", {}).items():
        if not value_holds(wanted, request.all(name)):
            return False
    for name, wanted in route.get("query", {}).items():
        if not value_holds(wanted, [value for key, value in query_of(request.query) if key == name]):
            return False
    for name, wanted in route.get("cookies", {}).items():
        if not value_holds(wanted, [value for key, value in cookies_of(request) if key == name]):
            return False
    agent = route.get("user_agent")
    if agent is not None:
        given = request.all("user-agent")
        if agent.startswith("~"):
            if not given or not re.fullmatch(agent[1:].strip(), given[0]):
                return False
        elif AGENTS[given[0] if given else ""] != agent:
            return False
    if "client_ip" in route:
        networks = [ipaddress.ip_network(text) for text in route["client_ip"]]
        if not any(ipaddress.ip_address(request.address) in network for network in networks):
            return False
    return True


def wanted_method(request):
    """A CORS pre-flight goes to the route of the request that it announces."""
    if request.method == "OPTIONS" and request.all("origin"):
        return (request.all("access-control-request-method") or [request.method])[0]
    return request.method


def method_holds(route, request):
    """HEAD goes where GET goes."""
    method, methods = wanted_method(request), route.get("methods")
    return methods is None or method in methods or (method == "HEAD" and "GET" in methods)


# ------------------------------------------------------------------------------------------------ the verdict


def decide(routes, request):
    order = {}
    for number, route in enumerate(routes):
        for rank, host in host_ranks(route, host_of(request.host)):
            for path_rank, other_slash in path_ranks(routes, route, host, request.path):
                key = (rank, path_rank, other_slash, -predicates(route), number)
                order[number] = min(order.get(number, (key, other_slash)), (key, other_slash))
    fitting = sorted(order, key=order.__getitem__)
    asking = [number for number in fitting if predicates_hold(routes[number], request)]
    holding = [number for number in asking if method_holds(routes[number], request)]
    found = (tuple(fitting), frozenset(holding))
    if holding:
        slash = order[holding[0]][1] and routes[holding[0]]["trailing_slash"] == "redirect"
        return Verdict(308 if slash else 200, holding[0], frozenset(), *found)
    if not asking:
        return Verdict(404, None, frozenset(), *found)
    allowed = {method for number in asking for method in routes[number]["methods"]} | {"OPTIONS"}
    return Verdict(405, None, frozenset(allowed | ({"HEAD"} if "GET" in allowed else set())), *found)
