"""The WebSocket of the service: text for pictures, shared batches, bounds, and whatever else may be sent."""

import json
import logging
import socket as sockets
import struct
import threading
from contextlib import ExitStack, suppress

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from slt_jax.serve.bounds import Bounds
from tests.serve.service import CountingModel, ask, begun, jpeg, picture, rest, running, until


@pytest.fixture(scope="module")
def server():
    with running(CountingModel(languages=("es", "en")), Bounds(max_queue=64)) as server:
        yield server


def free(server):
    until(lambda: server.service.sessions == 0)
    until(lambda: all(extractor.closed for extractor in server.service.model.extractors))


def test_text_for_pictures(server):
    with begun(server, language="en") as socket:
        for number in range(9):
            socket.send(picture(5 + number / 10))
        socket.send('{"type": "end"}')
        messages, code, _ = rest(socket)
    assert code == 1000
    ended = [segment for message in messages if message["type"] == "text" for segment in message["ended"]]
    assert ended == [{"start": 5.0, "end": 5.6, "text": "en0 en1 en2"}, {"start": 5.6, "end": 5.9, "text": "en0"}]
    frames = [message for message in messages if message["type"] == "frame"]
    assert frames[-1]["done"] == 9
    assert frames[0]["boxes"] == {"face": [1, 2, 30, 40]}
    assert len(frames[0]["points"]) == 33
    free(server)


def test_sentences_have_the_times_of_their_pictures_also_after_a_gap(server):
    with begun(server) as socket:
        for at in (*(number / 10 for number in range(6)), *(20 + number / 10 for number in range(6))):
            socket.send(picture(at))
            until(lambda: json.loads(socket.recv())["type"] == "frame")
        socket.send('{"type": "end"}')
        ended = [s for message in rest(socket)[0] if message["type"] == "text" for s in message["ended"]]
    assert ended[-1]["start"] == 20.0


@pytest.mark.parametrize(("sent", "code", "named"), [
    ("{", 1007, "no JSON"),
    ("[1]", 1007, "no object"),
    ('{"type": "other"}', 1007, "end"),
    ("[" * 4000, 1007, "no JSON"),
    ('"' + "x" * 5000 + '"', 1009, "5002 characters"),
    (b"12", 1007, "without a picture"),
    (picture(1.0, b"text, not a JPEG"), 1003, "no JPEG"),
    (picture(1.0, jpeg()[:300]), 1007, "cannot be read"),
    (picture(1.0, jpeg(400, 300)[:-60]), 1007, "damaged"),
    (picture(float("nan")), 1007, "no number of seconds"),
    (picture(-1.0), 1007, "no number of seconds"),
    (picture(1.0, jpeg(8, 8)), 1007, "at least 16"),
])  # fmt: skip
def test_what_cannot_be_read_closes_the_session_and_no_other(server, caplog, sent, code, named):
    with begun(server) as other, begun(server) as socket, caplog.at_level(logging.INFO, "slt_jax.serve"):
        socket.send(sent)
        messages, closed, reason = rest(socket)
        assert (closed, named in reason) == (code, True), reason
        assert messages[-1] == {"type": "error", "code": code, "message": reason}
        until(lambda: server.service.sessions == 1)
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 1, lines
        assert f"stream {code}" in lines[0]
        other.send(picture(0.0))
        assert json.loads(other.recv(timeout=10))["type"] == "frame"
    free(server)


def test_a_large_picture_is_refused_by_its_header(server):
    small = jpeg()
    place = small.index(b"\xff\xc0")
    large = small[: place + 5] + struct.pack(">HH", 20_000, 20_000) + small[place + 9 :]
    with begun(server) as socket:
        socket.send(picture(0.0, large))
        assert rest(socket)[1:] == (1009, "a picture of 20000 x 20000; at most 1920 on a side")
    with begun(server) as socket:
        socket.send(bytes(1920 * 1920 + 1))
        assert rest(socket)[1:] == (1009, "a picture of 3686401 bytes; at most 3686400")
    with begun(server) as socket, suppress(ConnectionError, ConnectionClosed):
        socket.send(bytes(20_000_000))  # which nobody reads to its end
        rest(socket)
    free(server)


def test_pictures_may_change_their_size_and_not_go_back_in_time(server):
    with begun(server) as socket:
        for number, size in enumerate([(64, 48), (48, 64), (640, 480), (17, 16)]):
            socket.send(picture(number / 10, jpeg(*size)))
            until(lambda: json.loads(socket.recv())["type"] == "frame")
        socket.send(picture(0.1))
        _, code, reason = rest(socket)
    assert code == 1007
    assert "not after the one before" in reason


def test_the_first_message(server):
    for sent, named in (
        (b"\0\0", "first message"), ('{"type": "end"}', "first message"),
        ('{"type": "start", "language": "xx"}', "known: es, en"), ('{"type": "start", "language": ["es"]}', "known"),
        ('{"type": "start", "token": 3}', "token"),
    ):  # fmt: skip
        with connect(server.ws) as socket:
            socket.send(sent)
            assert named in rest(socket)[2]
    free(server)


def test_a_connection_that_goes_frees_everything(server):
    for abrupt in (True, False):
        with begun(server) as socket:
            socket.send(picture(0.0))
            assert server.service.sessions == 1
            if abrupt:
                socket.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
                socket.socket.close()
        free(server)


