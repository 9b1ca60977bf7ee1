"""`POST /v1/translate` and the other pages of the service, with whatever may be sent to them."""

import json
import logging
import os
import socket as sockets
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from slt_jax.errors import UserError
from slt_jax.serve.access import check_token
from slt_jax.serve.bounds import Bounds
from slt_jax.serve.scratch import Scratch
from slt_jax.serve.uploads import wanted
from tests.serve.service import CountingModel, ask, begun, form, running, until

FTYP = b"\x00\x00\x00\x18ftypmp42"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model, folder = CountingModel(languages=("es", "en")), tmp_path_factory.mktemp("scratch")
    with running(model, Bounds(max_upload_mb=1), scratch=folder) as server:
        yield server


def translate(server, *arguments, accept=None, **fields):
    body, headers = form(*arguments, **fields)
    return ask(f"{server.url}/v1/translate", body, headers | ({"Accept": accept} if accept else {}))


def test_a_video_becomes_text(server):
    status, headers, body = translate(server, FTYP + bytes(2_000), "weird/../../name.mp4", language="en")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {
        "text": "2012 bytes en",
        "segments": [{"start": 0.0, "end": 1.0, "text": "2012 bytes"}, {"start": 1.0, "end": 2.5, "text": "en"}],
    }
    status, headers, body = translate(server, FTYP, accept="text/html;q=0.1, application/x-subrip")
    assert headers["Content-Type"].startswith("application/x-subrip")
    assert body.decode().startswith("1\n00:00:00,000 --> 00:00:01,000\n12 bytes\n\n2\n")
    assert not any(os.path.exists(folder) for folder in server.service.model.folders)
    assert server.service.uploads.open == 0


def test_progress_comes_as_events(server):
    _, _, body = translate(server, FTYP, accept="text/event-stream")
    events = [part.split("\n") for part in body.decode().strip().split("\n\n")]
    assert [name for name, _ in events] == ["event: progress"] * 4 + ["event: segment"] * 2 + ["event: done"]
    assert json.loads(events[-1][1].removeprefix("data: "))["text"] == "12 bytes ¿más?"
    _, _, body = translate(server, FTYP + b"broken", accept="text/event-stream")
    assert body.decode().endswith(
        'event: error\ndata: {"status": 422, "error": "the file: cannot be opened as a video (no)"}\n\n'
    )


@pytest.mark.parametrize(("sent", "status", "named"), [
    (form(b"this is text", "a.mp4"), 422, "no video: mp4"),
    (form(b"#EXTM3U\n/etc/passwd"), 422, "no video"),
    (form(b""), 422, "no video"),
    (form(FTYP + b"broken", "../../etc/passwd"), 422, "the file: cannot be opened"),
    (form(field="video"), 400, "'file'"),
    (form(language="xx"), 400, "es, en"),
    (form(FTYP + bytes(1_100_000)), 413, "larger than 1 MB"),
    (form(FTYP + bytes(30_000_000)), 413, "larger than 1 MB"),  # more than the sockets' buffers hold
    ((b"{}", {"Content-Type": "application/json"}), 415, "multipart/form-data"),
    ((b"", {}), 415, "multipart/form-data"),
    ((b"--x\r\nrubbish", {"Content-Type": "multipart/form-data; boundary=x"}), 400, "form"),
    ((b"rubbish", {"Content-Type": "multipart/form-data"}), 400, "boundary"),
    ((form()[0], form()[1] | {"Accept": "image/png"}), 406, "Accept"),
])  # fmt: skip
def test_what_cannot_be_translated(server, caplog, sent, status, named):
    with caplog.at_level(logging.INFO, "slt_jax.serve"):
        answered, _, body = ask(f"{server.url}/v1/translate", *sent)
        until(lambda: any(f" {status} " in record.getMessage() for record in caplog.records))
    assert (answered, named in json.loads(body)["error"]) == (status, True), body
    assert sum(f"POST /v1/translate {status}" in record.getMessage() for record in caplog.records) == 1
    assert server.service.uploads.open == 0


def test_a_large_upload_is_refused_while_it_comes(server):
    """Also where it does not say how large it is."""
    with sockets.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(f"POST /v1/translate HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nTransfer-Encoding: chunked\r\n"
                    "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode())  # fmt: skip
        head = form()[0].split(b"\r\n\r\n")[0] + b"\r\n\r\n"
        for part in (head, *[bytes(100_000)] * 11):
            raw.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 413")
    until(lambda: server.service.uploads.open == 0)


def test_pages(server):
    for path in ("/", "/page.js", "/page.css", "/camera.js", "/draw.js", "/texts.js", "/icon.svg", "/docs", "/docs.js"):
        status, headers, body = ask(server.url + path)
        assert (status, len(body) > 100) == (200, True), path
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b""), path
        assert b"https://" not in body.replace(b"https:// ", b""), path
    assert json.loads(ask(f"{server.url}/v1/models")[2])["models"][0]["languages"] == ["es", "en"]
    assert ask(f"{server.url}/healthz")[0] == ask(f"{server.url}/readyz")[0] == 200
    assert b"slt_requests_total" in ask(f"{server.url}/metrics")[2]


def test_paths_that_there_are_not(server):
    for path in ("/../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/page_parts/page.html", "//etc/passwd", "/v1",
                 "/v1/models/", "/page.html%00", "/sample", "/static/..%5c..%5c"):  # fmt: skip
        status, _, body = ask(server.url + path)
        assert (status, json.loads(body)) == (404, {"error": "Not Found"}), path
    assert ask(f"{server.url}/v1/translate")[0] == 405
    assert ask(f"{server.url}/v1/stream")[0] == 426


