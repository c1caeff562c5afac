"""A source of condensed sets is a stage, or an item of one: what it is called in arms, items and keys, and which names are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.artifacts.distilled import set_name, source_of, source_slug
from pipelines.commands.jobs import make_job, make_jobs
from pipelines.errors import UserError
from pipelines.stages import get_stage

SOURCES = ("cda", "datadream@cls")
INGEST = "ingest: {sources: [{type: folder, path: images}]}\n"


def test_a_slug_has_no_at_and_leads_back_to_its_source() -> None:
    assert [source_slug(source) for source in SOURCES] == ["cda", "datadream_cls"]
    assert [source_of(source_slug(source), SOURCES) for source in SOURCES] == list(SOURCES)
    assert [set_name("datadream@cls", number) for number in (0, 2)] == ["datadream_cls", "datadream_cls_s2"]


def test_relabel_has_an_item_for_every_source_and_reads_that_one(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(INGEST + "relabel: {sources: [cda, datadream@cls]}\n")
    jobs = make_jobs("relabel", tmp_path / "params.yaml", data=str(tmp_path / "data"))
    assert [job.name for job in jobs] == ["relabel@cda", "relabel@datadream_cls"]
    assert [list(get_stage("relabel").inputs(job)) for job in jobs] == [
        ["squeeze", "cda"],
        ["squeeze", "datadream@cls"],
    ]


def test_an_evaluation_reads_the_labels_of_every_source(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(INGEST + "evaluate: {distilled: {sources: [cda, datadream@cls]}}\n")
    job = make_job("evaluate@distilled", tmp_path / "params.yaml", data=str(tmp_path / "data"))
    assert list(get_stage("evaluate").inputs(job))[-4:] == [*SOURCES, "relabel@cda", "relabel@datadream_cls"]


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ("[cda, cda]", "sources names something twice: cda"),
        ("[datadream@cls, datadream_cls]", "sources names something twice: datadream@cls"),
        ("[datadream@]", "a source is STAGE or STAGE@ITEM, not 'datadream@'"),
        ("[data/cda]", "a source is STAGE or STAGE@ITEM, not 'data/cda'"),
        ("[datadream@clss]", "reads datadream@clss: datadream has no 'clss'"),
        ("[nothing@here]", "reads nothing@here: unknown stage 'nothing'"),
    ],
)
def test_a_source_that_is_none_is_refused_before_anything_runs(tmp_path: Path, sources: str, sentence: str) -> None:
    (tmp_path / "params.yaml").write_text(f"{INGEST}datadream: {{}}\nrelabel: {{sources: {sources}}}\n")
    with pytest.raises(UserError) as refusal:
        make_jobs("relabel", tmp_path / "params.yaml", data=str(tmp_path / "data"))
    assert sentence in str(refusal.value)
