"""What the page computes in the browser alone is what slt_jax computes: its modules in Node against Python's."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from slt_jax.data import landmarks
from slt_jax.data.text import IGNORE, decode, train_tokenizer
from slt_jax.data.token_table import text_of, token_table
from slt_jax.decoding.engine import Tokens
from slt_jax.decoding.policies import LocalAgreement, Word
from slt_jax.decoding.stream import UNSPACED, Stream
from slt_jax.errors import UserError
from slt_jax.media.crops import Square, cut, smoothed
from slt_jax.media.detect import Body
from slt_jax.media.live import LiveExtractor
from slt_jax.media.settings import ExtractionSettings
from slt_jax.streams import IMAGES
from tests.serve.node import NODE, run_js

pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node.js")


def byte_fallback(**options):
    """As SentencePiece with byte fallback: words, letters and bytes."""
    pieces = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁mi",
        "▁casa",
        "▁",
        "ñ",
        ".",
        "▁.",
        "a",
        "▁n't",
    ]
    inner = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 0, byte_fallback=True))
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="</s>", pad_token="</s>", **options
    )


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    texts = ["El niño come ¿qué? 日本語 🙂", "mañana será otro día"]
    return train_tokenizer(texts, tmp_path_factory.mktemp("tokenizer") / "own", vocab_size=300)


@pytest.mark.parametrize("kind", ["byte level", "byte fallback", "tidied"])
def test_tokens_become_the_same_text(kind, byte_level):
    tokenizer = byte_level if kind == "byte level" else byte_fallback(clean_up_tokenization_spaces=kind == "tidied")
    table = json.loads(json.dumps(token_table(tokenizer, "x")))
    rng = np.random.default_rng(1)
    rows = [rng.integers(len(tokenizer), size=12).tolist() for _ in range(200)]
    rows += [tokenizer("El niño 🙂 casa.", add_special_tokens=False)["input_ids"][:n] for n in range(12)]
    expected = decode(tokenizer, np.array([row + [IGNORE] * (12 - len(row)) for row in rows]))
    assert [text_of(table, row) for row in rows] == expected
    said = run_js(
        "return given.rows.map((row) => textOf(given.table, row));", {"table": table, "rows": rows}, "token_text.js"
    )
    assert said == expected
    assert any("\ufffd" in text for text in said)


def test_a_tokenizer_of_another_kind_is_refused():
    inner = Tokenizer(models.WordPiece({"[UNK]": 0, "casa": 1, "##s": 2}, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[UNK]", eos_token="[UNK]")
    with pytest.raises(UserError, match=r"--tokenizer of run: its way from tokens to text"):
        token_table(tokenizer, "of run")


def test_crops_are_those_of_pillow():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3), np.uint8)
    squares = [
        (40.0, 30.0, 24.0, 24),
        (3.2, 5.1, 31.5, 12),
        (70.4, 55.5, 40.5, 64),
        (40, 30, 2.4, 28),
        (200, 200, 20, 16),
    ]
    expected = [cut(image, Square(x, y, side), size).reshape(-1).tolist() for x, y, side, size in squares]
    data = np.concatenate([image, np.full((60, 80, 1), 255, np.uint8)], axis=-1).reshape(-1).tolist()
    script = """const picture = { data: given.data, width: 80, height: 60 };
        return given.squares.map(([x, y, side, size]) => [...cut(picture, square(x, y, side), size)]);"""
    assert run_js(script, {"data": data, "squares": squares}, "crops.js") == expected


def test_boxes_are_smoothed_alike():
    rng = np.random.default_rng(2)
    boxes = [None if n in (4, 9) else Square(*rng.uniform(10, 90, 3).tolist()) for n in range(14)]
    expected = [smoothed(boxes, n, centre=0.8, side=2.0) for n in range(14)]
    given = [box and {"x": box.x, "y": box.y, "side": box.side} for box in boxes]
    found = run_js("return given.map((_, place) => smoothed(given, place, [0.8, 2]));", given, "crops.js")
    for box, other in zip(expected, found, strict=True):
        assert (box is None) == (other is None)
        assert box is None or np.allclose([box.x, box.y, box.side], [other["x"], other["y"], other["side"]])


@pytest.mark.parametrize("policy", [{}, {"n": 3}, {"hold": 1}, {"sure": 0.5}])
def test_words_are_settled_alike(policy):
    rng = np.random.default_rng(3)
    heard = [[(str(rng.integers(2)), float(rng.random())) for _ in range(rng.integers(5))] for _ in range(80)]
    expected = [
        LocalAgreement(**policy).settled([[Word(*word) for word in words] for words in heard[: n + 1]])
        for n in range(80)
    ]
    script = """const words = given.heard.map((words) => words.map(([text, probability]) => ({ text, probability })));
        return words.map((_, number) => new LocalAgreement(given.policy).settled(words.slice(0, number + 1)));"""
    assert run_js(script, {"policy": policy, "heard": heard}, "policies.js") == expected


# --- the stream -----------------------------------------------------------------------------------------------------

POINTS = landmarks.names("upper13")
FPS, LONGEST, CHUNK = 10.0, 30, 4


class CountingEngine:
    """Features are the numbers of the frames; the text of a window says which frames it has, three to a word."""

    fps, chunk, own_generate = FPS, CHUNK, False
    config = SimpleNamespace(sequence_length=LONGEST, pose_landmarks=13, image_size=4, streams=None)
    arrays = ("face", "pose")

    def features(self, chunks):
        return [frames["face"][:, 0, 0, :1].astype(np.float32) for frames in chunks]

    def tokens(self, windows):
        own = [window.features[::3, 0].astype(int).tolist() for window in windows]
        ids = [[*one.settled, *row[len(one.settled) :]] for one, row in zip(windows, own, strict=True)]
        return [Tokens(row, [1.0] * len(row)) for row in ids]

    def text(self, ids):
        return " ".join(f"w{n % 7}" for n in ids)

    def beginnings(self, ids):
        return [self.text(ids[:n]) for n in range(1, len(ids) + 1)]


COUNTING = """
    const model = { facts: given.facts, text: (ids) => ids.map((id) => `w${id % 7}`).join(" ") };
    model.features = async (frames) => frames.map(({ number }) => Float32Array.of(number));
    model.tokens = async (features, settled) => {
      const own = features.filter((_, place) => place % 3 === 0).map(([number]) => number);
      const ids = [...settled, ...own.slice(settled.length)];
      return { ids, probabilities: ids.map(() => 1) };
    };
    const stream = new Stream(model, new LocalAgreement(), { unit: given.unit }), updates = [];
    let number = 0;
    const frame = (pose) => ({ pose, number: number++ });
    for (const poses of given.pushes) updates.push(await stream.push(poses.map(frame)));
    return [...updates, await stream.finish()];
