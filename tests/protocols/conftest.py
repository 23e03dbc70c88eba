from pathlib import Path

import pytest

import fastgw.testing

LIBRARY = Path(fastgw.testing.__file__).parent / "demo_grpc" / "library.pb"


@pytest.fixture(scope="session")
def library():
    """The demo service's descriptor set."""
    return LIBRARY.read_bytes()
