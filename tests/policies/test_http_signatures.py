"""Signatures of requests: read in the plain way and by the library alike, with secrets and with private keys."""

import datetime
import itertools
import random
import re

import http_message_signatures as signatures
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import ValidationError

from fastgw._core.bucket import BucketTable
from fastgw._core.probe import Probe
from fastgw.config.schema.consumers import Consumer
from fastgw.policies import BuildContext, resolve
from fastgw.policies._http_signatures import Refused
from fastgw.testing.policy import Trial, raw_request

ALGORITHMS = signatures.algorithms
SECRET = "s" * 40
COVERED = ("@method", "@authority", "@path", "@query")
NUMBERS = itertools.count()


class Key(signatures.HTTPSignatureKeyResolver):
    def __init__(self, private):
        self.private = private

    def resolve_private_key(self, key_id):
        return self.private


class Message:
    def __init__(self, method, url, headers):
        self.method, self.url, self.headers = method, url, dict(headers)


def sign(
    method="GET", target="/x?a=1", *, host="example.com", headers=(), private=None, kind=ALGORITHMS.HMAC_SHA256,
    key="k1", covered=COVERED, body=None, **options,
):  # fmt: skip
    message = Message(method, f"http://{host}{target}", headers)
    signer = signatures.HTTPMessageSigner(
        signature_algorithm=kind, key_resolver=Key(SECRET.encode() if private is None else private)
    )
    options = {"nonce": f"n{next(NUMBERS)}", **options}
    signer.sign(message, key_id=key, covered_component_ids=covered, body=body, **options)
    return dict(message.headers)


def pem(public):
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def trial_of(*signing, **options):
    people = [Consumer(name=f"c{number}", signing_keys=[one]) for number, one in enumerate(signing)]
    return Trial("hmac", options, BuildContext(consumers=people, bucket_table=BucketTable.private(4096)))


def secret_trial(**options):
    return trial_of({"id": "k1", "secret": SECRET}, **options)


def exchange_of(method, target, headers, host="example.com"):
    return Probe(raw_request(f"{method} {target}", headers, host)).exchange


def found(verify, exchange):
    try:
        return verify(exchange)
    except Refused:
        return "refused"


def cases():
    """Requests, each with the components that are signed."""
    chance = random.Random(7)
    fields = [("X-A", "1"), ("X-B", "with  two spaces, and a comma"), ("Content-Type", "a/b; c=d"), ("Date", "now")]
    derived = ["@method", "@authority", "@scheme", "@target-uri", "@request-target", "@path", "@query"]
    for _ in range(150):
        own = chance.sample(fields, chance.randrange(4))
        names = [name.lower() for name, _ in own]
        covered = ["@method", "@path", *chance.sample([n for n in derived if n not in ("@method", "@path")], 2), *names]
        chance.shuffle(covered)
        host = chance.choice(["example.com", "Example.COM", "example.com:80", "example.com:8080", "10.0.0.7:443"])
        target = chance.choice(["/", "/x", "/a/b%20c", "/x?a", "/x?a=1&b=%7E", "/~me/(1)?q=/?"])
        method = chance.choice(["GET", "POST", "DELETE"])
        more = chance.choice([{}, {"tag": "app"}, {"include_alg": False}, {"nonce": None}, {"expires": soon()}])
        yield method, target, host, own, covered, more


def soon():
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=4)


def test_the_plain_way_finds_what_the_library_finds():
    both = secret_trial(components=["@method", "@path"]).policy.signatures
    for method, target, host, own, covered, more in cases():
        headers = [*own, *sign(method, target, host=host, headers=own, covered=covered, **more).items()]
        headers = list(dict(headers).items())
        exchange = exchange_of(method, target, headers, host)
        by_library = found(both.by_library, exchange)
        assert isinstance(by_library, dict) and found(both.plain, exchange) == by_library, (target, host, covered)
        changed = [(name, value + "x" if name.startswith("X-") else value) for name, value in headers]
        for bad in (
            exchange_of("PUT", target, headers, host),
            exchange_of(method, target.replace("/", "/y", 1), headers, host),
            exchange_of(method, target, changed, host) if changed != headers else None,
            exchange_of(method, target, [(n, v.replace('keyid="k1"', 'keyid="k2"')) for n, v in headers], host),
            exchange_of(method, target, [(n, re.sub(r"created=\d", "created=9", v)) for n, v in headers], host),
        ):
            if bad is not None:
                assert found(both.by_library, bad) == "refused" and found(both.plain, bad) in ("refused", None)