"""


def walk(rng, frames):
    """Poses of a signer who signs, rests, signs longer than a window, and is hidden for a while."""
    poses = np.zeros((frames, len(POINTS), 3), np.float32)
    poses[..., 2] = 0.9
    poses[:, POINTS.index("left_shoulder"), 0], poses[:, POINTS.index("right_shoulder"), 0] = 0.6, 0.4
    moving = np.repeat(rng.random(frames // 5 + 1) < 0.6, 5)[:frames]
    moving[frames // 2 : frames // 2 + 50] = True
    steps = rng.uniform(0.02, 0.1, frames) * moving
    poses[:, POINTS.index("left_wrist"), 0] = np.cumsum(steps)
    poses[frames // 3 : frames // 3 + 12] = 0
    return poses.reshape(frames, -1)


@pytest.mark.parametrize("seed", range(4))
def test_streams_say_the_same(seed):
    rng = np.random.default_rng(seed)
    poses = walk(rng, 240)
    sizes = [60] if seed == 3 else rng.integers(1, (2, 4, 9)[seed], 240).tolist()
    edges = [0, *np.cumsum(sizes)[np.cumsum(sizes) < len(poses)].tolist(), len(poses)]
    stream = Stream(CountingEngine(), LocalAgreement(), space_unit=(100.0, 100.0))
    expected, pushes = [], []
    for first, end in pairwise(edges):
        face = np.zeros((end - first, 4, 4, 3), np.uint8)
        face[:, 0, 0, 0] = np.arange(first, end)
        masks = {"hand_l": face, "hand_r": face}
        expected.append(stream.push({"face": face, "pose": poses[first:end]} | masks))
        pushes.append(poses[first:end].tolist())
    expected.append(stream.finish())
    facts = {"fps": FPS, "sequence_length": LONGEST, "points": POINTS, "chunk": CHUNK, "unspaced": UNSPACED}
    said = run_js(COUNTING, {"facts": facts, "unit": [100, 100], "pushes": pushes}, "stream.js", "policies.js")
    told = [{"settled": update.settled, "pending": update.pending, "time": update.time,
             "ended": [vars(segment) for segment in update.ended]} for update in expected]  # fmt: skip
    assert said == told
    assert sum(len(update["ended"]) for update in told) > 3


# --- the extraction -------------------------------------------------------------------------------------------------

WIDE, HIGH, SIZE = 64, 48, 12
DRAWN = "(x, y, colour, number) => (x === 0 && y === 0 ? number : 3 * x + 5 * y + 7 * number + 11 * colour) % 256"


def drawn(number):
    """A picture whose first pixel is its number."""
    y, x, colour = np.mgrid[:HIGH, :WIDE, :3]
    picture = (3 * x + 5 * y + 7 * number + 11 * colour) % 256
    picture[0, 0] = number
    return picture.astype(np.uint8)


class Scripted:
    """A detector that finds what the script has for the picture's number; hands, in any square of one size."""

    def __init__(self, script):
        self._script = script

    def faces(self, image):
        return []

    def body(self, image, _=None):  # all parts, whichever are wanted, as in the browser
        found = self._script[image[0, 0, 0]]
        if found is None:
            return None
        parts = [
            None if found[part] is None else np.array(found[part], np.float32) for part in ("face", "hand_l", "hand_r")
        ]
        return Body(np.array(found["pose"], np.float32), *parts)

    def hands(self, image):
        return [np.array([[0.4, 0.5], [0.6, 0.8]], np.float32) * len(image)] if len(image) >= 60 else []

    def reset(self):
        pass

    def close(self):
        pass


