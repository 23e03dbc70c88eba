"""The cold half of upstreams: what is learnt about them outside the request path."""