def test_a_page_from_elsewhere_may_not_ask(server):
    with pytest.raises(InvalidStatus) as refused:
        connect(server.ws, additional_headers={"Origin": "https://elsewhere.example"})
    assert refused.value.response.status_code == 403
    with begun(server, headers={"Origin": server.url}):
        pass
    status, _, body = ask(f"{server.url}/v1/models", headers={"Origin": "null"})
    assert (status, b"elsewhere" in body) == (403, True)
    status, _, body = ask(f"{server.url}/", headers={"Host": "rebound.example"})
    assert status == 421


def test_sessions_share_batches():
    model = CountingModel(device=0.05)
    with running(model) as server, ExitStack() as stack:
        some = [stack.enter_context(begun(server)) for _ in range(4)]
        for number in range(10):
            for socket in some:
                socket.send(picture(number / 10))
        for socket in some:
            socket.send('{"type": "end"}')
        said = [rest(socket) for socket in some]
    assert {code for _, code, _ in said} == {1000}
    assert max(model.batches) >= 3
    assert sum(model.batches) < 40  # and several frames of one session, one batch


def test_places_are_bounded_and_given_back():
    with running(bounds=Bounds(max_sessions=2)) as server, begun(server):
        with begun(server), connect(server.ws) as third:
            assert rest(third)[1:] == (1013, "all 2 places are taken; try again later")
        until(lambda: server.service.sessions == 1)
        with begun(server):
            pass


def test_a_slow_model_drops_the_oldest_pictures_and_counts_them():
    with running(CountingModel(delay=0.05), Bounds(max_queue=2)) as server, begun(server) as socket:
        for number in range(20):
            socket.send(picture(number / 10))
        socket.send('{"type": "end"}')
        messages, code, _ = rest(socket)
        assert code == 1000
        frame = [message for message in messages if message["type"] == "frame"][-1]
        assert frame["done"] == 20
        assert frame["dropped"] >= 10
        _, _, text = ask(f"{server.url}/metrics")
        assert f'slt_frames_total{{outcome="dropped"}} {frame["dropped"]}.0' in text.decode()


def test_a_sender_that_stalls_and_one_that_takes_too_long():
    with running(bounds=Bounds(idle_seconds=0.3, max_seconds=1.2)) as server:
        with begun(server) as socket:
            assert rest(socket)[1:] == (3008, "no picture for 0.3 seconds")
        with begun(server) as socket:
            sending = threading.Event()

            def send():
                number = 0
                with suppress(ConnectionClosed):  # by the service, while the next picture is on its way
                    while not sending.wait(0.1):
                        socket.send(picture(number / 10))
                        number += 1

            thread = threading.Thread(target=send)
            thread.start()
            try:
                messages, code, reason = rest(socket)
            finally:
                sending.set()
                thread.join()
            assert (code, reason) == (3008, "a session takes at most 1.2 seconds")
            assert any(message.get("ended") for message in messages)


def test_a_reader_that_never_reads_is_closed(monkeypatch):
    monkeypatch.setattr("slt_jax.serve.session.SEND_SECONDS", 0.5)
    monkeypatch.setattr("slt_jax.serve.server.CLOSE_SECONDS", 0.2)
    model = CountingModel()
    model.points = 20_000
    with running(model) as server, sockets.socket() as raw:
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 2048)
        raw.connect(("127.0.0.1", server.port))
        raw.sendall(
            f"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        until(lambda: raw.recv(4096))

        def send(kind, payload):
            long = len(payload) > 125
            length = struct.pack(">BH", 128 | 126, len(payload)) if long else bytes([128 | len(payload)])
            raw.sendall(bytes([128 | kind]) + length + bytes(4) + payload)

        send(1, b'{"type":"start"}')
        until(lambda: server.service.sessions == 1)
        with begun(server) as other:
            number = 0
            with suppress(OSError):
                while True:
                    send(2, picture(number / 10))
                    number += 1
            other.send(picture(0.0))
            assert json.loads(other.recv(timeout=10))["type"] == "frame"
        free(server)


def test_told_to_stop_it_finishes_what_was_signed(monkeypatch):
    monkeypatch.setattr("slt_jax.serve.session.LATE_SECONDS", 10)
    model = CountingModel(delay=0.2)
    with running(model) as server, begun(server) as socket:
        for number in range(4):
            socket.send(picture(number / 10))
        until(lambda: model.looked == 4)  # the last of them is being looked at
        server.server.should_exit = True
        messages, code, reason = rest(socket)
        assert (code, reason) == (1001, "the service stops")
        assert [s["text"] for m in messages if m["type"] == "text" for s in m["ended"]] == ["w0 w1"]
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_a_thousand_connections_leave_a_session_unharmed():
    with running(bounds=Bounds(max_connections=60)) as server, begun(server) as mine:
        crowd = []
        for _ in range(1000):
            one = sockets.socket()
            one.connect(("127.0.0.1", server.port))
            crowd.append(one)
        mine.send(picture(0.0))
        assert json.loads(mine.recv(timeout=10))["type"] == "frame"
        assert crowd[-1].recv(100).startswith(b"HTTP/1.1 503")
        for one in crowd:
            one.close()
        until(lambda: len(server.server.server_state.connections) < 10)
        assert ask(f"{server.url}/healthz")[0] == 200
