"""The page in Chromium, with a generated signer for a camera: from the picture to the sentence on the page."""

import json
from types import SimpleNamespace

import pytest
import simplejpeg

from slt_jax.decoding.results import Segment
from slt_jax.media.live import LiveExtractor
from slt_jax.media.settings import ExtractionSettings
from slt_jax.synthetic.camera import GeneratedSigner, read_number
from slt_jax.synthetic.generator import ClipSpec, plan
from tests.serve.chromium import CHROMIUM, browser
from tests.serve.service import CountingModel, running, until

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
FPS = 10
SAID = "[...document.querySelectorAll('#sentences li')].map(item => item.lastChild.data)"


@pytest.fixture(scope="module")
def signer():
    specs, _ = plan({"train": 0, "val": 0, "test": 4}, 0, "small")
    return GeneratedSigner([ClipSpec(spec.sentence, 12, 0, (n,)) for n, spec in enumerate(specs.values())])


@pytest.fixture(scope="module")
def camera(signer, tmp_path_factory):
    """The signer as a file that Chromium takes for a camera, over and over again."""
    path = tmp_path_factory.mktemp("camera") / "signer.mjpeg"
    path.write_bytes(b"".join(simplejpeg.encode_jpeg(p, quality=85, colorsubsampling="420") for p in signer.pictures))
    return path


class NumberedStream:
    """Reads a sentence off where in the video its frames are: by the place of the face, as the detector found it."""

    def __init__(self, signer):
        self._signer, self._frames, self._first = signer, 0, 0

    def push(self, frames):
        ended = []
        for frame in frames:
            self._frames += 1
            place = self._place(frame)
            if place is not None and self._frames - self._first > FPS and place[1] > 0.9:
                ended.append(Segment(self._first / FPS, self._frames / FPS, self._signer.texts[place[0]]))
                self._first = self._frames
        words = self._signer.texts[place[0]].split() if place else []
        half = len(words) // 2
        return SimpleNamespace(settled=" ".join(words[:half]), pending=" ".join(words[half:]), ended=tuple(ended),
                               time=self._frames / FPS)  # fmt: skip

    def _place(self, frame):
        """The number of the sentence, and how much of it is over."""
        if not frame.anybody:
            return None
        at = min(range(len(self._signer.poses)), key=lambda n: abs(self._signer.poses[n] - frame.landmarks).sum())
        number, within = divmod(at - 5, 17)
        return (number, within / 12) if 0 <= within < 12 and 0 <= number < len(self._signer.texts) else None

    def finish(self):
        return SimpleNamespace(settled="", pending="", ended=(), time=self._frames / FPS)


class NumberedModel(CountingModel):
    """The real extraction, and a stand-in for the network."""

    fps, name = FPS, "numbered"

    def __init__(self, signer):
        super().__init__()
        self._signer = signer

    def open_extractor(self):
        settings = ExtractionSettings(fps=FPS, pose="raw")
        extractor = LiveExtractor(settings, image_size=28, make_detector=self._signer.detector)
        self.extractors.append(SimpleNamespace(closed=True))
        return extractor

    def open_stream(self, language):
        return NumberedStream(self._signer)

    def push(self, pairs):
        self.batches.append(len(pairs))
        return [stream.push(frames) for stream, frames in pairs]


def test_pictures_keep_their_numbers(signer):
    for number in range(0, 40, 7):
        small = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(signer.pictures[number], quality=40))
        assert read_number(small) == number
        assert signer.detector().body(small) is not None
    assert read_number(0 * small) is None


@pytest.mark.slow
def test_two_pages_read_the_camera_at_once(signer, camera, tmp_path):
    flags = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
             f"--use-file-for-fake-video-capture={camera}")  # fmt: skip
    model = NumberedModel(signer)
    with running(model) as server, browser(tmp_path, *flags, language="es") as open_tab:
        tabs = [open_tab(f"{server.url}/?play=camera") for _ in range(2)]
        for tab in tabs:
            tab.size(390, 844)
            said = tab.until(f"(said => new Set(said).size > 1 && said)({SAID})", 120)
            assert set(said) <= set(signer.texts)
            until(lambda: server.service.sessions == 2)
            assert tab.run("document.title") == "De señas a texto"
            assert tab.run("document.documentElement.scrollWidth <= innerWidth")
            assert tab.until("document.getElementById('rate').textContent.length > 1")
            drawn = "document.getElementById('drawn')"
            assert tab.until(f"{drawn}.width > 300 && {drawn}.width")
        tab = tabs[0]
        tab.run("document.getElementById('stop').click()")
        tab.until("!document.getElementById('camera').hidden")
        assert tab.run("document.getElementById('trouble').textContent") == ""
        assert tab.run("document.getElementById('save').disabled") is False
        tab.call("Page.navigate", url="about:blank")
        tabs[1].call("Page.navigate", url="about:blank")
        until(lambda: server.service.sessions == 0)
        assert not [c for tab in tabs for c in tab.complaints]


@pytest.mark.slow
def test_the_page_asks_for_a_token_and_tells_what_is_wrong(tmp_path):
    model = CountingModel(languages=("es_XX", "en_XX"))
    with running(model, token="a long secret") as server, browser(tmp_path) as open_tab:
        tab = open_tab(server.url)
        tab.until("document.getElementById('key') && !document.getElementById('key').hidden")
        enter = "document.getElementById('token').value = {}; document.getElementById('key').requestSubmit()"
        tab.run(enter.format(json.dumps("wrong one")))
        assert tab.until("document.getElementById('trouble').textContent") == "This token is not the right one."
        tab.run(enter.format(json.dumps("a long secret")))
        tab.until("document.getElementById('state').textContent === 'Ready'")
        assert tab.run("document.getElementById('languages').innerText").split() == ["Spanish", "English"]
        tab.run("document.getElementById('camera').click()")
        assert "camera cannot be used" in tab.until("document.getElementById('trouble').textContent")
        docs = open_tab(f"{server.url}/docs")
        assert docs.until("document.querySelectorAll('article').length") == 6
        assert not docs.complaints
