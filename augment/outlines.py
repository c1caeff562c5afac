"""Convex outlines of boxes that a frame has cut, all of a batch at once.

A turned box that sticks out of its frame is a polygon with more corners than four. It is cut by the four sides of the frame in turn
(Sutherland and Hodgman 1974): corners inside stay, and where an edge crosses a side there is a new corner.
"""

from __future__ import annotations

import numpy as np


class Outlines:
    """The outlines so far: `points` (m, V, 2) x and y, of which the first `count` (m,) are corners, of the boxes `owner` (m,)."""

    def __init__(self) -> None:
        self.owner = np.zeros(0, np.intp)
        self.points = np.zeros((0, 4, 2))
        self.count = np.zeros(0, np.intp)

    def cut(self, corners: np.ndarray, new: np.ndarray, cut: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
        """Clip the outlines of the boxes `cut`, places among k, to their windows `start`, `end` (k, 2).

        The boxes `new` get an outline here if they have none yet: their four `corners` (k, 4, 2).
        """
        fresh = np.setdiff1d(new, self.owner)
        padded = np.zeros((len(fresh), self.points.shape[1], 2))
        padded[:, :4] = corners[fresh]
        self.owner = np.concatenate([self.owner, fresh])
        self.points = np.concatenate([self.points, padded])
        self.count = np.concatenate([self.count, np.full(len(fresh), 4)])
        rows = np.flatnonzero(np.isin(self.owner, cut))
        if not len(rows):
            return
        points, count, owner = self.points[rows], self.count[rows], self.owner[rows]
        for axis in (0, 1):
            for sign, bound in ((1, start[owner, axis]), (-1, end[owner, axis])):
                points, count = _half(points, count, sign * (points[..., axis] - bound[:, None]))
        size = max(points.shape[1], self.points.shape[1])
        self.points, points = (
            np.pad(each, ((0, 0), (0, size - each.shape[1]), (0, 0))) for each in (self.points, points)
        )
        self.points[rows], self.count[rows] = points, count

    def hulls(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest x and y (m, 2) of each outline; both infinite where nothing is left of it."""
        there = (np.arange(self.points.shape[1]) < self.count[:, None])[..., None]
        low = np.where(there, self.points, np.inf).min(1)
        high = np.where(self.count[:, None] > 0, np.where(there, self.points, -np.inf).max(1), np.inf)
        return low, high


def _half(points: np.ndarray, count: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut outlines by a line: `depth` (m, V) of each corner is its distance from it, and what is below 0 is cut off."""
    place = np.arange(points.shape[1])
    there = place < count[:, None]
    after = np.where(place + 1 < count[:, None], place + 1, 0)
    following, depth_after = np.take_along_axis(points, after[..., None], 1), np.take_along_axis(depth, after, 1)
    stays, crosses = there & (depth >= 0), there & ((depth >= 0) != (depth_after >= 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = points + (depth / (depth - depth_after))[..., None] * (following - points)
    both = np.stack([points, crossing], 2).reshape(len(points), -1, 2)
    chosen = np.stack([stays, crosses], 2).reshape(len(points), -1)
    left = chosen.sum(1)
    order = np.argsort(~chosen, axis=1, kind="stable")[:, : max(int(left.max(initial=0)), 4)]
    return np.take_along_axis(both, order[..., None], 1), left
