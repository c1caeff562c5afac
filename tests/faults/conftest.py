"""The toy stage's workplaces serve here too."""

from __future__ import annotations

from tests.contract.conftest import clean, done, finished, forks, workplace, workplaces

__all__ = ["clean", "done", "finished", "forks", "workplace", "workplaces"]
