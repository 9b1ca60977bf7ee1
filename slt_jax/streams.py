"""The one table of streams: what a model sees of a signer, and what each part of it is called wherever it appears.

Folders, flags, batches, masks, mirrors, the encoder, freezing, packs, pictures, export and conversion read this table.
Another stream of pictures is another row. The only landmarks are those of the pose files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slt_jax.errors import UserError, shortened, shown


@dataclass(frozen=True)
class Crop:
    """How an extraction cuts the crops of a stream out of a video."""

    smoothing: tuple[float, float] = (0.08, 0.08)  # of its centre and its side, in seconds: a hand is less calm
    around: tuple[str, ...] = ()  # BlazePose points that it is about; none where a detector finds its place
    scale: float = 1.0  # its side against the widest extent of these points


@dataclass(frozen=True)
class Stream:
    """One row. Names that v9 gave are written out; those that follow from them are properties."""

    name: str  # in files, batches and packs: the folder `hand_l/`, the array `batch["hand_l"]`
    key: str  # in the configuration and on the command line: `hand_left_dir`, --hand-left-dir
    title: str  # for people: "left hand"; its first word is what fits beside a row of pictures
    projector: str  # attribute of the encoder, and so in state-dict keys: `encoder.hand_left_projector.*`
    mask: str  # the batch's bool array that says what of the stream is (not) there; "" without one
    mirror: str  # `name` of the stream that takes its place in a mirror
    aliases: tuple[str, ...]  # what --mix-stream also takes
    backbone: str = ""  # attribute of the encoder; "" for landmarks, which no backbone sees
    pair: str = ""  # streams of one pair are hidden together where one of them is missing
    crop: Crop = Crop()  # of pictures

    @property
    def images(self) -> bool:
        """Whether its frames are images; otherwise they are landmarks (x, y, confidence)."""
        return bool(self.backbone)

    @property
    def folder_key(self) -> str:
        """The key of its folder in section `data`."""
        return f"{self.key}_dir"

    @property
    def backbone_key(self) -> str:
        """The key of its backbone in section `model`."""
        return f"{self.key}_backbone"

    @property
    def freeze_key(self) -> str:
        """The key of what is frozen of its backbone, in section `model`."""
        return f"freeze_{self.backbone_key}"

    def folder(self, data: object) -> str | None:
        """Its folder in section `data` of a configuration."""
        return getattr(data, self.folder_key)

    def backbone_spec(self, model: object) -> Any:
        """What section `model` of a configuration says about its backbone."""
        return getattr(model, self.backbone_key)

    def freeze_spec(self, model: object) -> Any:
        """What is frozen of its backbone, as section `model` says."""
        return getattr(model, self.freeze_key)

    @property
    def backbone_prefix(self) -> str:
        """What the state-dict keys of its backbone begin with."""
        return f"encoder.{self.backbone}."

    @property
    def head(self) -> str:
        """The projected stream among the exported encoder's outputs."""
        return f"{self.key}_head"

    @property
    def hiding_masks(self) -> tuple[str, ...]:
        """The masks that hide it from the fusion: those of its pair."""
        return tuple(other.mask for other in STREAMS if self.pair and other.pair == self.pair)

    @property
    def label(self) -> str:
        """The title in one word: "left"."""
        return self.title.split()[0]

    @property
    def noun(self) -> str:
        """The title before another noun: "left-hand" crops."""
        return self.title.replace(" ", "-")

    @property
    def missing_key(self) -> str:
        """The array of a pose file that says in which frames a crop does not show what it should."""
        return f"miss_{self.name}"

    @property
    def arrays(self) -> tuple[str, ...]:
        """The arrays of a batch that belong together: the stream and its mask."""
        return (self.name, self.mask) if self.mask else (self.name,)


STREAMS = (
    Stream(
        "face", "face", "face", "face_projector", "", "face", ("face",), backbone="face_backbone",
    ),
    Stream(
        "hand_l", "hand_left", "left hand", "hand_left_projector", "miss_mask_hl", "hand_r",
        ("hand-left", "hand_left", "hand_l", "hand-l", "hl"),
        backbone="hand_backbone_left", pair="hands", crop=Crop((0.03, 0.08)),
    ),
    Stream(
        "hand_r", "hand_right", "right hand", "hand_right_projector", "miss_mask_hr", "hand_l",
        ("hand-right", "hand_right", "hand_r", "hand-r", "hr"),
        backbone="hand_backbone_right", pair="hands", crop=Crop((0.03, 0.08)),
    ),
    Stream("pose", "pose", "pose", "pose_projector", "pose_conf_mask", "pose", ("pose",)),
)  # fmt: skip
BY_NAME = {stream.name: stream for stream in STREAMS}
IMAGES = tuple(stream for stream in STREAMS if stream.images)
MASKED = tuple(stream for stream in IMAGES if stream.mask)  # a frame of them may be missing; others show the nearest
HANDS = tuple(stream for stream in IMAGES if stream.pair == "hands")
POSE = BY_NAME["pose"]
MIXABLE = ", ".join(stream.aliases[0] for stream in STREAMS[:-1]) + f" or {STREAMS[-1].aliases[0]}"


def chosen(names: Sequence[str] | None) -> tuple[Stream, ...]:
    """The streams of these names in the order of the table; all of them for None."""
    return tuple(stream for stream in STREAMS if names is None or stream.name in names)


def streams_of(model: object) -> tuple[Stream, ...]:
    """The streams that section `model` of a configuration has (`model.streams`)."""
    return chosen(getattr(model, "streams", None))


def images_of(model: object) -> tuple[Stream, ...]:
    """The streams of pictures among them."""
    return tuple(stream for stream in streams_of(model) if stream.images)


def parse_streams(given: Sequence[object]) -> list[str] | None:
    """The names of the streams that are `given` by any of theirs; None for all. Raises UserError naming the key."""
    words = [word.strip().lower() for part in given for word in str(part).split(",") if word.strip()]
    found = {word: next((s.name for s in STREAMS if word in (s.name, s.key, *s.aliases)), None) for word in words}
    if unknown := [word for word, name in found.items() if name is None]:
        raise UserError(f"--streams, model.streams: unknown stream {shown(unknown[0])}; choose {MIXABLE}")
    if not found:
        raise UserError(f"--streams, model.streams: names no stream; choose {MIXABLE}")
    names = [stream.name for stream in STREAMS if stream.name in found.values()]
    return None if len(names) == len(STREAMS) else names


def parse_mix_stream(text: str) -> tuple[str, float]:
    """`hand-left:0.5` -> ("hand_l", 0.5); without a probability it is 1. Raises UserError naming the flag."""
    name, colon, number = text.strip().partition(":")
    wanted = name.strip().lower()
    stream = next((stream for stream in STREAMS if wanted in stream.aliases), None)
    if stream is None:
        raise UserError(f"--mix-stream {shortened(text)}: unknown stream {shown(name)}; choose {MIXABLE}")
    try:
        p = float(number) if colon else 1.0
    except ValueError:
        p = 0.0
    if not 0 < p <= 1:
        raise UserError(f"--mix-stream {shortened(text)}: the probability must be in (0, 1]")
    return stream.name, p
