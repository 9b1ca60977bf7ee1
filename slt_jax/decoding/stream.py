"""Translation while somebody signs: frames come in, text comes out, with what is settled and what may still change.

Backbones see each frame once, and its features are kept. The temporal encoder and the decoder run again over the frames
of the running sentence, after every `chunk` of them. A sentence ends where the hands rest, or where `at_pauses` would
cut it. Its settled words are the beginning of every later hypothesis about it. So memory is that of one window, and
the cost of a frame does not depend on how long the stream has run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slt_jax.data.landmarks import BY_NUMBER, WITH_HANDS, names
from slt_jax.data.windows import STILL, pause_in, shoulder_widths, smoothed, usual_width, wrist_steps
from slt_jax.decoding.engine import Engine, LiveFrames, Tokens, Window
from slt_jax.decoding.live_frames import checked_frames
from slt_jax.decoding.policies import LocalAgreement, Policy, Word, Words
from slt_jax.decoding.results import Segment
from slt_jax.decoding.scores import HAN, KANA, THAI_TO_KHMER
from slt_jax.errors import UserError
from slt_jax.streams import POSE

PAUSE = 0.5  # seconds that the hands rest at the end of a sentence
LEAD = 0.2  # seconds of rest that are kept before a sentence
TRAIL = 0.25  # seconds that a sentence may be longer than the model takes: while hands go down, they say nothing
SURE = 0.8  # the probability from which on words are settled, where no policy says otherwise
REMEMBERED = 1500  # frames of which the width of the shoulders is known
# Words: what stands between spaces, and each letter of a script that has none.
UNSPACED = "".join(pattern.pattern[1:-1] for pattern in (HAN, KANA, THAI_TO_KHMER))
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


@dataclass(frozen=True)
class Update:
    """The text after some frames. `settled` and `pending` are about the sentence that is still being signed.

    `settled` is never taken back: the next ones, and at last the sentence in `ended`, begin with it. `time` is where
    the stream is, in seconds.
    """

    settled: str
    pending: str
    ended: tuple[Segment, ...]
    time: float


class Stream:
    """What is known of one signer. Use it from one thread at a time."""

    def __init__(
        self,
        engine: Engine,
        policy: Policy | None = None,
        *,
        pause: float = PAUSE,
        space_unit: tuple[float, float] = (1.0, 1.0),
    ):
        """Sentences end where the hands rest for `pause` seconds. `space_unit` are the pixels of a unit of x and of y.

        Raises UserError for settings out of range, and for a policy that the model's decoder cannot follow.
        """
        self.engine, self.policy = engine, policy or LocalAgreement(sure=SURE)
        if not 0 < pause < float("inf"):
            raise UserError(f"pause {pause:g}: must be above 0 seconds")
        if self.policy.window is None and engine.own_generate:
            raise UserError(
                f"{type(self.policy).__name__}: this decoder has a generate of its own, which cannot go on from "
                f"settled words; use FixedWindow"
            )
        self._pause = max(round(pause * engine.fps), 1)
        self._lead = round(LEAD * engine.fps)
        self._longest = engine.config.sequence_length
        if self.policy.window is not None:
            self._longest = min(max(round(self.policy.window * engine.fps), 1), self._longest)
        self._body = _Body(engine.config.pose_landmarks, space_unit)
        self._frames = 0  # that have come since the beginning
        self._first = 0  # the number of the first of the running sentence's
        self._raw: list[LiveFrames] = []  # those of it that no backbone has seen yet, after those of `_features`
        self._features = np.zeros((0, 0), np.float32)
        self._steps = np.zeros(0)
        self._text = _Text(engine)
        self._alone = True  # no sentence has ended yet, nothing was left out

    def check(self, frames: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The arrays of `frames` as `push` takes them. Raises UserError, one line, for what it cannot take."""
        read = checked_frames(frames, self.engine.config)
        if self._raw and (changed := [name for name, array in self._raw[0].items() if read[name].dtype != array.dtype]):
            before, now = self._raw[0][changed[0]].dtype, read[changed[0]].dtype
            raise UserError(f"frames: '{changed[0]}' is {now} and was {before} before; give one type of pictures")
        return read

    def push(self, frames: Mapping[str, Any]) -> Update:
        """Take the next frames (n, ...), n of 1 or more, and tell what is known by now.

        Names, shapes and types are those of a batch for `Translator.generate`, without its first axis. Raises
        UserError for frames that the model cannot read; the stream is then as before.
        """
        return push_many(self.engine, [(self, frames)])[0]

    def finish(self) -> Update:
        """End the running sentence. What is pushed later begins another."""
        return _work(self.engine, [(self, self._plan(ends=True))])[0]

    @property
    def time(self) -> float:
        """Seconds of the stream so far."""
        return self._frames / self.engine.fps

    # --- frames in ------------------------------------------------------------------------------------------------

    def _take(self, frames: dict[str, np.ndarray]) -> "_Plan":
        """Add checked frames, and say what is to be computed."""
        count = _count(frames)
        fresh = not len(self._steps)
        if self.policy.window is None and not self._text.hypotheses and not self._signs():
            self._drop(len(self._steps) - self._lead)
        self._steps = np.concatenate([self._steps, self._body.steps(frames.get(POSE.name), count)])
        self._frames += count
        self._raw.append({name: frames[name] for name in self.engine.arrays})
        over = len(self._steps) - self._longest
        if over > 0 and not fresh and self.policy.window is None:  # signs are cut only when no rest is left
            moved = self._motion() > STILL
            self._drop(min(over, int(moved.argmax())) if moved.any() else 0)
        return self._plan(fresh=fresh, large=count >= self.engine.chunk)

    def _plan(self, *, ends: bool = False, fresh: bool = False, large: bool = False) -> "_Plan":
        """Where sentences end in the frames that there are, and which frames are to be looked at.

        A sentence does not end at a pause within frames that came all at once: these are taken for one clip.
        """
        cuts, first, total = [], 0, len(self._steps)
        even = self.policy.window is not None
        live = not (ends or even or fresh)
        while self._room_taken(first, live) > self._longest or (even and not fresh and total - first == self._longest):
            calm = smoothed(self._motion(first), self.engine.fps)
            end = self._longest if even else pause_in(calm, self._longest)
            first += end if even or fresh or ends else _last_sign(calm[:end])
            cuts.append(first)
        if total > first and ends:
            cuts.append(total)
        elif live and not cuts and self._rests():
            cuts.append(self._last_sign())
        return _Plan(cuts, self._next_chunks(whole=bool(cuts) or large) if cuts or self._signs() else [], fresh)

    def _room_taken(self, first: int, live: bool) -> int:
        """The frames from `first` on that a window has to hold; while somebody signs, without the rest at their end."""
        motion, fps = self._motion(first), self.engine.fps
        return _last_sign(smoothed(motion, fps)) - round(TRAIL * fps) if live and len(motion) else len(motion)

    def _next_chunks(self, *, whole: bool) -> list[LiveFrames]:
        """Take the frames that no backbone has seen yet, in chunks; what does not fill one only if `whole`."""
        size, waiting = self.engine.chunk, sum(_count(frames) for frames in self._raw)
        if not waiting or (waiting < size and not whole):
            return []
        joined = {name: np.concatenate([frames[name] for frames in self._raw]) for name in self._raw[0]}
        used = waiting if whole else waiting - waiting % size
        self._raw = [_part(joined, used, waiting)] if used < waiting else []
        return [_part(joined, first, min(first + size, used)) for first in range(0, used, size)]

    def _drop(self, count: int) -> None:
        """Forget the first frames of the running sentence."""
        if count <= 0:
            return
        self._text.forget()
        known = min(count, len(self._features))
        self._features, self._steps = self._features[known:], self._steps[count:]
        self._first += count
        if rest := count - known:
            joined = {name: np.concatenate([frames[name] for frames in self._raw]) for name in self._raw[0]}
            left = _part(joined, rest, None)
            self._raw = [left] if _count(left) else []
        self._alone = False

    # --- the hands ------------------------------------------------------------------------------------------------

    def _motion(self, first: int = 0) -> np.ndarray:
        return self._steps[first:] * (self.engine.fps / self._body.width)

    def _signs(self) -> bool:
        """Whether anything has been signed since the last sentence; a landmark that jumps for a frame says nothing."""
        return len(self._steps) > 0 and bool((smoothed(self._motion(), self.engine.fps) > STILL).any())

    def _last_sign(self) -> int:
        """The frames of the running sentence up to where the hands came to rest at its end."""
        return _last_sign(smoothed(self._motion(), self.engine.fps)) if len(self._steps) else 0

    def _rests(self) -> bool:
        """Whether the running sentence is over: the hands have moved, and have come to rest."""
        calm = smoothed(self._motion(), self.engine.fps)
        return len(calm) > self._pause and bool((calm > STILL).any() and (calm[-self._pause :] < STILL).all())

    # --- text out -------------------------------------------------------------------------------------------------

    def _jobs(self, plan: "_Plan", seen: Sequence[np.ndarray]) -> list["_Job"]:
        """What is to be translated, now that the features of the plan's frames are `seen`."""
        if seen:
            known = [self._features] if len(self._features) else []
            self._features = np.concatenate([*known, *seen])
        jobs, first, motion = [], 0, self._motion()
        for end in plan.cuts:
            alone = self._alone and not first and end == plan.cuts[-1]
            if alone or (motion[first:end] > STILL).any():  # else nobody signs anything there
                times = self._seconds(first), self._seconds(end)
                jobs.append(_Job(self._features[first:end], times, new=bool(first)))
            first = end
        if plan.cuts:
            self._alone = False
            self._features, self._steps = self._features[first:], self._steps[first:]
            self._first += first
        shown = self._features[: self._longest if plan.clip else min(self._last_sign(), self._longest)]
        if len(shown) and self._signs() and (plan.cuts or self._text.known(len(shown)) is None):
            jobs.append(_Job(shown, None, new=bool(plan.cuts)))
        return jobs

    def _seconds(self, place: int) -> float:
        """The time of a frame of the running sentence."""
        return round((self._first + place) / self.engine.fps, 3)

    def _update(self, plan: "_Plan", jobs: Sequence["_Job"], said: Sequence[Tokens]) -> Update:
        ended = []
        for job, tokens in zip(jobs, said, strict=True):
            if job.new:
                self._text = _Text(self.engine)
            if job.times is None:
                self._text.hear(tokens, len(job.features), self.policy)
            else:
                ended.append(Segment(*job.times, self._text.whole(tokens.ids)))
        if plan.cuts and not (jobs and jobs[-1].times is None):
            self._text = _Text(self.engine)
        return Update(self._text.settled, self._text.pending, tuple(ended), round(self.time, 3))


