"""Benches: how fast the embedded server is, beside a bare answer of the same size and a plain application on the same
machine.

`python -m tests.bench` measures over HTTP, `python -m tests.bench.steps` the steps of one request in process,
`python -m tests.bench.peers` a call between processes. `load.k6.js` and `locustfile.py` ask the same of any server.
"""
