"""Codecs that policies use: gRPC's frames, gRPC-Web, and JSON beside protobuf. No sockets, no configuration.

    grpc_frames   messages in a body: five bytes before each
    grpc_web      the forms a browser speaks: binary and base64, trailers in the body
    http_rules    google.api.http: path templates and the table that finds a rule
    descriptors   a FileDescriptorSet → the methods in it and their rules
    reflection    the same asked of a server
    transcoding   JSON, path and query → a message, and back
    json_form     the options and errors of that
    rpc_status    google.rpc.Status ↔ what HTTP clients are told

What needs protobuf is imported by those who use it: `pip install 'fastgw[grpc]'`.
"""

EXTRA = "the package {name} is not installed: pip install 'fastgw[grpc]'"
"""What is said where an optional package is missing."""
