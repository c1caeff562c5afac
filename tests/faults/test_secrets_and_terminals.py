"""Credentials stay with the storage; foreign names reach a terminal as text; `show` writes into its folder only."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.commands.jobs import make_job
from pipelines.commands.samples import file_name, show_view
from pipelines.errors import StageStopped, UserError
from pipelines.outcomes import failed
from pipelines.redaction import redacted, redacted_values
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.shards.checksum import member_checksum
from pipelines.shards.sidecar import read_sidecar
from pipelines.storage import Storage
from pipelines.terminal import ShownFormatter, cell, shown
from tests.contract.folders import tree
from tests.contract.pictures import write_pictures

SECRET = "hunter2/+S3cr3t"
URLS = [
    f"https://user:{SECRET}@host.org/a/b.tar",
    "https://S3cr3tS3cr3t@host.org/a",
    f"s3://AKIAIOSFODNN7:{SECRET}@bucket/key",
    f"sftp://me:{SECRET}@host:22/x",
    f"https://host.org/a.tar?X-Amz-Signature={SECRET}&X-Amz-Expires=60",
    f"https://account.blob.core.windows.net/c/a?sv=1&sig={SECRET}",
    f"https://host.org/a?token={SECRET}#part",
    f"https://host.org/a#access_token={SECRET}",
    f"https://host.org/a?{SECRET}{SECRET}",
    f"zip://inner::https://u:{SECRET}@host.org/a.zip?sig={SECRET}",
    f"abfs://key:{SECRET}@account/x",
    f"https:/user:{SECRET}@host.org/a",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "sentence", ["{}", "403, message='Forbidden', url=URL('{}')", "cannot read {}: it is gone", '"{}"']
)
def test_no_credential_of_a_url_is_left_in_a_text(url: str, sentence: str) -> None:
    told = redacted(sentence.format(url))
    assert SECRET not in told
    assert "S3cr3t" not in told
    assert url.split(":/")[0] in told
    assert redacted(told) == told


@pytest.mark.parametrize(
    "text",
    [
        "/data/a@b:c/x?y=z.jpg",
        "data:/a/b:c@d and x:/a@b",
        "s3://bucket/folder/a@b.jpg",
        "https://host.org:8080/a@b",
        "abfs://container@account.dfs.core.windows.net/x",
        "hf://datasets/owner/name",
        "no url at all: a@b, x=y",
        "https://host.org/a#b",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redacted(text) == text


def test_values_under_the_name_of_a_secret_and_storage_options_are_hidden() -> None:
    form = {
        "password": "x", "aws_secret_access_key": "x", "api-key": "x", "tokens": 3, "tokenizer": "clip", "token": None,
        "storage_options": {"key": "x", "anything": "x"}, "list": [{"sas": "x"}, "https://u:x@h/"],
    }  # fmt: skip
    found = redacted_values(form)
    assert found["tokens"] == 3
    assert (found["tokenizer"], found["token"]) == ("clip", None)
    assert "x" not in {found["password"], found["aws_secret_access_key"], found["api-key"]}
    assert set(found["storage_options"].values()) == {"***"}
    assert found["list"] == [{"sas": "***"}, "https://***@h/"]


def test_a_storage_tells_no_secret_and_pickles_it() -> None:
    storage = Storage(f"https://user:{SECRET}@host.org/a?sig={SECRET}")
    assert SECRET not in storage.url + repr(storage)
    assert SECRET not in storage.child("b").url
    assert pickle.loads(pickle.dumps(storage)).location == storage.location


@pytest.mark.parametrize("error", [UserError, StageStopped])
def test_no_error_quotes_a_secret(error: type[UserError]) -> None:
    assert SECRET not in str(error(f"no file at {URLS[0]}"))
    assert type(pickle.loads(pickle.dumps(error("x")))) is error


def test_a_row_s_detail_holds_no_secret(tmp_path: Path) -> None:
    output = UnitOutput(Storage(tmp_path), Unit("a-000000", {}), "id")
    with output.shard() as shard:
        shard.reject(failed("unreadable", "transient", f"403 at {URLS[4]}"), {"key": "k" * 26})
    output.commit()
    for name, content in tree(tmp_path).items():
        assert SECRET.encode() not in content, name
    detail = read_sidecar(Storage(tmp_path), "meta/a-000000.parquet", ["detail"])["detail"][0].as_py()
    assert "X-Amz-Signature=***" in detail


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(403)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    """An HTTP server that forbids everything; host and port."""
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("kind", ["tar", "parquet", "folder"])
def test_the_command_never_prints_or_writes_a_credential(tmp_path: Path, refusing: str, kind: str) -> None:
    url = f"http://user:hunter2S3cr3t@{refusing}/a.{kind}?sig=hunter2S3cr3t"
    source = {"type": kind, "path": url} | ({"image_column": "i"} if kind == "parquet" else {})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"ingest": {"sources": [source]}}))
    for word in (["run", "ingest"], ["plan", "ingest"], ["run", "ingest", "--set", f"ingest.order={url}"]):
        command = [sys.executable, "-m", "pipelines", *word, "--params", "params.yaml"]
        said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert said.returncode != 0
        assert "hunter2" not in said.stdout + said.stderr, said.stderr
    (tmp_path / "params.yaml").unlink()
    for name, content in tree(tmp_path).items():
        assert b"hunter2" not in content, name


HOSTILE = [
    "\x1b[31mred\x1b]0;title\x07",
    "a\x9b2Jb",
    "abc\u202egpj.exe",
    "a\u2066b",
    "\udcff.jpg",
    "a\rb",
    "\x00",
    "\u2028",
    "\ufeffx",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_that_moves_a_cursor_or_turns_text_round_is_shown(name: str) -> None:
    told = shown(f"x {name} y")
    assert all(char.isprintable() for char in told)
    told.encode()
    assert cell(name).plain == shown(name)


def test_letters_of_every_script_and_emoji_are_shown_as_they_are() -> None:
    for text in ("größe 猫 кот क्‍ष 👩‍🚀 [bold]x[/] 50 %", "naïve"):
        assert shown(text) == text


def test_markup_in_a_name_is_text_and_warnings_are_cleaned() -> None:
    assert cell("[red]x[/]").plain == "[red]x[/]"
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s", (f"\x1b[2J {URLS[0]}",), None)
    said = ShownFormatter("%(message)s").format(record)
    assert "\x1b" not in said
    assert SECRET not in said


def hostile_sidecar(folder: Path, key: str, ext: str, offset: int = 0, size: int = 4) -> None:
    from pipelines.shards.sidecar import SCHEMA

    for name in ("meta", "shards"):
        (folder / name).mkdir(parents=True)
    row = dict.fromkeys(SCHEMA.names) | {"key": key, "outcome": "kept", "source": "\x1b[2J[red]"}
    span = {field.name: 0 for field in SCHEMA.field("members").type.value_type}
    row["members"] = [span | {"ext": ext, "offset": offset, "size": size, "xxh3": member_checksum(b"evil")}]
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), folder / "meta" / "a.parquet")
    (folder / "shards" / "a.tar").write_bytes(b"evil")


@pytest.mark.parametrize(
    ("key", "ext"),
    [
        ("../../k", "png"),
        ("/etc/k", "png"),
        ("k", "png/../../../x"),
        ("k", ""),
        (".k", "x"),
        ("k" * 400, "png"),
        ("k\0", "x"),
        ("k/..", ".."),
    ],
)
def test_show_writes_into_its_folder_whatever_a_sidecar_says(tmp_path: Path, key: str, ext: str) -> None:
    hostile_sidecar(tmp_path / "data" / "d", key, ext)
    before = tree(tmp_path)
    show_view(key[:3], str(tmp_path / "data"), tmp_path / "out")
    after = {name: content for name, content in tree(tmp_path).items() if name not in before}
    assert len(after) == 2
    assert all(name.startswith("out/") for name in after)
    assert b"evil" in after.values()


def test_show_does_not_write_through_a_link(tmp_path: Path) -> None:
    hostile_sidecar(tmp_path / "data" / "d", "k", "png")
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "k.png").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"cannot write .*k\.png"):
        show_view("k", str(tmp_path / "data"), tmp_path / "out")
    assert (tmp_path / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize(("offset", "size"), [(-4, 4), (0, 5), (0, -1), (1 << 40, 1)])
def test_show_reads_nothing_that_is_not_in_the_shard(tmp_path: Path, offset: int, size: int) -> None:
    hostile_sidecar(tmp_path / "data" / "d", "k", "png", offset, size)
    with pytest.raises(UserError, match="limbeck lint says what is wrong"):
        show_view("k", str(tmp_path / "data"), tmp_path / "out")


def test_two_names_never_share_a_file() -> None:
    assert file_name("abc-d0003.png") == "abc-d0003.png"
    assert len({file_name(name) for name in ("a/b.png", "a_b.png", "a\\b.png", ".a_b.png")}) == 4


def test_hostile_class_and_file_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", count=9)
    (source / "bark").rename(source / "\x1b[31m[bold]bark\u202e")
    (source / "leaf" / "\x1b]0;x\x07[red].png").write_bytes(b"no picture")
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(
            {"ingest": {"sources": [{"type": "folder", "path": "source"}], "image": {"size": 8, "resize": "pad"}}}
        )
    )
    for words in (["plan", "ingest"], ["run", "ingest", "--set", "run.breaker.max_failed=1"], ["status"],
                  ["info", "ingest"], ["info", "ingest", "--failed"], ["lint", "data/ingest"]):  # fmt: skip
        more = ["--params", "params.yaml"] if words[0] in ("plan", "run") else []
        command = [sys.executable, "-m", "pipelines", *words, *more]
        said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=None)
        assert "Traceback" not in said.stderr
        for text in (said.stdout, said.stderr):
            assert not {"\x1b", "\x07", "\u202e"} & set(text), words
    assert (
        "[bold]bark"
        in subprocess.run(
            [sys.executable, "-m", "pipelines", "info", "ingest"], capture_output=True, text=True, cwd=tmp_path
        ).stdout
    )


def test_a_url_in_the_place_of_a_stage_is_told_whole_so_that_its_password_is_seen_as_one(repository: Path) -> None:
    with pytest.raises(UserError) as caught:
        make_job(f"https://user:{SECRET}@host.org/a", repository / "params.yaml")
    assert SECRET not in shown(caught.value)


def test_a_warning_of_ours_is_its_sentence_and_one_of_a_library_keeps_its_place() -> None:
    import pipelines.runtime.execute
    from pipelines.terminal import format_warning

    ours = str(Path(pipelines.runtime.execute.__file__))
    assert format_warning("lower it\x1b[31m", UserWarning, ours, 3) == "warning: lower it\\x1b[31m\n"
    assert "elsewhere.py:3: UserWarning: lower it" in format_warning("lower it", UserWarning, "elsewhere.py", 3, "")
    assert "DeprecationWarning" in format_warning("old", DeprecationWarning, ours, 3, "")
