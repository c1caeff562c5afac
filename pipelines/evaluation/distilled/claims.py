"""What the numbers of `evaluate@distilled` amount to in sentences: who beats the best of the controls, where, by how much, how sure.

Sentences are made of comparisons that were judged together (`pipelines.evaluation.verdicts`); no number is weighed here.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluation.distilled.rows import LABELS, Arm, Margin, Results
from pipelines.evaluation.verdicts import SEEDS_TO_QUOTE, beats_chance
from pipelines.report.words import human_bytes, listed, number, percent, signed

#: Images below which the statistics of a batch decide more about a student with batch norm than what it was trained on.
FEW_IMAGES = 100
#: Seeds of an arm with which small differences have a chance of being told apart.
ENOUGH_SEEDS = 5
NO_COMPARISON = "There is no comparison with a control yet."
_UNKNOWN = "One seed proves nothing: whether {whose} beat the best control is not known."


def headline(results: Results) -> str:
    """One sentence: who beats the best control, with the main student."""
    margins = results.margins()
    if not margins:
        return NO_COMPARISON
    one = len(results.measured) == 1
    sentence = _of_source(results, margins) if one else _of_all(results, margins)
    if all(margin.outcome == "unproved" for margin in margins):
        return sentence
    by_outcome = _by_outcome(margins)
    decided = by_outcome.get("win") or by_outcome.get("loss") or margins
    return f"{sentence.removesuffix('.')} ({_evidence(results, decided)})."


def claims(results: Results) -> list[str]:
    """A sentence for every measured set where there are several, and one for every other student."""
    sentences = []
    if len(results.measured) > 1:
        by_source = [results.margins(source=source) for source in results.measured]
        sentences = [_of_source(results, margins) for margins in by_source if margins]
    for student in results.others:
        if margins := results.margins(student):
            of_them = _of_source(results, margins) if len(results.measured) == 1 else _of_all(results, margins)
            sentences.append(f"With {_student(results, student)} as the student: {of_them[0].lower()}{of_them[1:]}")
    return sentences


def called(arm: Arm, results: Results) -> str:
    """What a row calls the images of an arm: by their source where there are several sets."""
    if results.alone:
        return {"source": "distilled", "start": "its start"}.get(arm.images_of, arm.title)
    return arm.title


def _of_source(results: Results, margins: Sequence[Margin]) -> str:
    """What became of one measured set, in all places."""
    whose = _whose(margins[0].arm, results)
    by_outcome = _by_outcome(margins)
    if set(by_outcome) == {"unproved"}:
        return _UNKNOWN.format(whose=whose)
    whom, decided = _whom(results, margins), {"win": "beat", "loss": "lose to"}
    parts: list[str] = []
    for outcome, verb in decided.items():
        if own := by_outcome.get(outcome):
            parts.append(f"{verb} {'them' if parts else whom} by {_points(own)} at {_places(own)}")
    if not parts:
        return f"{_capital(whose)} are not told apart from {whom}, {_gaps(margins)} at {_places(margins)}."
    rest = "; elsewhere they are not told apart" if by_outcome.keys() - decided else ""
    return f"{_capital(whose)} {' and '.join(parts)}{rest}."


def _of_all(results: Results, margins: Sequence[Margin]) -> str:
    """What became of several measured sets: the winners and where, then in how many comparisons others lose."""
    by_outcome, titles = _by_outcome(margins), _titles(margins)
    if set(by_outcome) == {"unproved"}:
        return _UNKNOWN.format(whose=f"any of {len(titles)} sets")
    if set(by_outcome) <= {"level", "unproved"}:
        return (
            f"Nothing is told apart: none of {len(titles)} sets beats the best control ({_controls(results, margins)}) or loses "
            f"to it, at {_places(margins)}."
        )
    won, lost = (_by_title(by_outcome.get(outcome, [])) for outcome in ("win", "loss"))
    losing = {title: _count(len(own), len(_by_title(margins)[title])) for title, own in lost.items()}
    parts = [
        f"{title} beat {_whom(results, own)} by {_points(own)} at {_places(own)}"
        + (f" and lose to it{losing[title]}" if title in losing else "")
        for title, own in won.items()
    ]
    parts += [f"{title} lose to it{count}" for title, count in losing.items() if title not in won]
    if level := [title for title in titles if title not in won and title not in lost]:
        parts.append(f"{listed(level)} are not told apart from it")
    parts = [f"{'those' if place else 'the images'} of {part}" for place, part in enumerate(parts)]
    nobody = [] if won else [f"none of {len(titles)} sets beats the best control"]
    return f"{_capital('; '.join(nobody + parts))}."


def _count(count: int, total: int) -> str:
    return "" if count == total else f" in {count} of {total} comparisons"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _whose(arm: Arm, results: Results) -> str:
    return "distilled images" if results.alone else f"the images of {arm.title}"


def _whom(results: Results, margins: Sequence[Margin]) -> str:
    """The control that margins are over; random images by their plain name where there is no other control to be the best of.

    A set whose stored images are tiles of several has more images than as many random ones have bytes.
    """
    only = all(len(results.controls(one.student, one.ipc, one.arm)) == 1 for one in margins)
    if only and {one.control.images_of for one in margins} == {"random"}:
        alike = all(one.arm.images == one.control.images for one in margins)
        return "as many random real images" if alike else "random real images of the same IPC"
    return f"the best control ({_controls(results, margins)})"


def _controls(results: Results, margins: Sequence[Margin]) -> str:
    """`k-means medoids or herding`."""
    *others, last = dict.fromkeys(called(margin.control, results) for margin in margins)
    return " or ".join(filter(None, [", ".join(others), last]))


def _titles(margins: Sequence[Margin]) -> list[str]:
    return list(dict.fromkeys(margin.arm.title for margin in margins))


def _by_title(margins: Sequence[Margin]) -> dict[str, list[Margin]]:
    return {title: [one for one in margins if one.arm.title == title] for title in _titles(margins)}


def _by_outcome(margins: Sequence[Margin]) -> dict[str, list[Margin]]:
    grouped: dict[str, list[Margin]] = {}
    for margin in margins:
        grouped.setdefault(margin.outcome, []).append(margin)
    return grouped


def _points(margins: Sequence[Margin]) -> str:
    """`5.2 points`, `2.0 to 4.1 points`."""
    gaps = sorted({abs(margin.comparison.gap) for margin in margins})
    return f"{gaps[0]:.1f} points" if len(gaps) == 1 else f"{gaps[0]:.1f} to {gaps[-1]:.1f} points"


def _gaps(margins: Sequence[Margin]) -> str:
    """`−1.0 to +6.0 points`."""
    gaps = sorted({margin.comparison.gap for margin in margins})
    return f"{' to '.join(map(signed, dict.fromkeys((gaps[0], gaps[-1]))))} points"


def _places(margins: Sequence[Margin]) -> str:
    """`IPC 1 and 10 with hard labels and IPC 10 with soft labels`."""
    by_labels = {labels: sorted({one.ipc for one in margins if one.arm.labels == labels}) for labels in LABELS}
    by_ipcs: dict[tuple[int, ...], list[str]] = {}
    for labels, ipcs in by_labels.items():
        if ipcs:
            by_ipcs.setdefault(tuple(ipcs), []).append(labels)
    places = [f"IPC {listed(list(map(str, ipcs)))} with {listed(labels)} labels" for ipcs, labels in by_ipcs.items()]
    return listed(places)


def _student(results: Results, student: str) -> str:
    """The name of a student, with the norm of its layers where it is known."""
    arms = (arm for rows in results.by_student[student].values() for arm in rows.values())
    norm = next((arm.norm for arm in arms if arm.norm), "")
    return f"{student} ({norm} norm)" if norm else student


def _evidence(results: Results, margins: Sequence[Margin]) -> str:
    """How sure a headline is: the student, how many of them on how many sets, and the level of each question."""
    sets, students = (
        sorted({count for margin in margins if (count := getattr(margin.arm, name))}) for name in ("sets", "students")
    )
    counts = f"{_range(students)} students each"
    if sets == [1]:
        counts = f"one distillation seed: the ± is of {_range(students)} students only"
    elif sets:
        counts = f"{_range(students)} students on {_range(sets)} sets each"
    if students and students[0] < SEEDS_TO_QUOTE:
        counts += ", too few to quote"
    questions = {(margin.ipc, margin.arm.labels) for margin in results.margins()}
    return "; ".join(filter(None, [results.student, counts, "95 % each" if len(questions) > 1 else "95 %"]))


def _range(counts: Sequence[int]) -> str:
    """`3`, `3 to 5`."""
    return " to ".join(str(count) for count in dict.fromkeys([*counts[:1], *counts[-1:]]))


def remarks(results: Results) -> list[str]:
    """What a reader must know beside the table, a sentence per element, computed from the numbers alone."""
    sentences = _chance(results) + _without_control(results) + _seeds(results) + _generators(results)
    sentences += _tiles(results) + _batch_norm(results)
    if results.note:
        sentences.append(results.note if results.note.endswith((".", "!", "?")) else results.note + ".")
    return sentences


def _tiles(results: Results) -> list[str]:
    """Sets that store several images in one: what of their margin is the number of images and of steps that whole ones do not have."""
    several: dict[str, float] = {}
    for arms in results.by_ipc.values():
        fewest = min((arm.images for arm in arms.values() if arm.images), default=0)
        several |= {
            called(arm, results): arm.images / fewest for arm in arms.values() if arm.images and arm.images > fewest
        }
    if results.protocol.get("budget") == "steps":
        beside = "in as many optimiser steps as those of every other set of its IPC."
    else:
        beside = "and take as many more steps in as many epochs, which no control of whole images does."
    return [
        f"Each stored image of {listed([name for name in several if several[name] == times])} is {times:g} smaller ones: students see as "
        f"many more images, {beside}"
        for times in sorted(set(several.values()))
    ]


def _without_control(results: Results) -> list[str]:
    """Sets whose accuracy says nothing yet."""
    alone = [
        f"{called(arm, results)} + {arm.labels} labels at IPC {ipc}"
        for ipc, arms in results.by_ipc.items()
        for arm in arms.values()
        if arm.is_measured and arm.mean is not None and not results.controls(results.student, ipc, arm)
    ]
    if not alone:
        return []
    return [f"There is no control of {listed(alone)}, so this alone says nothing about distillation."]


def _chance(results: Results) -> list[str]:
    """Who is no better than whoever names one class every time. Finite losses do not tell: a dead network has a very even one."""
    chance, images = (number(results.protocol.get(name)) for name in ("chance", "test_images"))
    if chance is None or not images or not 0 < chance < 1:
        return []
    reached: dict[str, float | None] = {"the teacher": results.teacher_accuracy}
    for ipc, arms in results.by_ipc.items():
        reached |= {f"{called(arm, results)} + {arm.labels} labels at IPC {ipc}": arm.mean for arm in arms.values()}
    reached |= {"the full real set": results.full.mean} if results.full is not None else {}
    blind = [who for who, mean in reached.items() if mean is not None and not beats_chance(mean, chance, int(images))]
    if not blind:
        return []
    text = listed(blind)
    return [
        f"{text[0].upper() + text[1:]} {'is' if len(blind) == 1 else 'are'} no better than naming the commonest class every time "
        f"({percent(chance)}), which takes no learning."
    ]


def _seeds(results: Results) -> list[str]:
    counts = sorted({arm.students for arms in results.by_ipc.values() for arm in arms.values() if arm.students})
    if not counts:
        return []
    if counts == [1]:
        return ["Accuracies are those of the last epoch of one seed each, so chance is not ruled out."]
    short = ""
    if counts[0] < SEEDS_TO_QUOTE:
        short = ", fewer than the three that a quoted number needs"
    elif counts[0] < ENOUGH_SEEDS:
        short = ", fewer than five, so small differences stay open"
    sentences = [f"Accuracies are those of the last epoch, means over {_range(counts)} students{short}."]
    measured = [arm for arm in results.arms if arm.is_measured and arm.sets]
    once = list(dict.fromkeys(called(arm, results) for arm in measured if arm.sets == 1 and (arm.students or 1) > 1))
    if once:
        whose = "distilled images" if results.alone else listed(once)
        sentences.append(
            f"There is one distillation seed: the ± of {whose} is of students only, that of random images of their choice too."
        )
    return sentences


def _generators(results: Results) -> list[str]:
    """Whose images a generator made, which their bytes do not count."""
    by_size: dict[float, list[str]] = {}
    for arm in results.arms:
        if arm.generator_bytes:
            by_size.setdefault(arm.generator_bytes, []).append(called(arm, results))
    return [
        f"The images of {listed(list(dict.fromkeys(titles)))} were made by a generator of {human_bytes(size)}, which is not among "
        "the bytes of the images: a generator that was trained on the same images holds what they hold."
        for size, titles in by_size.items()
    ]


def _batch_norm(results: Results) -> list[str]:
    """Students with batch norm on so few images that the statistics of a batch are compared."""
    few: dict[str, set[int]] = {}
    for student, by_ipc in results.by_student.items():
        for ipc, arms in by_ipc.items():
            if any("batch" in arm.norm and (arm.images or FEW_IMAGES) < FEW_IMAGES for arm in arms.values()):
                few.setdefault(student, set()).add(ipc)
    return [
        f"{student} has batch norm: with fewer than {FEW_IMAGES} images, as at IPC {listed(list(map(str, sorted(ipcs))))}, its "
        "accuracy depends on the statistics of batches as much as on the images; a student with instance norm does not."
        for student, ipcs in few.items()
    ]
