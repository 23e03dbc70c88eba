"""A network to test against, shipped with the package: real services and scripted peers over real sockets.

`FakeUpstream` plays an upstream by script and remembers every byte it was sent, `RawClient` sends exactly the
bytes it is told to, `CuttingProxy` holds, slows and cuts a connection between two others, `GatewayProcess`
runs a gateway from a configuration, `inprocess.GatewayThread` one in a thread of the test.
`demo_services` are real small services.
"""

from fastgw.testing.client import RawClient
from fastgw.testing.cutting import CuttingProxy, Rule
from fastgw.testing.messages import Incomplete, Message, Request, Response
from fastgw.testing.process import GatewayProcess, free_port
from fastgw.testing.upstream import (
    FakeUpstream,
    Gate,
    UpstreamConnection,
    answer,
    answer_and,
    chunked,
    close_without_answer,
    hang,
    reset_without_answer,
)

__all__ = [
    "CuttingProxy",
    "FakeUpstream",
    "Gate",
    "GatewayProcess",
    "Incomplete",
    "Message",
    "RawClient",
    "Request",
    "Response",
    "Rule",
    "UpstreamConnection",
    "answer",
    "answer_and",
    "chunked",
    "close_without_answer",
    "free_port",
    "hang",
    "reset_without_answer",
]
