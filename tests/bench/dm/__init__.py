"""The bench of distribution matching: `python -m tests.bench.dm`."""
