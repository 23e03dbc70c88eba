class Codec:
    """Makes the connections of one protocol."""