def test_every_operation_of_the_document_is_served(server):
    document = json.loads(ask(f"{server.url}/openapi.json")[2])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            status = ask(server.url + path, method=method.upper(), body=b"" if method == "post" else None)[0]
            assert str(status) in operation["responses"], (path, status)


def test_the_token(caplog):
    with running(token="a long secret") as server, caplog.at_level(logging.INFO, "slt_jax.serve"):
        right = {"Authorization": "Bearer a long secret"}
        for path in ("/v1/models", "/metrics"):
            assert ask(server.url + path)[0] == 401
            assert ask(server.url + path, headers={"Authorization": "Bearer wrong"})[0] == 401
            assert ask(server.url + path, headers={"Authorization": "Bearer wröng"})[0] == 401
            assert ask(server.url + path, headers=right)[0] == 200
        assert translate(server)[0] == 401
        assert ask(f"{server.url}/")[0] == ask(f"{server.url}/readyz")[0] == 200
        assert ask(f"{server.url}/", headers={"Host": "any.example"})[0] == 200
        with begun(server, token="a long secret"), begun(server, headers=right):
            pass
        with pytest.raises(AssertionError), begun(server, token="wrong"):
            pass
        until(lambda: server.service.sessions == 0)
    assert not any("secret" in record.getMessage() for record in caplog.records)


def test_a_token_is_needed_where_others_reach_the_service():
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        check_token(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org", ""):
        with pytest.raises(UserError, match="needs --token"):
            check_token(host, None)
        check_token(host, "long enough")
    for token in ("", "short", "ñandú-ñandú", "with\nline"):
        with pytest.raises(UserError, match="--token: takes 8"):
            check_token("0.0.0.0", token)


def test_uploads_are_bounded_and_stop_with_their_client():
    model = CountingModel(delay=0.3)
    with running(model, Bounds(max_uploads=2)) as server:
        some = [threading.Thread(target=translate, args=(server,)) for _ in range(2)]
        for thread in some:
            thread.start()
        until(lambda: server.service.uploads.open == 2)
        status, headers, body = translate(server)
        assert (status, headers["Retry-After"]) == (429, "10")
        for thread in some:
            thread.join()
        body, headers = form()
        model.parts = 100  # half a minute
        for accept in ("application/json", "text/event-stream"):
            with sockets.create_connection(("127.0.0.1", server.port)) as raw:
                lines = [f"{name}: {value}\r\n" for name, value in (headers | {"Accept": accept}).items()]
                raw.sendall(f"POST /v1/translate HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{''.join(lines)}"
                            f"Content-Length: {len(body)}\r\n\r\n".encode() + body)  # fmt: skip
                until(lambda: server.service.uploads.open == 1)
                time.sleep(0.1)
            until(lambda: server.service.uploads.open == 0)
        until(lambda: not any(os.path.exists(folder) for folder in model.folders))


def test_a_sender_that_stalls_and_a_head_that_does_not_end(monkeypatch):
    monkeypatch.setattr("slt_jax.serve.server.HEADER_SECONDS", 0.3)
    with running(bounds=Bounds(idle_seconds=0.3)) as server:
        with sockets.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(f"POST /v1/translate HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 1000\r\n"
                        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x".encode())  # fmt: skip
            assert raw.recv(1000).startswith(b"HTTP/1.1 408")
        for sent in (b"", b"GET / HT"):
            with sockets.create_connection(("127.0.0.1", server.port)) as raw:
                raw.sendall(sent)
                raw.settimeout(5)
                with suppress(ConnectionResetError):
                    assert raw.recv(1000) == b""
        until(lambda: not server.server.server_state.connections)


def test_before_it_is_ready_and_when_it_never_is(caplog):
    go = threading.Event()
    with running(CountingModel(compiling=go.wait), wait=False) as server:
        assert ask(f"{server.url}/healthz")[0] == 200
        status, headers, body = ask(f"{server.url}/readyz")
        assert (status, headers["Retry-After"], b"being made ready" in body) == (503, "5", True)
        assert translate(server)[0] == 503
        go.set()
        until(server.service.ready.is_set)
        assert ask(f"{server.url}/readyz")[0] == 200

    def broken():
        raise RuntimeError("no memory\nat all")

    with running(CountingModel(compiling=broken), wait=False) as server:
        until(lambda: server.service.failure)
        assert ask(f"{server.url}/readyz")[0] == 503
    assert "the model cannot be made ready: no memory at all" in caplog.text


def test_what_a_killed_service_left_is_removed_by_the_next(tmp_path):
    code = "import os, sys\nfrom slt_jax.serve.scratch import Scratch\nwith Scratch(sys.argv[1]): os._exit(1)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    (tmp_path / "slt-serve-other").mkdir()
    with Scratch(tmp_path) as scratch, Scratch(tmp_path) as second:
        assert not left.exists()
        assert scratch.path.exists()
        assert second.path.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["slt-serve-other"]


def test_bounds_are_above_0():
    with pytest.raises(UserError, match="--max-sessions 0: must be above 0"):
        Bounds(max_sessions=0)
    with pytest.raises(UserError, match="--idle-seconds nan"):
        Bounds(idle_seconds=float("nan"))


def test_the_kind_of_an_answer():
    assert wanted("") == wanted("*/*") == wanted("text/html, */*;q=0.1") == "application/json"
    assert wanted("text/srt") == "application/x-subrip"
    assert wanted("application/json;q=0.5, text/event-stream;q=0.9") == "text/event-stream"
