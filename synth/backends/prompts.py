"""`PromptCache`: encoded prompts by prompt and adapter state, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from synth.backends.protocol import Conditioning

CACHE_BYTES = 512 << 20


class PromptCache:
    """Holds single rows of conditioning; the least recently used go first once they take more than `limit` bytes."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._rows: OrderedDict[Hashable, Conditioning] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], Conditioning]) -> Conditioning:
        """Return the row of `key`, after calling `make` where it is not there; may drop others."""
        if key not in self._rows:
            self._rows[key] = make()
            self._bytes += self._rows[key].nbytes
            while self._bytes > self.limit and len(self._rows) > 1:
                self._bytes -= self._rows.popitem(last=False)[1].nbytes
        self._rows.move_to_end(key)
        return self._rows[key]

    def clear(self) -> None:
        """Drop all rows."""
        self._rows.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)
