"""`oidc`: people log in at their identity provider (OpenID Connect Core 1.0, code flow with PKCE)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Iterable
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import BeforeValidator, model_validator

from fastgw._core.exchange import Consumer, Exchange, Problem, Reply, WholeBody
from fastgw._core.verified import Verified
from fastgw.config.fields import Duration, HeaderName, Name, wrong
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.discovery import BesideFile
from fastgw.config.schema.stores import StoreName
from fastgw.policies._issuers import EVERY, SecureUrl
from fastgw.policies._keysets import Source, ring_of
from fastgw.policies._logins import Known, Logins, store_problem
from fastgw.policies._oauth import Expiring, OAuthClient, Refused, Unreachable, post, unavailable
from fastgw.policies._parts import listed
from fastgw.policies._session import Sealer, cookies_of, hide_cookies, joined, split
from fastgw.policies._tokens import Issuer, Rules, UnknownKey, Verifier, claim, identity, scopes_of
from fastgw.policies.base import BuildContext, Policy, PolicySecret
from fastgw.store import StoreError
from fastgw.store.sessions import Sessions

logger = logging.getLogger("fastgw.oidc")
Texts = Annotated[tuple[str, ...], BeforeValidator(listed)]
PATH = r"^/[A-Za-z0-9._~/-]*$"
LOGIN_SECONDS = 600
MAX_RETURN = 2000
REMEMBERED = 10_000
POLLS, POLL_SECONDS = 50, 0.1
MAX_LOGOUT = 32768
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
NO_STORE = ("Cache-Control", "no-store")
Answer = Reply | Problem | None


class Session(Room):
    """What the browser keeps: cookies that are encrypted and that no script can read."""

    secret: PolicySecret = key(doc="What they are encrypted with: 32 characters or more.", example="${SESSION_SECRET}")
    old_secrets: tuple[PolicySecret, ...] = key(
        (), "Secrets of before: sessions sealed with them are good until they end.", max_length=5
    )
    cookie: str = key("fastgw_session", "Its name.", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    lifetime: Duration = key(28800.0, "How long a login is good; then the provider is asked again.", ge=60, le=2592000)
    store: StoreName | None = key(
        None, "Sessions are kept here, the cookie only names one: they can be listed and ended, and have the "
        "provider's tokens, sealed with `secret`. `memory` is each worker's own.", example="redis",
    )  # fmt: skip
    name: Name = key("oidc", "With a `store`: routes, and hosts, with this name share sessions.")
    idle: Duration = key(1800.0, "With a `store`: a session that is not used for so long ends.", ge=60, le=2592000)
    interval: Duration = key(
        5.0, "With a `store`: how long a worker believes what it said: a session that was ended elsewhere may last so "
        "long.", ge=0, le=300,
    )  # fmt: skip
    refresh_ahead: Duration = key(
        60.0, "With a `store`: so long before the access token ends it is refreshed, where the provider gave a refresh "
        "token. The session ends when he refuses.", ge=0, le=3600,
    )  # fmt: skip
    forward_token: bool = key(False, "With a `store`: the service gets the access token, `Authorization: Bearer …`.")

    @model_validator(mode="after")
    def _strong(self) -> Session:
        for secret in (self.secret, *self.old_secrets):
            if not secret.missing and len(secret.reveal()) < 32:
                raise wrong("bad_value", "a session secret has less than 32 characters", "openssl rand -base64 32")
        if self.forward_token and self.store is None:
            raise wrong("conflict", "`forward_token` needs a `store`: cookies do not hold tokens", "store: redis")
        return self


class OidcOptions(OAuthClient):
    """Where people log in, and what is made of it."""

    issuer: SecureUrl = key(doc="The provider; the rest is found by discovery.", example="https://id.example.com/")
    ca: BesideFile | None = key(
        None, "A file with the certificates that sign for the provider's keys; by default those of the host.",
        min_length=1, max_length=4096, example="id-ca.crt",
    )  # fmt: skip
    base_url: SecureUrl = key(
        doc="What browsers call this gateway, without a path.", example="https://shop.example.com"
    )
    callback_path: str = key("/oauth2/callback", "Where the provider sends browsers back to; `base_url` with it is the "
                             "redirect URI to register there. The route must take it.", pattern=PATH)  # fmt: skip
    logout_path: str = key("/oauth2/logout", "Ends the session, here and at the provider.", pattern=PATH)
    backchannel_path: str | None = key(
        None, "Where the provider says that somebody logged out (OpenID Connect Back-Channel Logout); with "
        "`session.store: redis`. The route must take it.", pattern=PATH, example="/oauth2/backchannel",
    )  # fmt: skip
    after_logout: str = key("/", "Where browsers go then.", pattern=PATH)
    scopes: Texts = key(("openid",), "What is asked for; `openid` is always among it.", max_length=50,
                        example=["openid", "email"])  # fmt: skip
    claims: Texts = key(("sub", "email", "name"), "Claims of the ID token that the session keeps.", max_length=50)
    session: Session = key(doc="What the browser keeps.")
    user_claim: str = key("sub", "The claim that names who logged in: the consumer, and X-User-Id.", max_length=200)
    user_header: HeaderName = key("X-User-Id", "Tells the upstream who it is. What the client sends is removed.")
    scopes_header: HeaderName = key(
        "X-User-Scopes", "Tells the upstream the scopes, where the session keeps the claim `scope`. What the client "
        "sends is removed."
    )  # fmt: skip
    leeway: Duration = key(30.0, "How far clocks may differ.", ge=0, le=600)

    @model_validator(mode="after")
    def _paths(self) -> OidcOptions:
        if urlsplit(self.base_url).path not in ("", "/") or urlsplit(self.base_url).query:
            raise wrong("bad_value", "`base_url` has a path", "https://host")
        if len({self.callback_path, self.logout_path, self.after_logout}) != 3:
            raise wrong("conflict", "two of the paths are the same", "different paths")
        if self.backchannel_path is not None and self.session.store != "redis":
            raise wrong("conflict", "`backchannel_path` needs sessions in Redis", "session: {store: redis, …}")
        return self

    @property
    def source(self) -> Source:
        return Source(self.issuer, None, tuple(EVERY), self.ca)


def same_text(a: object, b: str) -> bool:
    return isinstance(a, str) and hmac.compare_digest(a.encode(), b.encode())


def failed(detail: str) -> Problem:
    return Problem(401, "login_failed", detail, headers=(NO_STORE, ("WWW-Authenticate", "Session")))


class Oidc(Policy):
    """Browsers without a session are sent to the provider, and come back with one; other requests are 401.

    The upstream gets X-User-Id and X-User-Scopes, and no session cookie. 401 unauthorized, login_failed; 503
    keys_unavailable while the provider was never reached, authorizer_unavailable while it gives no tokens. Order:
    before everything that asks who calls; the route must take `callback_path` and `logout_path` too. With
    `session.store`, 503 store_unavailable while the store does not answer. Failure: closed.
    """

    name = "oidc"
    Options = OidcOptions
    identifies = True
    options: OidcOptions

    @classmethod
    def references(cls, options: OidcOptions) -> Iterable[Reference]:
        found = [Reference("service", options.service, ("service",))]
        store = options.session.store
        return found if store is None else [*found, Reference("store", store, ("session", "store"))]

    @classmethod
    def sources(cls, options: OidcOptions) -> Iterable[Source]:
        return [options.source]

    def __init__(self, options: OidcOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.keys = ring_of(context.shared).of(options.source)
        self.base = options.base_url.rstrip("/")
        self.rules = Rules(
            audiences=(options.client_id,), leeway=options.leeway, required_claims={},
            user_claim=options.user_claim, user_header=options.user_header, scopes_header=options.scopes_header,
        )  # fmt: skip
        self.verifier = Verifier((), self.rules, {options.issuer: Issuer(self.keys)})
        session = options.session
        texts = [secret.reveal() for secret in (session.secret, *session.old_secrets)]
        whose = f"{options.issuer} {options.client_id} {session.cookie}"
        self.sessions = Sealer(texts, f"session {whose}")
        self.logins = Sealer(texts, f"login {whose}")
        self.known: Expiring[tuple[Consumer, dict[str, Any]]] = Expiring(REMEMBERED, time.time)
        self.kept: Logins | None = None
        if session.store is not None:
            store = context.store(session.store)
            place = ("oidc", session.name, session.store, context.stores.redis)
            self.kept = Logins(
                store, Sessions(store, session.name, session.idle, session.lifetime, 0.0),
                Sealer(texts, f"tokens {whose}"), session.refresh_ahead, session.interval,
                context.of_plan.get_or_create(place, lambda: Expiring(REMEMBERED, time.time)), self.consumer_by,
            )  # fmt: skip
        secure = "; Secure" if self.base.startswith("https:") else ""
        # Strict would keep the session back on the way from the provider: the login would begin anew, for ever
        self.attributes = f"; Path=/; HttpOnly; SameSite=Lax{secure}"
        # the login's cookie must come along when the provider sends the browser back, from another site
        self.login_attributes = f"; Path={options.callback_path}; HttpOnly; SameSite=Lax{secure}"

    def request(self, exchange: Exchange) -> Answer | WholeBody | Awaitable[Answer]:
        options = self.options
        exchange.request.remove(options.user_header)
        exchange.request.remove(options.scopes_header)
        if exchange.path == options.callback_path:
            return self.called_back(exchange)
        cookies = cookies_of(exchange, options.session.cookie)
        if exchange.path == options.backchannel_path and self.kept is not None:
            return self.logged_out(exchange, self.kept)
        if self.kept is not None:
            return self.by_store(exchange, self.kept, cookies.get(options.session.cookie, ""))
        if exchange.path == options.logout_path:
            return self.log_out(cookies)
        found = self.session(joined(cookies, options.session.cookie)) if cookies else None
        if found is None:
            return self.log_in(exchange)
        self.passed(exchange, *found)
        return None

    def passed(self, exchange: Exchange, consumer: Consumer, claims: dict[str, Any]) -> None:
        options = self.options
        exchange.consumer, exchange.claims = consumer, claims
        exchange.request.set(options.user_header, consumer.name)
        if scopes := scopes_of(claims, self.rules):
            exchange.request.set(options.scopes_header, " ".join(scopes))
        hide_cookies(exchange, options.session.cookie)

    # ------------------------------------------------------------------ a session in a store

    def consumer_by(self, claims: dict[str, Any]) -> Consumer | None:
        told = identity(claims, self.rules)
        return None if isinstance(told, Problem) else told.consumer

    def by_store(self, exchange: Exchange, kept: Logins, cookie: str) -> Answer | Awaitable[Answer]:
        if exchange.path != self.options.logout_path:
            if not cookie:
                return self.log_in(exchange)
            known = kept.known.get(kept.place(cookie))
            if known is not None and not kept.aged(known) and not kept.sessions.due(known.session):
                self.passed_on(exchange, known)
                return None
        return self.looked_up(exchange, kept, cookie)

    def passed_on(self, exchange: Exchange, known: Known) -> None:
        self.passed(exchange, known.consumer, known.claims)
        if self.options.session.forward_token and known.token:
            exchange.request.set("Authorization", f"Bearer {known.token}")

    async def looked_up(self, exchange: Exchange, kept: Logins, cookie: str) -> Answer:
        try:
            found = await kept.look(cookie)
            if exchange.path == self.options.logout_path:
                hint = kept.tokens(found[0].session).get("id_token") if found is not None else None
                if found is not None:
                    await kept.end(found[0].session.id, cookie)
                return self.log_out({self.options.session.cookie: cookie}, hint)
            if found is None:
                return self.log_in(exchange)
            known: Known | None = found[0]
            if known is not None and kept.aged(known):
                known = await self.refreshed(exchange, kept, known, cookie)
        except StoreError as error:
            return store_problem(error)
        except Unreachable:
            return unavailable("The provider")
        if known is None:
            return self.log_in(exchange)
        self.passed_on(exchange, known)
        return None

    async def refreshed(self, exchange: Exchange, kept: Logins, known: Known, cookie: str) -> Known | None:
        """RFC 6749 §6. While the token is still good, one request waits for the provider and no other."""
        name = known.session.id
        ended = known.expires <= time.time()
        if not kept.flights.under_way(name):
            if not kept.flights.full and await kept.may_refresh(known):
                refresh = kept.tokens(known.session).get("refresh") or ""
                parts = urlsplit(self.keys.metadata.get("token_endpoint") or "/")
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                form = {"grant_type": "refresh_token", "refresh_token": refresh}
                try:
                    asked = post(exchange, self.options, path, form)
                except Unreachable:
                    await kept.stop_refresh(known)
                    raise
                kept.flights.go(name, lambda: kept.refresh(known, cookie, asked))
            elif not ended:
                return known
        elif not ended:
            return known
        flight = kept.flights.tasks.get(name)
        if flight is not None:
            try:
                return await asyncio.shield(flight)
            except Unreachable:
                if known.expires <= time.time():
                    raise
                return known                         # it is still good; the next request tries again
        for _ in range(POLLS):                       # another worker, or host, is at it
            await asyncio.sleep(POLL_SECONDS)
            found = await kept.look(cookie)
            if found is None or found[0].expires > time.time():
                return None if found is None else found[0]
        raise Unreachable("the tokens are being refreshed elsewhere")

    def logged_out(self, exchange: Exchange, kept: Logins) -> Answer | WholeBody | Awaitable[Answer]:
        """OpenID Connect Back-Channel Logout 1.0 §2.5 to §2.8."""
        if exchange.method != "POST":
            return Problem(405, "method_not_allowed", "The provider posts here.", {"Allow": "POST"})
        if exchange.request_body is None and exchange.announces_body:
            return WholeBody(MAX_LOGOUT)
        form = dict(parse_qsl((exchange.request_body or b"").decode("latin-1")))
        return self.end_all(kept, form.get("logout_token", ""))

    async def end_all(self, kept: Logins, token: str) -> Answer:
        found = await self.checked(token)
        if isinstance(found, Problem):
            return found if found.status == 503 else Problem(400, "login_failed", "The logout token is not good.")
        claims = found.claims
        events, sub, sid = claims.get("events"), claims.get("sub"), claims.get("sid")
        # §2.6: an ID token must not pass for one
        good = isinstance(events, dict) and LOGOUT_EVENT in events and "nonce" not in claims and "iat" in claims
        if not good or not isinstance(sub, str) or not isinstance(sid, (str, type(None))):
            return Problem(400, "login_failed", "The logout token does not say who.")
        try:
            await kept.ended_by_provider(sub, sid)
        except StoreError as error:
            return store_problem(error)
        return Reply(200, b"", (NO_STORE,))

    # ------------------------------------------------------------------ a session

    def session(self, text: str) -> tuple[Consumer, dict[str, Any]] | None:
        found = self.known.get(text)
        if found is not None or not text:
            return found
        opened = self.sessions.open(text)
        if opened is None or opened["end"] <= time.time():
            return None
        told = identity(opened["claims"], self.rules)
        if isinstance(told, Problem) or told.consumer is None:
            return None
        found = told.consumer, opened["claims"]
        self.known.put(text, found, opened["end"] - time.time())
        return found

    def no_session(self, cookies: Iterable[str]) -> list[tuple[str, str]]:
        return [("Set-Cookie", f"{name}=; Max-Age=0{self.attributes}") for name in cookies]

    # ------------------------------------------------------------------ to the provider

    def log_in(self, exchange: Exchange) -> Reply | Problem:
        """OpenID Connect Core §3.1.2.1, RFC 7636 (PKCE). Only a browser that goes to a page can be sent away."""
        options = self.options
        page = exchange.method in ("GET", "HEAD") and "text/html" in (exchange.request.get("accept") or "")
        if not page:
            headers = (NO_STORE, ("WWW-Authenticate", "Session"))
            return Problem(401, "unauthorized", "There is no session; a browser gets one.", headers=headers)
        endpoint = self.keys.metadata.get("authorization_endpoint")
        if endpoint is None:
            return Problem(503, "keys_unavailable", "The provider could not be reached.", {"Retry-After": "5"}, side=2)
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        back = exchange.path + (f"?{exchange.query}" if exchange.query else "")
        login = {
            "state": state, "nonce": nonce, "verifier": verifier, "end": time.time() + LOGIN_SECONDS,
            "back": back if len(back) <= MAX_RETURN else "/",
        }  # fmt: skip
        challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code", "client_id": options.client_id, "redirect_uri": self.base + options.callback_path,
            "scope": " ".join(dict.fromkeys(("openid", *options.scopes))), "state": state, "nonce": nonce,
            "code_challenge": challenge, "code_challenge_method": "S256",
        }  # fmt: skip
        cookie = f"{self.login_cookie(state)}={self.logins.seal(login)}; Max-Age={LOGIN_SECONDS}{self.login_attributes}"
        location = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"
        return Reply(302, b"", (("Location", location), ("Set-Cookie", cookie), NO_STORE))

    def login_cookie(self, state: str) -> str:
        """Each login has its own: two tabs do not disturb each other."""
        return f"{self.options.session.cookie}_login_{state[:8]}"

    # ------------------------------------------------------------------ and back

    def called_back(self, exchange: Exchange) -> Answer | Awaitable[Answer]:
        """Core §3.1.2.5 to §3.1.3; RFC 6749 §10.12: the state shows that this browser began it."""
        options = self.options
        told = dict(parse_qsl(exchange.query, keep_blank_values=True)) if exchange.query else {}
        state, code = told.get("state", ""), told.get("code", "")
        sealed = cookies_of(exchange, self.login_cookie(state)).get(self.login_cookie(state), "")
        login = self.logins.open(sealed) if state and sealed else None
        if login is None or not same_text(login["state"], state) or login["end"] <= time.time():
            return failed("The login was not begun by this browser, or took too long.")
        # RFC 9207: the answer of one provider is not taken for another's
        if "error" in told or not code or told.get("iss", options.issuer) != options.issuer:
            return failed("The provider did not let in.")
        endpoint = self.keys.metadata.get("token_endpoint")
        if endpoint is None:
            return unavailable("The provider")
        parts = urlsplit(endpoint)
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": self.base + options.callback_path,
            "code_verifier": login["verifier"],
        }  # fmt: skip
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            answer = post(exchange, options, path, form)
        except Unreachable:
            return unavailable("The provider")
        return self.finish(login, answer)

    async def finish(self, login: dict[str, Any], asked: Awaitable[dict[str, Any]]) -> Answer:
        try:
            answer = await asked
        except Refused as refused:
            return unavailable("The provider") if refused.ours else failed("The provider does not know the code.")
        except Unreachable:
            return unavailable("The provider")
        token = answer.get("id_token")
        if not isinstance(token, str) or len(token) > 16384:
            return failed("The provider sent no ID token.")
        found = await self.checked(token)
        if isinstance(found, Problem):
            return found if found.status == 503 else failed(f"The ID token is not good. {found.detail}")
        claims = found.claims
        # Core §3.1.3.7: the nonce is ours; with several audiences the token was made for us
        if not same_text(claims.get("nonce"), login["nonce"]) or claims.get("exp") is None:
            return failed("The ID token is not of this login.")
        several = isinstance(claims.get("aud"), list) and len(claims["aud"]) > 1
        if (several or "azp" in claims) and claims.get("azp") != self.options.client_id:
            return failed("The ID token was made for somebody else.")
        if found.consumer is None:
            return failed("The ID token does not say who it is about.")
        if self.kept is not None:
            return await self.kept_login(self.kept, login, claims, answer)
        return self.logged_in(login, claims, token)

    def kept_claims(self, claims: dict[str, Any]) -> dict[str, Any]:
        options = self.options
        kept = {name: value for name in options.claims if (value := claims.get(name)) is not None}
        kept[options.user_claim] = claim(claims, options.user_claim)
        return kept

    async def kept_login(
        self, kept: Logins, login: dict[str, Any], claims: dict[str, Any], answer: dict[str, Any]
    ) -> Reply | Problem:
        mine = self.kept_claims(claims)
        consumer = self.consumer_by(mine)
        if consumer is None:
            return failed("The ID token does not say who it is about.")
        try:
            value = await kept.begin(consumer, mine, answer, str(claims.get("sub")), claims.get("sid"))
        except StoreError as error:
            return store_problem(error)
        except Unreachable:
            return failed("The provider sent no token that can be used.")
        return self.back(login, [(self.options.session.cookie, value)])

    async def checked(self, token: str) -> Verified | Problem:
        found = self.verifier.verify(token.encode("ascii", "replace"))
        if isinstance(found, UnknownKey) and self.keys.may_ask():
            await self.keys.refetch()
            found = self.verifier.verify(token.encode("ascii", "replace"))
        return failed("Its key is not known.") if isinstance(found, UnknownKey) else found

    def logged_in(self, login: dict[str, Any], claims: dict[str, Any], token: str) -> Reply | Problem:
        options = self.options
        kept = self.kept_claims(claims)
        session = {"claims": kept, "end": time.time() + int(options.session.lifetime), "id_token": token}
        try:
            pieces = split(options.session.cookie, self.sessions.seal(session))
        except ValueError:
            del session["id_token"]                  # the provider then asks before it logs out
            try:
                pieces = split(options.session.cookie, self.sessions.seal(session))
            except ValueError:
                logger.error("oidc: the claims of a session do not fit into cookies; keep fewer `claims`")
                return failed("The session is too large.")
        return self.back(login, pieces)

    def back(self, login: dict[str, Any], cookies: Iterable[tuple[str, str]]) -> Reply:
        """To the page it began at, with the session."""
        lifetime = int(self.options.session.lifetime)
        headers = [("Set-Cookie", f"{name}={value}; Max-Age={lifetime}{self.attributes}") for name, value in cookies]
        headers.append(("Set-Cookie", f"{self.login_cookie(login['state'])}=; Max-Age=0{self.login_attributes}"))
        # with the base before it, `//elsewhere` is a path of ours
        return Reply(302, b"", (("Location", self.base + login["back"]), NO_STORE, *headers))

    # ------------------------------------------------------------------ the end

    def log_out(self, cookies: dict[str, str], hint: str | None = None) -> Reply:
        """OpenID Connect RP-Initiated Logout 1.0."""
        options = self.options
        after = self.base + options.after_logout
        endpoint = self.keys.metadata.get("end_session_endpoint")
        if endpoint is not None:
            query = {"client_id": options.client_id, "post_logout_redirect_uri": after}
            session = self.sessions.open(joined(cookies, options.session.cookie)) if self.kept is None else None
            if session is not None and "id_token" in session:
                hint = session["id_token"]
            if hint is not None:
                query["id_token_hint"] = hint
            after = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"
        return Reply(302, b"", (("Location", after), NO_STORE, *self.no_session(cookies)))
