"""The operators' listener: health, metrics, state, reload. Loopback by default."""
