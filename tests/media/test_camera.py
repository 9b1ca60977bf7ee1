"""Sources: what a user may name, times that run on, and queues that never grow."""

import contextlib
import http.server
import threading
import time
from dataclasses import replace

import av
import numpy as np
import pytest

from slt_jax.errors import UserError
from slt_jax.media import camera
from slt_jax.media.camera import Camera, Slot, source_of
from tests.media.synthetic import signing, write_video


def shots(source, seconds: float = 20) -> list[camera.Shot]:
    """All of a source's pictures, as fast as they come."""
    found, until = [], time.monotonic() + seconds
    with Camera(source) as opened:
        while not opened.shots.over and time.monotonic() < until:
            if shot := opened.shots.get(0.1):
                found.append(shot)
    return found


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "a.mp4", signing(20))


def test_a_file_comes_whole_however_slow_the_reader(video):
    with Camera(source_of(str(video))) as opened:
        time.sleep(0.3)
        found = []
        while not opened.shots.over:
            found += [shot] if (shot := opened.shots.get(1)) else []
        assert opened.shots.dropped == 0
    assert [shot.time for shot in found] == pytest.approx([n / 25 for n in range(20)])
    assert found[0].image().shape == (96, 96, 3)


def test_a_file_as_if_live_takes_its_time_and_does_not_wait(video):
    began = time.monotonic()
    assert len(shots(source_of(str(video), realtime=True))) == 20
    assert 0.7 < time.monotonic() - began < 3
    with Camera(source_of(str(video), realtime=True)) as opened:
        opened._thread.join(10)  # nobody takes its pictures
        assert opened.shots.dropped == 20 - camera.WAITING
        assert len([opened.shots.get(1) for _ in range(camera.WAITING)]) == camera.WAITING
        assert opened.shots.over


def test_what_is_not_there_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "text.mp4").write_text("no video\n" * 99)
    monkeypatch.setattr(camera, "glob", lambda _: ["/dev/video7", "/dev/video3"])
    for text, named in (
        ("99", "camera 99: there is no /dev/video99; cameras here: /dev/video3, /dev/video7"),
        ("/dev/video98", "/dev/video98: there is no /dev/video98"),
        ("no.mp4", "no.mp4: no such file"),
        (str(tmp_path), "cannot be opened as a video"),
        (str(tmp_path / "text.mp4"), "cannot be opened as a video"),
        ("rtsp://me:secret@127.0.0.1:1/live", r"rtsp://127.0.0.1:1/live: cannot be opened as a video \(Connection"),
        ("http://127.0.0.1:1/live", "http://127.0.0.1:1/live: cannot be opened"),
        ("rtps://camera/1", "unknown protocol rtps; did you mean 'rtsps'"),
        ("file:///etc/passwd", "unknown protocol file"),
    ):
        with pytest.raises(UserError, match=named) as error:
            source_of(text).facts  # noqa: B018 - which opens it
        assert "\n" not in str(error.value)
        assert "secret" not in str(error.value)
    with pytest.raises(UserError, match="--realtime: camera 0 is live already"):
        source_of("0", realtime=True)


def test_a_source_that_breaks_off_says_so_after_its_last_picture(tmp_path):
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(60)]
    whole = write_video(tmp_path / "whole.mkv", images).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    with Camera(source_of(str(tmp_path / "cut.mkv"))) as opened:
        for _ in range(10):
            assert opened.shots.get(5) is not None
        with pytest.raises(UserError, match="breaks off at"):
            list(iter(lambda: opened.shots.get(5), None))


def test_a_camera_that_falls_silent_is_told(video, monkeypatch):
    monkeypatch.setattr(camera, "TIMEOUT", -1.95)
    live = replace(source_of(str(video)), live=True)
    with Camera(live) as opened:
        opened._thread.join()
        assert opened.shots.dropped == 20 - camera.WAITING
        opened.check()  # it has ended, which is something else
    silent = Camera(live)
    time.sleep(0.1)
    with pytest.raises(UserError, match="gives no picture"):
        silent.check()


