import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from filelock import FileLock
from helpers import refused

from data_scripts.fetch import Archive, fetch

CONTENT = bytes(range(256)) * 400


class Server(ThreadingHTTPServer):
    """Serves CONTENT. ranges: whether it can go on in the middle. stop: bytes after which it hangs up."""

    ranges, stop = True, None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requested = []
        url, sha256 = f"http://127.0.0.1:{self.server_port}/set.zip", hashlib.sha256(CONTENT).hexdigest()
        self.archive = Archive("set.zip", url, sha256, bytes=len(CONTENT))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        requested = self.headers.get("Range")
        self.server.requested.append(requested)
        if "missing" in self.path:
            self.send_error(404)
            return
        begin = int(requested[len("bytes=") : -1]) if requested and self.server.ranges else 0
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        self.wfile.write(CONTENT[begin : self.server.stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_fetches_once(server, tmp_path):
    assert fetch(server.archive, tmp_path / "raw") == tmp_path / "raw/set.zip"
    assert (tmp_path / "raw/set.zip").read_bytes() == CONTENT
    fetch(server.archive, tmp_path / "raw")
    assert server.requested == [None], "a whole file is not fetched again"
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["set.zip"]
    (tmp_path / "set.zip").write_bytes(b"mine")
    refused(r"set.zip has 4 bytes: expected 102,400", fetch, server.archive, tmp_path)
    (tmp_path / "set.zip").rename(tmp_path / "mine.zip")
    (tmp_path / "set.zip.part").write_bytes(CONTENT)  # killed between the last byte and the rename
    with FileLock(tmp_path / "set.zip.part.lock"), pytest.raises(BlockingIOError, match="another process"):
        fetch(server.archive, tmp_path)
    assert fetch(replace(server.archive, bytes=None), tmp_path).read_bytes() == CONTENT
    assert server.requested == [None, f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_goes_on_after_an_interruption(server, tmp_path, ranges):
    server.ranges, server.stop = ranges, 1000
    message = r"ended after 1,000 of 102,400 bytes: run this again"
    refused(message, fetch, server.archive, tmp_path, error=ConnectionError)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip.part"]
    server.stop = None
    assert fetch(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.requested == [None, "bytes=1000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_wrong_checksum(server, tmp_path, kind):
    archive = replace(server.archive, **({"sha256": None} | {kind: "0" * 64}))
    found = hashlib.new(kind, CONTENT).hexdigest()
    refused(f"{found}: expected {'0' * 64}.*Nothing was deleted", fetch, archive, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip.part"], "it must not get its name"
    assert (tmp_path / "set.zip.part").read_bytes() == CONTENT


def test_without_checksum_any_archive_is_taken(server, tmp_path, monkeypatch):
    archive = Archive("set.zip", server.archive.url)
    refused("set.zip.part is no archive, it may be a page that asks", fetch, archive, tmp_path)
    (tmp_path / "set.zip.part").unlink()
    monkeypatch.setitem(globals(), "CONTENT", b"PK\x05\x06" + bytes(18))
    assert fetch(archive, tmp_path).read_bytes() == CONTENT


def test_server_cannot_be_reached(server, tmp_path):
    for url in ("http://127.0.0.1:9/set.zip", f"{server.archive.url}.missing"):
        message = f"cannot fetch {url}.*another machine.*{tmp_path}/set.zip"
        refused(message, fetch, replace(server.archive, url=url), tmp_path, error=ConnectionError)
    refused("without its owners' consent", fetch, replace(server.archive, url=None), tmp_path)
