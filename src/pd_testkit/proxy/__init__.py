"""The P/D proxy: a pure routing core, and an HTTP server around it.

The core (`router`, `instances`, `policies`, `protocols`, `conversations`, `cost`, `breaker`) does
no I/O, reads no clock and draws no randomness of its own. The shell (`server`, `upstream`,
`discovery`) carries the bytes.
"""
