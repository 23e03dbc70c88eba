class Codec:
    """Makes the connections of one protocol."""

class Gate:
    """Looks at an accepted socket before it is a connection."""
