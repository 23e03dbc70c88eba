"""A headless Chromium that opens one page, until the page has said that it is done."""

import base64
import hashlib
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.e2e.test_http2 import PLAIN

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
needed = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: chromium)")


def visit(url, folder, finished, certificate=None):
    """Whether `finished` was set within a minute, and what the browser said. `certificate` is taken as it is."""
    options = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={folder}/profile",
        "--no-first-run", "--disable-background-networking", "--host-resolver-rules=MAP localhost 127.0.0.1",
        "--remote-debugging-port=0",
    ]  # fmt: skip
    if certificate is not None:
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
        options.append(f"--ignore-certificate-errors-spki-list={pin}")
    browser = subprocess.Popen(
        [BROWSER, *options, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=PLAIN
    )
    try:
        there = finished.wait(60)
    finally:
        browser.terminate()
        said = browser.communicate(timeout=20)[0]
    return there, said
