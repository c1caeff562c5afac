"""Tests of reading datasets back: order, workers, resume, bad samples, soft labels."""
