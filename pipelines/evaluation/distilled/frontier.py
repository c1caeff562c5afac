"""Accuracy against what a set costs: the bytes that have to be shipped, and the seconds that it took to make. Arithmetic only.

What is shipped follows from the labels. A *hard* label is a class number, a *fixed* one a distribution an image. *Online* labels take the
teacher. *Stored epochs* take the labels or the teacher, whichever is smaller: the views derive from a seed, so that the teacher, shown
the same images, gives the same labels again. A generator is not needed to train, as its images are shipped; bytes with it stand beside,
since what was trained on the same images holds what they hold. Images that are stored as tiles take no bytes to decode.

A point is on the frontier if none of as few or fewer bytes has a higher mean. Whether it is told apart from its neighbour, the next
cheaper point of the frontier, is judged by `pipelines.evaluation.verdicts`, all neighbours of a student together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from pipelines.evaluation.distilled.rows import Arm, Results
from pipelines.evaluation.verdicts import Comparison, compare_products, settle
from pipelines.report.words import number

#: What has to be shipped beside the images, by the arm's kind of labels.
SHIPPED = {"hard": "class numbers", "fixed": "a label an image", "online": "the teacher", "soft": "stored labels"}
#: The kind of labels that a teacher can give again.
REPLAYED = "soft"


@dataclass(frozen=True)
class Spent:
    """Wall-clock seconds of the stages that something was made by; None where no run is recorded.

    `stages` are their names. `part` says that more was spent than is recorded: a run that did some of the units, or work that no run is
    recorded of.
    """

    seconds: float | None
    stages: tuple[str, ...] = ()
    part: bool = False


@dataclass(frozen=True)
class Point:
    """A set of images with labels of a kind: what it reached, `bytes` that have to be shipped, and what it took to make.

    `ipc` is 0 for the full set. `neighbour` is the next cheaper point of the frontier, `against` how the two compare; both are None off
    the frontier and for its first point.
    """

    ipc: int
    arm: Arm
    bytes: float
    ships: str
    spent: Spent
    on_frontier: bool = False
    by_seconds: bool = False
    neighbour: Arm | None = None
    neighbour_ipc: int = 0
    against: Comparison | None = None

    @property
    def mean(self) -> float:
        return self.arm.mean or 0.0

    @property
    def bytes_with_generator(self) -> float:
        return self.bytes + (self.arm.generator_bytes or 0)


@dataclass(frozen=True)
class Frontier:
    """The points of one student in rising order of bytes; `teacher_bytes` where the size of the teacher is known."""

    student: str
    points: Sequence[Point] = ()
    teacher_bytes: float | None = None
    full: Point | None = None

    @property
    def best(self) -> list[Point]:
        """Those on the frontier."""
        return [point for point in self.points if point.on_frontier]

    @property
    def random(self) -> list[Point]:
        """Real subsets: random images, with any labels."""
        return [point for point in self.points if point.arm.images_of == "random"]


def shipped(arm: Arm, teacher_bytes: float | None) -> tuple[float, str] | None:
    """The bytes that have to be shipped to train on an arm, and what they are beside the images; None where they are not known."""
    if arm.bytes is None or arm.image_bytes is None:
        return None
    if arm.labels == REPLAYED and teacher_bytes is not None and teacher_bytes < (arm.label_bytes or 0):
        return arm.image_bytes + teacher_bytes, SHIPPED["online"]
    return arm.bytes, SHIPPED.get(arm.labels, arm.label_kind or arm.labels)


def undominated(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each (cost, worth) is on the frontier: nothing of as low or a lower cost is worth more."""
    return [not any(cost <= own and worth > value for cost, worth in costs) for own, value in costs]


