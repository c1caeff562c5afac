"""How the report and the console show accuracy against bytes and seconds: charts, the frontier, and every point behind it."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluation.distilled.charts import colours_of
from pipelines.evaluation.distilled.claims import called
from pipelines.evaluation.distilled.frontier import REPLAYED, SHIPPED, Frontier, Point, Spent
from pipelines.evaluation.distilled.rows import LABELS, Results
from pipelines.evaluation.distilled.table import with_spread
from pipelines.evaluation.outputs import VERDICTS
from pipelines.report.blocks import GroupedTable, NamedRow
from pipelines.report.scatter import SHAPES, Spot, scatter_chart, shape_key
from pipelines.report.svg import Figure, Series
from pipelines.report.words import human_bytes, human_seconds, percent, signed

FULL = "full set"
SECONDS = "seconds"
GENERATOR = "with generator"
HEAD = ("labels", "to be shipped", "accuracy, %", "over the cheaper", SECONDS)
NOTE = (
    "On the frontier is what nothing of as few or fewer bytes exceeds. Shipped are the images and class numbers (hard labels), a "
    "distribution an image (fixed), the teacher (online), or, for stored labels of every view, these or the teacher that gives them again, "
    "whichever is smaller. Over the cheaper is the difference to the point before, told apart where all of this student are held to 95 % "
    "together. Seconds are wall-clock, of the last run of every stage that a set, its labels and the teacher come from, without ingest and "
    "split; + is more than is recorded."
)
_EVERY = "Every set by bytes"


def trade_figures(results: Results, frontier: Frontier) -> list[Figure]:
    """Accuracy over the bytes that have to be shipped, and over the seconds that a set took, as far as these are known."""
    points = frontier.points
    if len({point.bytes for point in points}) < 2:
        return []
    numbers = {id(point): str(place) for place, point in enumerate(frontier.best, 1)}
    colours = colours_of(results.arms)
    shapes = {labels: SHAPES[place % len(SHAPES)] for place, labels in enumerate(LABELS)}
    level = 100 * frontier.full.mean if frontier.full is not None else None

    def spot(point: Point, cost: float, on: bool) -> Spot:
        arm = point.arm
        title = f"{named(point, results)}: {human_bytes(point.bytes)}, {percent(arm.mean)}"
        spread = 100 * (arm.std or 0.0) if on else 0.0
        number = numbers.get(id(point), "")
        hollow = not arm.is_measured
        colour = colours[arm.key]
        return Spot(cost, 100 * point.mean, shapes[arm.labels], colour, title, spread, hollow, not on, number)

    marks = [Series(f"{kind} labels", (), "soft", mark=shape_key(shapes[kind])) for kind in results.labels]
    sets = {called(arm, results): colours[arm.key] for arm in results.arms}
    keys = [Series(name, (), colour, mark=shape_key("circle", colour)) for name, colour in sets.items()]
    legend = [*marks, *keys]
    note = "stair: the frontier, numbered as in the table; whiskers: ± one standard deviation; controls hollow"
    lines = []
    real = [(point.bytes, 100 * point.mean) for point in _rising(frontier.random)]
    if len(real) > 1:
        lines.append("grey: random real images")
    if level is not None:
        lines.append("dashed: the full set")
    by_bytes = scatter_chart(
        "Accuracy over the bytes that have to be shipped, %",
        [spot(point, max(point.bytes, 1.0), point.on_frontier) for point in points],
        "bytes, logarithmic",
        lambda size: human_bytes(size).replace(".0", ""),
        [(max(point.bytes, 1.0), 100 * point.mean) for point in frontier.best],
        real,
        level,
        legend=legend,
        note="; ".join([note, *lines]),
    )
    timed = [point for point in points if point.spent.seconds is not None and point.ipc]
    quick = sorted((point for point in timed if point.by_seconds), key=_seconds)
    by_seconds = scatter_chart(
        "Accuracy over the seconds that a set took to make, %",
        [spot(point, _seconds(point), point.by_seconds) for point in timed],
        "wall-clock seconds",
        "{:g}".format,
        [(_seconds(point), 100 * point.mean) for point in quick],
        (),
        level,
        log=False,
        note="stair: what nothing as quick exceeds" + ("; dashed: the full set" if level is not None else ""),
    )
    drawn = [by_bytes, by_seconds if any(_seconds(point) for point in timed) else None]
    return [figure for figure in drawn if figure is not None]


def frontier_table(results: Results, frontier: Frontier) -> GroupedTable | None:
    """The points of the frontier in rising order of bytes, and random real images beside them; None without two points."""
    best = frontier.best
    if len(frontier.points) < 2:
        return None
    rest = [point for point in frontier.random if not point.on_frontier]
    sized = any(point.arm.generator_bytes for point in (*best, *rest))
    rows = [_row(point, results, sized, f"{place} ") for place, point in enumerate(best, 1)]
    groups = [("On the frontier", rows)]
    if rest:
        groups.append(("Random real images", [_row(point, results, sized) for point in rest]))
    return GroupedTable(
        f"Accuracy per byte{f', student {frontier.student}' if frontier.student else ''}",
        "trained on",
        (*HEAD, *([GENERATOR] if sized else [])),
        groups,
        NOTE,
        ("labels", "to be shipped", "over the cheaper"),
        (GENERATOR,),
    )


def points_table(results: Results, frontiers: Sequence[Frontier]) -> GroupedTable | None:
    """Every point of every student in rising order of bytes."""
    sized = any(point.arm.generator_bytes for one in frontiers for point in one.points)
    groups = [
        (one.student, [_row(point, results, sized, "* " if point.on_frontier else "") for point in one.points])
        for one in frontiers
        if one.points
    ]
    if not groups:
        return None
    return GroupedTable(
        _EVERY,
        "trained on",
        (*HEAD, *([GENERATOR] if sized else [])),
        groups,
        "* is on the frontier of its student.",
        ("labels", "to be shipped", "over the cheaper"),
        (GENERATOR, "over the cheaper"),
    )


def trade_sentences(results: Results, frontier: Frontier) -> list[str]:
    """What the frontier says in words: where real subsets are on it, and where the teacher replaces its labels."""
    best = frontier.best
    if len(frontier.points) < 2:
        return []
    sentences = []
    if not any(point.arm.is_measured for point in best):
        sentences.append("No measured set is on the frontier of accuracy per byte.")
    replaced = [point for point in frontier.points if point.arm.labels == REPLAYED and point.ships == SHIPPED["online"]]
    if replaced and frontier.teacher_bytes:
        largest = max(point.arm.label_bytes or 0 for point in replaced)
        sets = f"{len(replaced)} set{'' if len(replaced) == 1 else 's'}"
        sentences.append(
            f"The teacher has {human_bytes(frontier.teacher_bytes)}, fewer than the labels of {sets} (up to {human_bytes(largest)}) that "
            "it gives again: it is shipped in their place."
        )
    return sentences


def named(point: Point, results: Results) -> str:
    """`D3HR, IPC 10, hard`."""
    where = f"IPC {point.ipc}" if point.ipc else FULL
    return f"{called(point.arm, results)}, {where}, {point.arm.labels}"


def _row(point: Point, results: Results, sized: bool, before: str = "") -> NamedRow:
    arm = point.arm
    name = f"{before}{called(arm, results)}" + (f", IPC {point.ipc}" if point.ipc else "")
    shipped = f"{human_bytes(point.bytes)}" + (" with the teacher" if point.ships == SHIPPED["online"] else "")
    cells = [arm.label_kind or arm.labels, shipped, with_spread(arm), _over(point), seconds_cell(point.spent)]
    cells += [human_bytes(point.bytes_with_generator) if arm.generator_bytes else ""] if sized else []
    return NamedRow(name, cells, arm.is_measured)


def _over(point: Point) -> str:
    """`+5.2 wins`, `+0.3 not told apart`."""
    if point.against is None:
        return ""
    return f"{signed(round(point.against['gap'], 1))} {VERDICTS[point.against['outcome']]}"


def seconds_cell(spent: Spent) -> str:
    """`41.0 s`, with a plus where more was spent than is recorded."""
    if spent.seconds is None:
        return "not recorded"
    return human_seconds(spent.seconds) + ("+" if spent.part else "")


def _seconds(point: Point) -> float:
    return point.spent.seconds or 0.0


def _rising(points: Sequence[Point]) -> list[Point]:
    """The points that nothing cheaper among them exceeds."""
    rising: list[Point] = []
    for point in points:
        if not rising or point.mean > rising[-1].mean:
            rising.append(point)
    return rising
