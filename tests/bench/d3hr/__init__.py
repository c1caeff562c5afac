"""Benches of D3HR: `python -m tests.bench.d3hr`."""
