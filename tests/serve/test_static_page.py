"""The folder of `slt-serve --static`: in Chromium, crops become the text that onnxruntime makes of them in Python."""

import json
import re
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import simplejpeg

from slt_jax.cli.serve import main
from slt_jax.data.clip_files import scan
from slt_jax.data.clips import read_clip
from slt_jax.data.corpus_folder import folders_under
from slt_jax.data.text import decode, load_tokenizer
from slt_jax.export.verify import open_session, run_session
from slt_jax.media.video import pictures
from slt_jax.serve import static_page
from slt_jax.streams import IMAGES, MASKED
from tests.export.test_translate import BART, corpus, loud_model, tool  # noqa: F401  (fixtures)
from tests.serve.chromium import CHROMIUM, browser
from tests.serve.node import NPM

SIGNER = Path(__file__).resolve().parents[3] / "shared" / "real_clips" / "videos" / "slp_asl_house.mp4"
PUSHED = """(async () => {
    const { Translator } = await import(new URL("translator.js", location.href));
    const translator = new Translator(), frames = await (await fetch("frames.json")).json();
    await translator.open();
    await translator.begin("");
    const given = frames.map(({ images, pose, ...rest }) => ({
      ...rest, pose: Float32Array.from(pose),
      images: Object.fromEntries(Object.entries(images).map(([name, pixels]) => [name, Uint8Array.from(pixels)])),
    }));
    const update = await translator.push(given);
    return [...update.ended, ...(await translator.finish()).ended].map(({ text }) => text);
})()"""


@contextmanager
def served(folder):
    """The address of a plain web server for a folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def frames_of(clip):
    """The real frames of a clip, as the page's worker takes them."""
    count = int(clip["pad_mask"].sum())
    return [{
        "begins": n == 0, "unit": [1, 1], "pose": clip["pose"][n].tolist(),
        "images": {stream.name: clip[stream.name][n].reshape(-1).tolist() for stream in IMAGES},
        "missing": {stream.name: bool(clip[stream.mask][n]) for stream in MASKED},
    } for n in range(count)]  # fmt: skip


class Halves:
    """The encoder's halves as one session of onnxruntime."""

    def __init__(self, folder):
        self._parts = [open_session(folder / f"{half}.onnx") for half in ("frames", "context")]

    def get_inputs(self):
        return [one for part in self._parts for one in part.get_inputs() if one.name != "features"]

    def get_outputs(self):
        return self._parts[1].get_outputs()

    def run(self, _, inputs):
        features = run_session(self._parts[0], inputs)
        return [run_session(self._parts[1], inputs | features)["encoded"]]


def onnx_tokens(tool, folder, batch):  # noqa: F811
    """Token ids by tools/translate_onnx.py from the folder's graphs."""
    facts = json.loads((folder / "page.json").read_text(encoding="utf-8"))
    one = object.__new__(tool.OnnxTranslator)
    start = {"decoder_start_token_id": facts["starts"][""]["first"], "pad_token_id": 0, "forced_bos_token_id": None}
    one.facts = {"generation": facts["generation"] | start}
    one.encoder = Halves(folder / "model")
    one.first, one.step = (open_session(folder / "model" / f"decoder_{part}.onnx") for part in ("first", "step"))
    return one.tokens(batch)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or NPM is None, reason="needs Chromium and npm")
