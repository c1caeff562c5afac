"""The contract on disk: keys, samples, tar shards, sidecars, the dataset folder and the checker for all of them.

Import the modules by name (`from pipelines.shards.dataset import Dataset`); this file imports none of them so that a
caller that only needs keys does not pay for pyarrow.
"""
