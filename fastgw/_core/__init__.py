"""The hot path, in Cython. Imports nothing of fastgw outside itself."""