def test_crops_become_onnxruntimes_text_in_the_browser(corpus, tmp_path, tool, capsys):  # noqa: F811
    loud_model(tmp_path, decoder_kwargs=BART)
    folder = tmp_path / "page"
    tokenizer = str(corpus / "tokenizer")
    command = ["--static", str(folder), "--checkpoint", str(tmp_path / "model.pt"), "--tokenizer", tokenizer]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert f"{folder / 'model' / 'frames.onnx'}: written" in told
    assert ".partial" not in told
    whole = b"".join(file.read_bytes() for file in folder.glob("*") if file.is_file())
    assert str(tmp_path).encode() not in whole, "paths of this machine are nobody's business"
    camera = tmp_path / "signer.mjpeg"
    write_camera(camera)
    flags = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
             f"--use-file-for-fake-video-capture={camera}")  # fmt: skip
    with served(folder) as address, browser(tmp_path / "chromium", *flags) as open_tab:
        for video_id in ("train_000000", "train_000001"):
            files = scan(folders_under(corpus), [video_id])[video_id]
            clip = read_clip(files, sequence_length=5, image_size=28, num_landmarks=13)
            (folder / "frames.json").write_text(json.dumps(frames_of(clip)))
            batch = tool.OnnxTranslator.read(reader(tool, clip), folders_under(corpus), video_id)
            expected = decode(load_tokenizer(tokenizer), onnx_tokens(tool, folder, batch))
            tab = open_tab(address)
            tab.until("document.getElementById('state')?.textContent === 'Ready'", 240)
            assert tab.run(PUSHED) == expected
            assert expected[0]
            assert not tab.run("document.querySelector('footer a')")
            assert "leave this device" in tab.run("document.querySelector('footer').innerText")
            assert not tab.complaints
        if camera.stat().st_size:
            watch_the_signer(tab)
        (folder / "mediapipe" / "hand_landmarker.task").unlink()
        tab = open_tab(address)
        said = tab.until("document.getElementById('trouble')?.textContent", 240)
        assert said == "MediaPipe's models are missing in this folder: mediapipe/hand_landmarker.task"


def write_camera(path):
    """A real signer as a file that Chromium takes for a camera; empty where the clip is not at hand."""
    shown = pictures(SIGNER, 25.0) if SIGNER.is_file() else ()
    path.write_bytes(b"".join(simplejpeg.encode_jpeg(one.image, quality=90, colorsubsampling="420") for one in shown))


def watch_the_signer(tab):
    """The camera of the page shows the signer, with crops, and text comes."""
    tab.run("document.getElementById('camera').click()")
    tab.until("document.getElementById('rate').textContent.length > 1", 240)
    assert tab.until("document.getElementById('drawn').width > 200", 120)
    text = "document.getElementById('paper').innerText"
    assert tab.until(f"({text}).trim() && !({text}).includes('What is signed appears here') && ({text}).trim()", 240)
    tab.run("document.getElementById('stop').click()")
    tab.until("!document.getElementById('camera').hidden", 240)
    assert tab.run("document.getElementById('trouble').textContent") == ""
    assert not tab.complaints


def reader(tool, clip):  # noqa: F811
    """What `OnnxTranslator.read` needs of a translator."""
    one = object.__new__(tool.OnnxTranslator)
    normal = {"normalization": {"mean": list(static_page.IMAGE_MEAN), "std": list(static_page.IMAGE_STD)}}
    one.facts = {"model": {"sequence_length": len(clip["pad_mask"]), "image_size": 28, "pose_landmarks": 13},
                 "inputs": {stream.name: normal for stream in IMAGES}, "v9_hand_masks": False}  # fmt: skip
    return one


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-beams", "4"], "--num-beams: the page of --static, which runs in the browser alone"),
        (["--token", "a long secret"], "--token: "),
        (["--face-blur"], "--face-blur: "),
        (["--max-sessions", "3"], "--max-sessions: "),
        (["--static", "taken"], "--static taken: is no page that slt-serve wrote"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    assert main(["--static", "page", "--checkpoint", "nowhere.pt", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "mine"


def test_npm_is_asked_for_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--static", str(tmp_path / "page"), "--checkpoint", "nowhere.pt"]) == 2
    assert "--static: needs npm" in capsys.readouterr().err


def test_the_page_is_the_services_but_for_where_pictures_go():
    parts = static_page.parts()
    page = parts["index.html"].decode()
    assert "connect-src 'self'" in page
    assert "go to this service" not in page
    imported = re.findall(r'from "\./([a-z_]+\.js)"', parts["page.js"].decode())
    assert imported
    assert parts.keys() >= {*imported}