@pytest.mark.parametrize(
    "covered, headers",
    [
        (("@method", "@path", '"@query-param";name="a"'), {}),
        (("@method", "@path", '"priority";sf'), {"Priority": "u=1,  i"}),
        (("@method", "@path", '"x-raw";bs'), {"X-Raw": "as it is"}),
        (("@method", "@path", '"x-words";key="a"'), {"X-Words": "a=1, b=2"}),
        (("@method", "@path"), {}),
    ],
)
def test_what_is_written_otherwise_is_the_librarys(covered, headers):
    trial = secret_trial(components=["@method", "@path"])
    options = {"nonce": 'with a "quote"'} if len(covered) == 2 else {}
    made = {**headers, **sign(headers=headers, covered=covered, **options)}
    assert found(trial.policy.signatures.plain, exchange_of("GET", "/x?a=1", made)) is None
    assert trial.ask("GET /x?a=1", made).passed
    assert trial.ask("GET /x?a=1", made).code == "request_replayed"
    assert trial.ask("GET /y?a=1", made).code == "invalid_signature"


def test_components_that_are_wanted_with_parameters():
    trial = secret_trial(components=["@method", "@path", '"@query-param";name="a"'])
    assert trial.ask("GET /x?a=1", sign(covered=("@method", "@path", '"@query-param";name="a"'))).passed
    assert trial.ask("GET /x?a=1", sign(covered=COVERED)).code == "invalid_signature"


@pytest.mark.parametrize(
    "change",
    [
        lambda given, signed: (given + ", " + given, signed),
        lambda given, signed: (given + ';nonce="m"', signed),
        lambda given, signed: (given.replace('"@method" ', '"@method" "@method" '), signed),
        lambda given, signed: (given.replace(";nonce=", ";other="), signed),
        lambda given, signed: (re.sub(r'created=(\d+)', r'created="\1"', given), signed),
        lambda given, signed: (re.sub(r"created=\d+;", "", given), signed),
        lambda given, signed: (re.sub(r";keyid=\"\w+\"", "", given), signed),
        lambda given, signed: (re.sub(r'alg="[^"]*"', 'alg="ed25519"', given), signed),
        lambda given, signed: (given.replace('"@path"', '"@status"'), signed),
        lambda given, signed: (given.replace('"@path"', '"x-none"'), signed),
        lambda given, signed: (given, "other" + signed),
        lambda given, signed: (given, signed.replace("=:", "=:A")),
        lambda given, signed: (given, re.sub(":.*:", "::", signed)),
        lambda given, signed: (given, re.sub(":.*:", ":AAAA:", signed)),
    ],
)
def test_what_is_no_good_signature(change):
    trial = secret_trial()
    made = sign()
    given, signed = change(made["Signature-Input"], made["Signature"])
    outcome = trial.ask("GET /x?a=1", {"Signature-Input": given, "Signature": signed})
    assert (outcome.status, outcome.code) == (401, "invalid_signature")


def test_a_tag_that_is_wanted():
    trial = secret_trial(tag="app")
    assert trial.ask("GET /x?a=1", sign(tag="app")).passed
    assert trial.ask("GET /x?a=1", sign(tag="other")).code == "invalid_signature"
    assert trial.ask("GET /x?a=1", sign()).code == "invalid_signature"
    ours, other = sign(tag="app"), sign(tag="other")
    several = {
        "Signature-Input": f"{ours['Signature-Input']}, {other['Signature-Input'].replace('pyhms', 'b', 1)}",
        "Signature": f"{ours['Signature']}, {other['Signature'].replace('pyhms', 'b', 1)}",
    }
    assert trial.ask("GET /x?a=1", several).passed


# ------------------------------------------------------------------ private keys


@pytest.fixture(scope="module")
def private_keys():
    """By their id: what signs, with what, and what the gateway is told."""
    curve, larger = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    edwards, modulus = ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)
    pairs = {
        "ed": (edwards, ALGORITHMS.ED25519, {}),
        "p256": (curve, ALGORITHMS.ECDSA_P256_SHA256, {}),
        "p384": (larger, ALGORITHMS.ECDSA_P384_SHA384, {"algorithm": "ecdsa-p384-sha384"}),
        "pss": (modulus, ALGORITHMS.RSA_PSS_SHA512, {}),
        "v15": (modulus, ALGORITHMS.RSA_V1_5_SHA256, {"algorithm": "rsa-v1_5-sha256"}),
    }
    return {
        name: (private, kind, {"id": name, "public_key": pem(private.public_key()), **more})
        for name, (private, kind, more) in pairs.items()
    }


