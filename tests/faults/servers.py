"""Small web servers for tests: with and without parts of files, failing now and then, forbidding, slow to start."""

from __future__ import annotations

import functools
import html
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote


class Plain(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, whole files only, as Python's own server does."""

    def log_message(self, format: str, *args: object) -> None:
        pass


class Parts(Plain):
    """Serves parts of files too."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if first >= len(data):
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])


class Flapping(Parts):
    """Answers no request before it was made twice."""

    def do_GET(self) -> None:
        if self._heard():
            super().do_GET()

    def do_HEAD(self) -> None:
        if self._heard():
            super().do_HEAD()

    def _heard(self) -> bool:
        asked = (self.server.server_address, self.command, self.path, self.headers.get("Range"))
        if asked in _ASKED:
            return True
        _ASKED.add(asked)
        self.send_error(503)
        return False


_ASKED: set[object] = set()


class Forbidding(Parts):
    """Gives nothing below `secret`."""

    def do_GET(self) -> None:
        if "secret" in self.path:
            self.send_error(403)
        else:
            super().do_GET()

    do_HEAD = do_GET


class Sorting(Parts):
    """Lists folders as Apache does: with links that sort the page, a link upwards, and whole paths."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_dir():
            super().do_GET()
            return
        here = self.path.rstrip("/")
        links = ["?C=N;O=D", "?C=M;O=A", "/", "../", f"{here}/#top", "https://elsewhere.invalid/x.jpg"]
        names = (html.escape(quote(entry.name, safe="&=;+,")) + "/" * entry.is_dir() for entry in path.iterdir())
        page = "".join(f'<a href="{link}">x</a>\n' for link in [*links, *(f"{here}/{name}" for name in names)]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


class Cutting(Parts):
    """Breaks off in the middle of every third file."""

    count = 0

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        type(self).count += path.is_file()
        if not path.is_file() or type(self).count % 3:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        self.wfile.write(path.read_bytes()[:100])
        self.close_connection = True


@contextmanager
def serving(folder: Path, handler: type[Plain] = Plain) -> Iterator[str]:
    """The address of a server of a folder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
