"""Everything that touches files, processes and networks: stages, runners, sources, shards, images, loaders.

Importing this package is cheap: no torch, ray or diffusers. Stages import those when a worker opens.
"""

__version__ = "0.1.0"