@dataclass(frozen=True)
class _Plan:
    """Where sentences end, counted from the running one's first frame, and the frames that are to be looked at.

    A `clip` came all at once.
    """

    cuts: list[int]
    chunks: list[LiveFrames]
    clip: bool


@dataclass(frozen=True)
class _Job:
    """Frames to translate: those of a sentence that ended, with its times, or of the running one.

    `new` are sentences of which nothing has been said yet.
    """

    features: np.ndarray
    times: tuple[float, float] | None
    new: bool


class _Text:
    """The text of one sentence while it grows."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.hypotheses: list[Words] = []
        self.tokens: tuple[int, ...] = ()  # of the settled words
        self.settled = self.pending = ""
        self._last: tuple[int, Tokens] | None = None  # frames and tokens of the last hypothesis

    def hear(self, tokens: Tokens, frames: int, policy: Policy) -> None:
        """A hypothesis about the first `frames` of the sentence, which begins with what is settled."""
        text = self.whole(tokens.ids)
        spans = [match.span() for match in WORD.finditer(text)]
        ends = self._ends(tokens.ids, [text[slice(*span)] for span in spans])
        self.hypotheses.append([
            Word(text[slice(*span)], min(tokens.probabilities[first:end], default=1.0))
            for span, first, end in zip(spans, [0, *ends], ends, strict=False)
        ])  # fmt: skip
        self._last = frames, tokens
        count = policy.settled(self.hypotheses)
        if count and spans[count - 1][1] > len(self.settled):
            self.settled, self.tokens = text[: spans[count - 1][1]], tuple(tokens.ids[: ends[count - 1]])
        self.pending = text[len(self.settled) :].strip()

    def whole(self, tokens: list[int]) -> str:
        """The text of tokens, which begins with what is settled, whatever the tokenizer makes of them together."""
        text = self._engine.text(tokens)
        if text.startswith(self.settled):
            return text
        rest = WORD.findall(text)[len(WORD.findall(self.settled)) :]
        return " ".join([self.settled, *rest])

    def known(self, frames: int) -> Tokens | None:
        """The tokens of the last hypothesis, if it was about just so many frames."""
        return self._last[1] if self._last and self._last[0] == frames else None

    def forget(self) -> None:
        """The next hypothesis is about other frames than the last."""
        self._last = None

    def _ends(self, tokens: list[int], words: list[str]) -> list[int]:
        """The fewest tokens that say the first word, the first two, and so on."""
        ends: list[int] = []
        for count, text in enumerate(self._engine.beginnings(tokens), 1):
            said = WORD.findall(text)
            while len(ends) < len(words) and said[: len(ends) + 1] == words[: len(ends) + 1]:
                ends.append(count)
        return [*ends, *[len(tokens)] * (len(words) - len(ends))]


class _Body:
    """How far the wrists move, from one push to the next."""

    def __init__(self, landmarks: int, unit: tuple[float, float]):
        known = {len(names(WITH_HANDS)): WITH_HANDS} | {int(number): name for number, name in BY_NUMBER.items()}
        self._points = names(known[landmarks]) if landmarks in known else None
        self._unit = np.array(unit, np.float32)
        self._last = np.zeros((0, landmarks, 3), np.float32)
        self._widths = np.zeros(0)
        self.width = 1.0

    def steps(self, pose: np.ndarray | None, count: int) -> np.ndarray:
        """The wrists' steps to each of `count` frames; endless where no pose tells of them."""
        if pose is None or self._points is None:
            return np.full(count, np.inf)
        points = pose.reshape(count, -1, 3)
        joined = np.concatenate([self._last, points])
        self._last = points[-1:].copy()
        self._widths = np.concatenate([self._widths, shoulder_widths(points, self._points, self._unit)])
        self.width = usual_width(self._widths)
        self._widths = self._widths[-REMEMBERED:]
        return wrist_steps(joined, self._points, self._unit)[-count:]