def frontier_of(
    results: Results,
    student: str = "",
    teacher_bytes: float | None = None,
    spent: Callable[[Arm], Spent] = lambda arm: Spent(None),
    forms: Sequence[tuple[int, Arm]] = (),
) -> Frontier:
    """All that was measured with a student, the main one without a name; `spent` says what the images and labels of an arm took, `forms`
    are rows of labels that were stored in other forms too."""
    student = student or results.student
    arms = [(ipc, arm) for ipc, by_name in results.by_student.get(student, {}).items() for arm in by_name.values()]
    arms += [(ipc, arm) for ipc, arm in forms if arm.student == student]
    if student == results.student and results.full is not None:
        arms.append((0, results.full))
    said = [arm.teacher_bytes for _, arm in arms if arm.teacher_bytes]
    teacher_bytes = next(iter(said), number(results.protocol.get("teacher_bytes")) or teacher_bytes)
    points = []
    for ipc, arm in arms:
        if arm.mean is not None and (size := shipped(arm, teacher_bytes)) is not None:
            points.append(Point(ipc, arm, *size, spent(arm)))
    points.sort(key=lambda point: (point.bytes, -point.mean, point.arm.name))
    marked = _marked(points, number(results.protocol.get("test_images")))
    return Frontier(student, marked, teacher_bytes, next((one for one in marked if not one.ipc), None))


def _marked(points: Sequence[Point], test_images: float | None) -> list[Point]:
    """The points with what they are on a frontier of, and those of that of bytes with their cheaper neighbour."""
    by_bytes = undominated([(point.bytes, point.mean) for point in points])
    timed = [point for point in points if point.spent.seconds is not None and point.ipc]  # the full set takes none
    fast = undominated([(point.spent.seconds or 0.0, point.mean) for point in timed])
    quick = {id(point) for point, on in zip(timed, fast, strict=True) if on}
    best = [place for place, on in enumerate(by_bytes) if on]
    pairs = [(place, cheaper) for cheaper, place in pairwise(best) if points[place].mean > points[cheaper].mean]
    judged = settle([compare_points(points[own], points[other], test_images) for own, other in pairs])
    against = {own: (points[other], one) for (own, other), one in zip(pairs, judged, strict=True)}
    marked = []
    for place, point in enumerate(points):
        kept = replace(point, on_frontier=by_bytes[place], by_seconds=id(point) in quick)
        if place in against:
            other, comparison = against[place]
            kept = replace(kept, neighbour=other.arm, neighbour_ipc=other.ipc, against=comparison)
        marked.append(kept)
    return marked


def compare_points(ours: Point, cheaper: Point, test_images: float | None = None) -> Comparison:
    """The difference of two points' accuracies, as `verdicts.compare_products` gives it; `p` None where nothing tells it.

    Students of equal set and seed have the same start and order, so they are pairs across images per class and labels too.
    """
    sides = [_by_set(point.arm) for point in (ours, cheaper)]
    if not all(sides):
        gap = 100 * (ours.mean - cheaper.mean)
        sides = [{0: {0: gap / 100}}, {0: {0: 0.0}}]
    return compare_products(sides[0], sides[1], int(test_images) if test_images else None)


def _by_set(arm: Arm) -> dict[int, dict[int, float]]:
    """Accuracies by set and seed, from a row that has them in this order; empty for one that has none."""
    each = arm.seeds or len(arm.last)
    if not each or len(arm.last) % each:
        return {}
    return {first // each: dict(enumerate(arm.last[first : first + each])) for first in range(0, len(arm.last), each)}


def frontier_numbers(frontiers: Iterable[Frontier]) -> dict[str, Any]:
    """Everything as JSON, by student: accuracies are fractions, differences percentage points."""
    return {
        one.student: {"teacher_bytes": one.teacher_bytes, "points": [_numbers(point) for point in one.points]}
        for one in frontiers
    }


def _numbers(point: Point) -> dict[str, Any]:
    arm = point.arm
    form: dict[str, Any] = {"arm": arm.name, "ipc": point.ipc or "full", "label_kind": arm.label_kind or arm.labels}
    form |= {"mean": arm.mean, "std": arm.std, "sets": arm.sets, "students": arm.students}
    form |= {"bytes": point.bytes, "ships": point.ships, "bytes_with_generator": point.bytes_with_generator}
    form |= {"seconds": point.spent.seconds, "seconds_of": list(point.spent.stages), "more_seconds": point.spent.part}
    form |= {"on_frontier": point.on_frontier, "on_frontier_of_seconds": point.by_seconds}
    return form | {"cheaper_neighbour": _neighbour(point)}


def _neighbour(point: Point) -> Mapping[str, Any] | None:
    if point.neighbour is None or point.against is None:
        return None
    kept = ("gap", "low", "high", "p", "of", "outcome")
    named = {"arm": point.neighbour.name, "ipc": point.neighbour_ipc or "full"}
    return named | {name: point.against[name] for name in kept}
