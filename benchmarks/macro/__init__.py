"""Whole gateways under load: how they are started, loaded, measured and reported."""