REPLAYED = """
    const drawn = (DRAWN), detector = {
      body: ({ data: [number] }) => given.script[number],
      hands: (_, size) => (size >= 60 ? [[[0.4 * size, 0.5 * size], [0.6 * size, 0.8 * size]]] : []),
      reset() {},
    };
    const extractor = new LiveExtractor(given.facts, detector), frames = [];
    given.times.forEach((time, number) => {
      const data = new Uint8ClampedArray(4 * given.wide * given.high).fill(255);
      for (let place = 0; place < data.length; place += 1) {
        const [colour, pixel] = [place % 4, Math.floor(place / 4)];
        const [x, y] = [pixel % given.wide, Math.floor(pixel / given.wide)];
        if (colour < 3) data[place] = drawn(x, y, colour, number);
      }
      frames.push(...extractor.frame({ data, width: given.wide, height: given.high }, time));
    });
    frames.push(...extractor.flush());
    const lists = (images) => Object.fromEntries(Object.entries(images).map(([name, image]) => [name, [...image]]));
    return frames.map(({ images, pose, ...rest }) => ({ ...rest, pose: [...pose], images: lists(images) }));
""".replace("DRAWN", DRAWN)


def scripted(rng, count):
    """A signer who moves, jumps away once, and whose hands and face are not always found."""
    script, at = [], np.zeros(2)
    base = rng.uniform((20, 10), (44, 38), (33, 2))
    base[11], base[12], base[15], base[16] = (42, 24), (22, 24), (46, 34), (18, 34)
    for number in range(count):
        at = at + rng.normal(0, 0.6, 2)
        places = base + at + rng.normal(0, 0.5, (33, 2)) + (25 if number == 17 else 0)
        pose = np.concatenate([places, rng.uniform(0.3, 1, (33, 1))], axis=1)
        hand = {side: (places[wrist] + rng.normal(0, 4, (5, 2)) * np.arange(5)[:, None]).tolist()
                for side, wrist in (("hand_l", 15), ("hand_r", 16))}  # fmt: skip
        found = {"pose": pose.tolist(), "face": (places[0] + rng.normal(0, 3, (6, 2))).tolist()} | hand
        for part, share in (("face", 0.3), ("hand_l", 0.5), ("hand_r", 0.5)):
            found[part] = None if rng.random() < share else found[part]
        script.append(None if number in (5, 6, 7, 30) else found)
    return script


@pytest.mark.parametrize("space", ["signing", "raw"])
def test_frames_are_those_of_the_live_extraction(space):
    rng = np.random.default_rng(4)
    count = 44
    times = np.cumsum(rng.choice([0.02, 0.1, 0.1, 0.35], count))
    times[36:] += 2.5
    script = scripted(rng, count)
    settings = ExtractionSettings(fps=FPS, pose=space, crop_size=24)
    with LiveExtractor(settings, image_size=SIZE, make_detector=lambda: Scripted(script)) as extractor:
        expected = [frame for n, time in enumerate(times) for frame in extractor.frame(drawn(n), float(time))]
        expected += extractor.flush()
    images = {stream.name: {"mask": stream.mask, "smoothing": stream.crop.smoothing} for stream in IMAGES}
    facts = {"fps": FPS, "pose": space, "crop_size": 24, "image_size": SIZE, "min_confidence": settings.min_confidence,
             "landmarks": landmarks.SETS["upper13"], "images": images}  # fmt: skip
    given = {"facts": facts, "script": script, "times": times.tolist(), "wide": WIDE, "high": HIGH}
    found = run_js(REPLAYED, given, "extract.js")
    assert len(found) == len(expected) > count
    same = total = 0
    for frame, other in zip(expected, found, strict=True):
        assert np.isclose(frame.time, other["time"])
        assert frame.begins == other["begins"]
        np.testing.assert_allclose(other["pose"], frame.arrays["pose"][0], atol=1e-4)
        np.testing.assert_allclose(other["unit"], frame.space_unit, rtol=1e-5)
        boxes = {name: box for name, box in frame.boxes.items() if box is not None}
        assert boxes.keys() == other["boxes"].keys()
        for name, box in boxes.items():
            np.testing.assert_allclose(other["boxes"][name], box, atol=1e-3)
        for stream in IMAGES:
            assert not stream.mask or frame.arrays[stream.mask][0] == other["missing"][stream.name]
            same += other["images"][stream.name] == frame.arrays[stream.name][0].reshape(-1).tolist()
            total += 1
    assert same == total