def test_a_stream_of_the_network_is_played_by_its_own_clock():
    """Wherever that starts; if it jumps, time goes on with ours."""
    clock = camera._Clock()
    assert clock.time(5000.0, 0.1) == pytest.approx(0.1)
    assert clock.time(5000.4, 0.1) == pytest.approx(0.5)  # it came early
    assert clock.time(5000.2, 0.6) == pytest.approx(0.5)  # and never goes back
    assert clock.time(12.0, 0.7) == pytest.approx(0.7)
    assert clock.time(12.5, 1.1) == pytest.approx(1.2)


def test_a_slot_waits_or_drops():
    drops = Slot[int](2, drops=True)
    for n in range(5):
        assert drops.put(n)
    assert (drops.get(0), drops.get(0), drops.get(0), drops.dropped) == (3, 4, None, 3)
    waits = Slot[int](2, drops=False)
    thread = threading.Thread(target=lambda: [waits.put(n) for n in range(5)] and waits.end())
    thread.start()
    assert [waits.get(5) for _ in range(5)] == list(range(5))
    thread.join()
    assert waits.over
    assert not waits.put(9)


def test_who_waits_for_room_is_freed_by_the_end():
    slot = Slot[int](1, drops=False)
    slot.put(0)
    taken = []
    thread = threading.Thread(target=lambda: taken.append(slot.put(1)))
    thread.start()
    slot.end()
    thread.join(5)
    assert taken == [False]
    assert slot.get(0) == 0


def test_all_that_is_there_is_taken_at_once():
    slot = Slot[int](8, drops=False)
    for n in range(5):
        slot.put(n)
    assert slot.all(3, 1) == [0, 1, 2]
    assert slot.all(3, 1) == [3, 4]
    assert slot.all(3, 0.01) == []
    slot.put(5)
    slot.end(UserError("gone"))
    assert slot.all(3, 1) == [5]
    assert not slot.over
    with pytest.raises(UserError, match="gone"):
        slot.all(3, 1)


class Broadcast(http.server.BaseHTTPRequestHandler):
    """`/file.mp4` is a file; `/live` is sent as it is made, without a length, and breaks off."""

    file: bytes
    stream: bytes

    def do_GET(self):
        self.send_response(200)
        if self.path == "/file.mp4":
            self.send_header("Content-Length", str(len(self.file)))
            self.end_headers()
            self.wfile.write(self.file)
            return
        self.end_headers()
        with contextlib.suppress(OSError):  # who only looks what it is
            for part in range(0, len(self.stream), 2000):
                self.wfile.write(self.stream[part : part + 2000])
                time.sleep(0.01)

    def log_message(self, *_):
        pass


def test_addresses(tmp_path):
    """A file of the network waits as any other; a broadcast does not."""
    Broadcast.file = write_video(tmp_path / "a.mp4", signing(20)).read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as original, av.open(str(tmp_path / "a.ts"), "w", format="mpegts") as copy:
        stream = copy.add_stream_from_template(original.streams.video[0])
        for packet in original.demux(original.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    Broadcast.stream = (tmp_path / "a.ts").read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broadcast) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        file, live = source_of(f"{at}/file.mp4"), source_of(f"{at}/live")
        assert (file.live, live.live, live.paced, live.endless) == (False, True, True, True)
        assert len(shots(file)) == 20
        found: list[camera.Shot] = []
        with Camera(live) as opened, pytest.raises(UserError, match="/live: cannot be read to its end"):
            found.extend(iter(lambda: opened.shots.get(5), None))
        server.shutdown()
    times = [shot.time for shot in found]
    assert 15 <= len(times) <= 20
    assert times[0] == pytest.approx(0, abs=0.01)
    assert np.diff(times) == pytest.approx(0.04, abs=0.01)
