"""A network to test against, shipped with the package: real services over real sockets."""
