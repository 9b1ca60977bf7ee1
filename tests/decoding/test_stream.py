"""A stream says in the end what the whole clip would have said, takes nothing back, and stays as small as it was."""

from types import SimpleNamespace

import numpy as np
import pytest

from slt_jax.data.landmarks import names
from slt_jax.data.text import decode
from slt_jax.data.windows import STILL, at_pauses, hand_motion
from slt_jax.decoding import engine as programs
from slt_jax.decoding.engine import Engine
from slt_jax.decoding.policies import FixedWindow, LocalAgreement, WaitK
from slt_jax.decoding.search import Search
from slt_jax.decoding.stream import Stream, push_many
from slt_jax.errors import UserError
from tests.decoding.live import FPS, LENGTH, load, part, signing


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return load(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def tokenizer(translator):
    return translator.stream().engine.tokenizer


def offline(translator, tokenizer, frames, **search) -> str:
    tokens = translator.generate({name: array[None] for name, array in frames.items()}, max_length=8, **search)
    return decode(tokenizer, tokens)[0]


def texts(*updates) -> list[str]:
    return [segment.text for update in updates for segment in update.ended]


def windows(frames, longest: int = LENGTH) -> list[tuple[int, int]]:
    archive = {"landmarks": np.array(names("upper13")), "pose": frames["pose"], "space_unit": np.ones(2), "fps": FPS}
    motion = hand_motion(archive)
    return [(first, end) for first, end in at_pauses(motion, FPS, longest) if motion[first:end].max() > STILL]


@pytest.mark.parametrize(
    ("policy", "beams"), [(LocalAgreement(), 1), (LocalAgreement(), 3), (WaitK(1), 3), (FixedWindow(60.0), 1)]
)
def test_a_clip_at_once_gives_its_text(translator, tokenizer, policy, beams):
    """Also with a rest at its end, with nobody moving, with less than a chunk, and without masks."""
    said = set()
    for seed, frames in enumerate((LENGTH, 7, 2)):
        clip = signing(frames, seed=seed, rests=(range(frames - 3, frames),))
        bare = {name: clip[name] for name in ("face", "hand_l", "hand_r", "pose")}
        for arrays in (clip, bare, signing(frames, rests=(range(frames),))):
            stream = translator.stream(policy=policy, fps=FPS, num_beams=beams, pause=0.2)
            wanted = offline(translator, tokenizer, arrays, num_beams=beams)
            assert texts(stream.push(arrays), stream.finish()) == [wanted]
            said.add(wanted)
    assert len(said) > 3


def test_a_long_clip_at_once_is_cut_where_slt_translate_cuts_it(translator, tokenizer):
    frames = signing(50, rests=(range(8, 10), range(18, 24), range(30, 45)))
    stream = translator.stream(fps=FPS)
    updates = stream.push(frames), stream.finish()
    cuts = windows(frames)
    assert len(cuts) > 3
    assert [(s.start, s.end) for u in updates for s in u.ended] == [(first / FPS, end / FPS) for first, end in cuts]
    wanted = [offline(translator, tokenizer, part(frames, first, end)) for first, end in cuts]
    assert texts(*updates) == wanted


def test_sentences_end_at_pauses(translator, tokenizer):
    """Frame by frame. The rest before a sentence is left out but for a little, which no backbone sees before."""
    frames = signing(40, rests=(range(10), range(16, 24), range(30, 40)))
    stream = translator.stream(policy=LocalAgreement(9), fps=FPS, pause=0.4)
    updates = [stream.push(part(frames, n, n + 1)) for n in range(40)]
    ended = [segment for update in [*updates, stream.finish()] for segment in update.ended]
    assert len(ended) == 2
    for segment, (first, end) in zip(ended, ((10, 16), (24, 30)), strict=True):
        assert first / FPS - 0.5 <= segment.start <= first / FPS
        assert end / FPS <= segment.end <= end / FPS + 0.6
        span = part(frames, round(segment.start * FPS), round(segment.end * FPS))
        assert segment.text == offline(translator, tokenizer, span)
    assert updates[-1].time == 4.0


def test_a_sentence_that_fills_the_window_is_not_cut_by_the_rest_after_it(translator, tokenizer):
    frames = signing(40, rests=(range(10), range(10 + LENGTH - 3, 40)))
    stream = translator.stream(policy=LocalAgreement(9), fps=FPS, pause=1.0)
    ended = [segment for n in range(40) for segment in stream.push(part(frames, n, n + 1)).ended]
    (segment,) = [*ended, *stream.finish().ended]
    span = part(frames, round(segment.start * FPS), round(segment.end * FPS))
    assert segment.start <= 1.0
    assert segment.end >= 1.0 + (LENGTH - 3) / FPS
    assert segment.text == offline(translator, tokenizer, span)


@pytest.mark.parametrize(("policy", "beams"), [(LocalAgreement(), 1), (WaitK(1), 3)])
def test_what_is_settled_is_never_taken_back(translator, policy, beams):
    frames = signing(36, rests=(range(10, 18), range(28, 34)))
    stream = translator.stream(policy=policy, fps=FPS, chunk=1, num_beams=beams, pause=0.4)
    before, grown, ended = "", 0, 0
    for update in [*(stream.push(part(frames, n, n + 1)) for n in range(36)), stream.finish()]:
        for segment in update.ended:
            assert segment.text.startswith(before)
            before, ended = "", ended + 1
        assert update.settled.startswith(before)
        grown += len(update.settled) > len(before)
        before = update.settled
    assert ended >= 2
    assert grown


def test_streams_that_share_batches_say_what_they_say_alone(translator, tokenizer):
    clips = [signing(20, seed=seed) for seed in range(3)]
    engine = Engine(translator, tokenizer, fps=FPS, search=Search(max_length=8), batch_sizes=(1, 2), chunk=3)

    def updates(streams, together: bool):
        for n in range(0, 20, 4):
            pushes = [(stream, part(clip, n, n + 4)) for stream, clip in zip(streams, clips, strict=True)]
            said = push_many(engine, pushes) if together else [stream.push(frames) for stream, frames in pushes]
            yield [(update.settled, update.pending, update.ended) for update in said]

    assert list(updates([Stream(engine) for _ in clips], True)) == list(updates([Stream(engine) for _ in clips], False))
    with pytest.raises(ValueError, match="twice"):
        push_many(engine, [(stream := Stream(engine), part(clips[0], 0, 1)), (stream, part(clips[0], 1, 2))])


def test_every_program_is_compiled_once_and_before_the_first_frame(translator, tokenizer):
    functions = programs._frames, programs._encode, programs._texts
    search = Search(max_length=7, num_beams=2)
    engine = Engine(translator, tokenizer, fps=FPS, search=search, batch_sizes=(1, 4), chunk=5)
    before = [function._cache_size() for function in functions]
    engine.compile()
    compiled = [function._cache_size() for function in functions]
    # The encoder's may be there from an engine of the same shapes: it depends on neither search nor chunk.
    assert [b - a for a, b in zip(before, compiled, strict=True)][::2] == [2, 2]
    streams = [Stream(engine) for _ in range(3)]
    frames = signing(40, rests=(range(15, 25),))
    for n in (*range(10), 10, 17, 33):
        push_many(engine, [(stream, part(frames, n, n + 1 if n < 10 else n + 7)) for stream in streams])
    streams[0].finish()
    assert [function._cache_size() for function in functions] == compiled


def test_a_stream_stays_small(translator):
    """Of a long stream no more is kept than of a short one, whether anybody signs or not."""
    stream = translator.stream(fps=FPS, policy=LocalAgreement(99))
    frames = signing(30, rests=(range(10, 30),))
    moving = part(frames, 0, 5)
    for n in range(60):
        stream.push(moving if n < 40 else part(frames, 15, 20))
        held = sum(len(raw["face"]) for raw in stream._raw)
        assert len(stream._features) + held == len(stream._steps) <= LENGTH + 5
        assert len(stream._text.hypotheses) <= LENGTH
    assert stream.time == 30.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": np.zeros(1)}, "no array 'faces'; did you mean 'face'"),
        ({"hand_l": None}, "'hand_l' is not given"),
        ({"face": np.zeros((2, 30, 28, 3), np.uint8)}, r"'face' is uint8 \(2, 30, 28, 3\).*\(2, 28, 28, 3\)"),
        ({"face": np.zeros((2, 28, 28, 3), np.int64)}, "'face' is int64"),
        ({"face": np.zeros((0, 28, 28, 3), np.uint8)}, "'face' has the shape"),
        ({"pose": np.zeros((2, 42), np.float32)}, r"'pose' is float32 \(2, 42\).*\(2, 39\)"),
        ({"pose": np.zeros((3, 39), np.float32)}, r"'pose' is float32 \(3, 39\)"),
        ({"pose": np.full((2, 39), "x")}, "'pose' is <U1"),
        ({"miss_mask_hl": np.zeros((2, 3), bool)}, "'miss_mask_hl' is bool"),
        ({"pad_mask": np.ones(2, bool)}, "no array 'pad_mask'"),
        ({"face": np.zeros((2, 3, 28, 28), np.float32)}, "'face' is float32 and was uint8 before"),
    ],
)
def test_frames_that_do_not_fit_are_named_and_change_nothing(translator, change, message):
    stream = translator.stream(fps=FPS)
    frames = signing(4)
    stream.push(part(frames, 0, 2))
    wrong = {name: array for name, array in (part(frames, 2, 4) | change).items() if array is not None}
    with pytest.raises(UserError, match=message) as raised:
        stream.push(wrong)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="no mapping"):
        stream.push(None)
    assert stream.time == 0.2
    assert stream.push(part(frames, 2, 4)).time == 0.4


def test_a_pose_with_gaps_is_read_as_the_loader_reads_it(translator):
    clean, gaps = signing(8), signing(8)
    gaps["pose"] = gaps["pose"].copy()
    gaps["pose"][3, 6:9] = np.nan
    clean["pose_conf_mask"] = gaps["pose_conf_mask"].copy()
    clean["pose_conf_mask"][3, 2] = False
    said = []
    for frames in (clean, gaps):
        stream = translator.stream(fps=FPS)
        said.append(texts(stream.push(frames), stream.finish()))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0.0}, "fps 0"), ({"fps": float("nan")}, "fps nan"), ({"chunk": 0}, "chunk 0"),
        ({"pause": 0.0}, "pause 0"), ({"tokenizer": "/no/such"}, "/no/such"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_one_line(translator, settings, message):
    with pytest.raises(UserError, match=message):
        translator.stream(**settings)


def test_a_decoder_with_a_search_of_its_own_settles_at_windows_ends_only():
    engine = SimpleNamespace(own_generate=True, fps=FPS)
    with pytest.raises(UserError, match=r"LocalAgreement: this decoder has a generate of its own.*FixedWindow"):
        Stream(engine)