def test_each_key_has_its_algorithm(private_keys):
    trial = trial_of({"id": "k1", "secret": SECRET}, *(told for _, _, told in private_keys.values()))
    for number, (name, (private, kind, _)) in enumerate(private_keys.items(), 1):
        for more in ({}, {"include_alg": False}, {"nonce": f'of {name} with a "quote"'}):
            outcome = trial.ask("GET /x?a=1", sign(private=private, kind=kind, key=name, **more))
            assert outcome.passed and outcome.exchange.consumer.name == f"c{number}", (name, more)
            assert outcome.exchange.consumer.credential == name
        assert trial.ask("POST /x?a=1", sign(private=private, kind=kind, key=name)).code == "invalid_signature"
    assert trial.ask("GET /x?a=1", sign()).passed
    # RFC 9421 §7.3.6: a key for one algorithm, whatever the signature says
    modulus = private_keys["pss"][0]
    for kind, key in ((ALGORITHMS.RSA_V1_5_SHA256, "pss"), (ALGORITHMS.RSA_PSS_SHA512, "v15")):
        for more in ({}, {"include_alg": False}):
            made = sign(private=modulus, kind=kind, key=key, **more)
            assert trial.ask("GET /x?a=1", made).code == "invalid_signature"
    # a public key as a shared secret
    public = private_keys["ed"][2]["public_key"].encode()
    for more in ({}, {"include_alg": False}):
        assert trial.ask("GET /x?a=1", sign(private=public, key="ed", **more)).code == "invalid_signature"


def test_keys_that_are_taken(private_keys):
    def key(**given):
        return Consumer(name="a", signing_keys=[{"id": "k", **given}])

    small = pem(rsa.generate_private_key(65537, 1024).public_key())
    other = pem(ed448.Ed448PrivateKey.generate().public_key())
    curve = pem(ec.generate_private_key(ec.SECP521R1()).public_key())
    good = private_keys["pss"][2]["public_key"]
    secret = private_keys["pss"][0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for given, words in (
        ({}, "either"), ({"secret": SECRET, "public_key": good}, "either"),
        ({"secret": SECRET, "algorithm": "ed25519"}, "stands beside"), ({"public_key": "nonsense"}, "no public key"),
        ({"public_key": secret}, "private key"), ({"public_key": small}, "1024 bits"),
        ({"public_key": other}, "kind"), ({"public_key": curve}, "kind"),
        ({"public_key": good, "algorithm": "ed25519"}, "does not fit"),
        ({"public_key": good, "algorithm": "hmac-sha256"}, "algorithm"),
    ):  # fmt: skip
        with pytest.raises(ValidationError, match=words) as refused:
            key(**given)
        assert secret[40:80] not in str(refused.value)
    assert key(public_key=good).signing_keys[0].loaded()[0] == "rsa-pss-sha512"
    assert resolve("hmac").Options.model_validate({}).components == COVERED


def test_a_private_key_through_a_gateway(gateway, upstream, private_keys):
    """Bodies too; and those whose signatures take long share a budget, so that some wait their turn."""
    told = [private_keys[name][2] for name in ("ed", "pss")]
    running = gateway({
        "services": {"up": upstream.url},
        "consumers": [{"name": "ada", "signing_keys": told}],
        "routes": [{"path": "/x", "service": "up", "policies": ["hmac", "identity"]}],
    })  # fmt: skip
    with running.client() as client:
        for number in range(12):
            private, kind, _ = private_keys[("ed", "pss")[number % 2]]
            body = b"%d" % number
            headers = sign("POST", "/x", private=private, kind=kind, key=("ed", "pss")[number % 2], body=body)
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"POST /x HTTP/1.1\r\nHost: example.com\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode()
            answer = client.request(head + body)
            assert answer.status == 200, answer.body
            assert upstream.requests[-1].get("X-User-Id") == "ada" and upstream.requests[-1].body == body
            answer = client.request(head + b"x" * len(body))
            assert answer.status == 401 and b"invalid_signature" in answer.body
