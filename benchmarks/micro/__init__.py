"""Nanoseconds per operation of each `fastgw._core` module, and two commits set side by side."""
