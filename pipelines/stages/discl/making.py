"""The spectra of a block of hard images, batch by batch: what is below its bound is made again, and the best of each is kept.

A cell is an image of a real image at a level. All levels of one image that were tried equally often are made in one staggered batch;
a checkpoint after a batch holds every cell as far as it came, so that a killed unit goes on there and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.artifacts.scoring import rounded
from pipelines.runtime.checkpoints import Progress
from synth.discl.retries import Attempts, Cell, Try
from synth.discl.spectrum import Spectrum, SpectrumSampler
from synth.quality.arrays import resized
from synth.requests import Request

#: Scores and CLIP features (n, d) of images (n, 3, h, w) of these labels, from these real images of the block.
Score = Callable[[torch.Tensor, Sequence[int], Sequence[int]], tuple[list[dict[str, Any]], torch.Tensor]]
#: The prompt of a try, of a class number.
Prompt = Callable[[int, Try], str]


@dataclass(frozen=True, eq=False)
class Source:
    """A real image, `pixels` (3, h, w) float in [0, 1] of its own size, with its key and label."""

    key: str
    label: int
    pixels: torch.Tensor


class SpectrumRun:
    """Makes `seeds` images of each source at each of `levels`; `bounds` are the text cosines by label that end the tries."""

    def __init__(
        self,
        sampler: SpectrumSampler,
        sources: Sequence[Source],
        levels: Sequence[int],
        seeds: int,
        bounds: Mapping[int, float],
        tries: int,
        score: Score,
        prompt: Prompt,
    ) -> None:
        self._sampler, self._sources = sampler, sources
        self._score, self._prompt = score, prompt
        self._place = {source.key: place for place, source in enumerate(sources)}
        self._bounds, self._tries = bounds, tries
        self.cells = [
            Cell(source.key, ordinal, level) for source in sources for ordinal in range(seeds) for level in levels
        ]
        self._inputs = [self._fitted(source.pixels) for source in sources]
        self.best: dict[Cell, dict[str, Any]] = {}
        self.scores: dict[Cell, list[float]] = {cell: [] for cell in self.cells}
        self._wave: list[list[Try]] = []
        self._batch = 0
        self._begin_wave()

    def _fitted(self, pixels: torch.Tensor) -> torch.Tensor:
        """A real image in the size that the model makes."""
        size = tuple(self._sampler.sampler.size)
        return pixels if tuple(pixels.shape[1:]) == size else resized(pixels[None], size)[0].clamp(0, 1)

    def _attempts(self) -> Attempts:
        """The tries so far, counted again: they follow from the stored scores."""
        attempts = Attempts({cell: self._bounds[self._label(cell.key)] for cell in self.cells}, self._tries)
        for cell, scores in self.scores.items():
            for score in scores:
                attempts.record(cell, score)
        return attempts

    def _label(self, key: str) -> int:
        return self._sources[self._place[key]].label

    def _begin_wave(self) -> None:
        """Cut what is due into batches, all of which are made before anything is tried again."""
        pending = self._attempts().pending()
        self._wave, self._batch = [], 0
        if pending:
            ordered = [(one, self._spectrum(one)) for one in pending]
            by_spectrum = {id(spectrum): one for one, spectrum in ordered}
            batches = self._sampler.batches([spectrum for _, spectrum in ordered])
            self._wave = [[by_spectrum[id(spectrum)] for spectrum in batch] for batch in batches]

    def _spectrum(self, one: Try) -> Spectrum:
        place = self._place[one.key]
        prompt = self._prompt(self._sources[place].label, one)
        return Spectrum(Request(prompt, one.key, one.seed_ordinal, image=self._inputs[place]), one.levels)

    @property
    def done(self) -> bool:
        return not self._wave

    def advance(self) -> Progress:
        """Make a batch."""
        tries = self._wave[self._batch]
        spectra = [self._spectrum(one) for one in tries]
        try_of = {id(spectrum.request): one for spectrum, one in zip(spectra, tries, strict=True)}
        for level, generated in self._sampler.make(spectra).items():
            of = [try_of[id(request)] for request in generated.requests]
            places = [self._place[one.key] for one in of]
            labels = [self._sources[place].label for place in places]
            scores, features = self._score(generated.images, labels, places)
            unusable = (generated.broken | generated.black).tolist()
            for row, one in enumerate(of):
                fault = None if not unusable[row] else "not_finite" if bool(generated.broken[row]) else "black"
                self._take(
                    Cell(one.key, one.ordinal, level),
                    one.attempt,
                    generated.images[row],
                    scores[row],
                    features[row],
                    fault,
                )
        self._batch += 1
        total = len(self._wave)
        note = f"try {tries[0].attempt + 1}"
        progress = Progress(self._batch + total * tries[0].attempt, total * (tries[0].attempt + 1), note)
        if self._batch == total:
            self._begin_wave()
        return progress

    def _take(
        self,
        cell: Cell,
        attempt: int,
        image: torch.Tensor,
        scores: dict[str, Any],
        features: torch.Tensor,
        fault: str | None,
    ) -> None:
        """Count a try, and keep its image where it is the best so far."""
        value = float("nan") if fault else float(scores["text_cosine"])
        earlier = [one for one in self.scores[cell] if one == one]
        self.scores[cell].append(value)
        if fault is not None:
            self.best.setdefault(cell, {"fault": fault, "attempt": attempt, "prompt": self._prompt_of(cell, attempt)})
        elif not earlier or value > max(earlier):
            self.best[cell] = {
                "pixels": self._stored(cell, image),
                "scores": rounded(scores),
                "features": features.detach().cpu().to(torch.float16),
                "attempt": attempt,
                "prompt": self._prompt_of(cell, attempt),
            }

    def _prompt_of(self, cell: Cell, attempt: int) -> str:
        return self._prompt(self._label(cell.key), Try(cell.key, cell.ordinal, attempt, (cell.level,)))

    def _stored(self, cell: Cell, image: torch.Tensor) -> torch.Tensor:
        """(h, w, 3) uint8 in the size of the real image."""
        size = tuple(self._sources[self._place[cell.key]].pixels.shape[1:])
        shown = image.detach().float().cpu()
        shown = shown if tuple(shown.shape[1:]) == size else resized(shown[None], size)[0]
        return (shown.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()

    def state(self) -> dict[str, Any]:
        cells = [{"scores": self.scores[cell], "best": self.best.get(cell)} for cell in self.cells]
        wave = [[(one.key, one.ordinal, one.attempt, list(one.levels)) for one in batch] for batch in self._wave]
        return {"cells": cells, "wave": wave, "batch": self._batch}

    def load_state(self, state: dict[str, Any]) -> None:
        for cell, form in zip(self.cells, state["cells"], strict=True):
            self.scores[cell] = list(form["scores"])
            if form["best"] is not None:
                self.best[cell] = form["best"]
        self._wave = [
            [Try(key, ordinal, attempt, tuple(levels)) for key, ordinal, attempt, levels in batch]
            for batch in state["wave"]
        ]
        self._batch = state["batch"]
