"""Benches: how fast the embedded server is, beside a bare answer of the same size on the same machine.

`python -m tests.bench` measures over HTTP, `python -m tests.bench.steps` the steps of one request in process.
"""
