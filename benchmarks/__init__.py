"""`python -m benchmarks.compare`: beside other gateways. `python -m benchmarks.micro`: module by module."""
