"""What holds for all tests."""

import os

# Tests fork where other tests' gRPC clients live in the same process: its handlers at a fork end the child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