def push_many(engine: Engine, pushes: Sequence[tuple[Stream, Mapping[str, Any]]]) -> list[Update]:
    """`Stream.push` for several streams of one engine, whose frames share batches. Each stream may occur once.

    Raises UserError for frames that the model cannot read; all streams are then as before.
    """
    if len({id(stream) for stream, _ in pushes}) < len(pushes):
        raise ValueError("push_many: a stream occurs twice; join its frames")
    checked = [(stream, stream.check(frames)) for stream, frames in pushes]
    return _work(engine, [(stream, stream._take(frames)) for stream, frames in checked])


def _work(engine: Engine, plans: Sequence[tuple[Stream, _Plan]]) -> list[Update]:
    """Carry out the plans of several streams in common batches."""
    seen = iter(engine.features([chunk for _, plan in plans for chunk in plan.chunks]))
    jobs = [stream._jobs(plan, [next(seen) for _ in plan.chunks]) for stream, plan in plans]
    said: list[list[Tokens | None]] = []
    windows = []
    for (stream, _), some in zip(plans, jobs, strict=True):
        known = [None if job.new else stream._text.known(len(job.features)) for job in some]
        windows += [
            Window(job.features, () if job.new else stream._text.tokens)
            for job, tokens in zip(some, known, strict=True) if tokens is None
        ]  # fmt: skip
        said.append(known)
    new = iter(engine.tokens(windows))
    filled = [[next(new) if tokens is None else tokens for tokens in some] for some in said]
    return [
        stream._update(plan, some, tokens) for (stream, plan), some, tokens in zip(plans, jobs, filled, strict=True)
    ]


def _last_sign(calm: np.ndarray) -> int:
    """The frames of a smoothed motion without the rest at their end; all of them where there is nothing else."""
    moving = np.flatnonzero(calm >= STILL)
    return int(moving[-1]) + 1 if len(moving) else len(calm)


def _count(frames: LiveFrames) -> int:
    return len(next(iter(frames.values())))


def _part(frames: LiveFrames, first: int, end: int | None) -> dict[str, np.ndarray]:
    return {name: array[first:end] for name, array in frames.items()}
