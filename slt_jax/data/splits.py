"""From a configuration to the loaders of its training and validation splits."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slt_jax.config import Config, DataConfig
from slt_jax.data.clip_files import BadClip, ClipFiles, scan
from slt_jax.data.clips import padded_lengths
from slt_jax.data.corpus_folder import folder_keys
from slt_jax.data.glosses import Glosses
from slt_jax.data.loader import Loader, LoaderSettings
from slt_jax.data.metadata import ClipRow, read_index, read_metadata, select
from slt_jax.data.packs import PackedClips, listed, open_pack
from slt_jax.data.prompts import LANG, Prompts, open_prompts
from slt_jax.data.quality import check_images, look_at_pose, report_quality, tell
from slt_jax.data.spot_check import check_kinds, spot_check
from slt_jax.data.stream_folders import check_streams
from slt_jax.data.target_language import FLAG
from slt_jax.data.text import IGNORE, Targets, end_token, ends_texts, load_tokenizer, train_tokenizer
from slt_jax.errors import UserError
from slt_jax.streams import STREAMS

logger = logging.getLogger(__name__)

TABLES = ("metadata_csv", "train_index", "val_index")
IMAGES_LOOKED_AT = 200_000  # per split before training: seconds, while all of a large corpus would take minutes


@dataclass(frozen=True)
class Splits:
    """The loaders of both splits, and the tokenizer of their texts."""

    train: Loader
    val: Loader
    tokenizer: Any
    new_tokenizer: bool  # made of the training texts, as none was there
    prompts: Prompts
    glosses: Glosses | None = None  # where they are learned too


def open_splits(
    config: Config,
    tokenizer_dir: Path,
    earlier_tokenizer: Path | None = None,
    earlier_glosses: Glosses | None = None,
    *,
    shard_index: int = 0,
    shard_count: int = 1,
) -> Splits:
    """The training and validation loaders and the tokenizer, which is kept in `tokenizer_dir`.

    Without `--tokenizer`, `earlier_tokenizer` is taken (of the run that goes on, as `earlier_glosses`), else that of
    `--decoder-model`, else one is trained. Reads the CSVs and lists the folders, but decodes nothing. Raises UserError
    naming the flag or file.
    """
    data = config.data
    train, val, files = _checked_splits(config, _given(config))
    named = data.tokenizer or earlier_tokenizer or tokenizer_of_decoder(config.model.decoder_model)
    wished: dict[str, Any] = {"prefix": data.prefix, "source_lang": data.source_lang}
    wished["spoken"] = [clip.lang for clip in (*train.clips, *val.clips)]
    tokenizer = open_tokenizer(
        named,
        tokenizer_dir,
        [clip.text for clip in train.clips],
        language=data.target_lang,
        local_files_only=config.model.local_files_only,
        **wished,
    )
    prompts = open_prompts(tokenizer, str(named or tokenizer_dir), target_lang=data.target_lang, **wished)

    wanted = bool(config.training.objectives.get("gloss_ctc"))
    glosses = (earlier_glosses or Glosses.of(train.clips)) if wanted else None

    def loader(split: Usable, batch_size: int, *, training: bool) -> Loader:
        clips, length = split.clips, config.model.sequence_length
        texts, spoken = [clip.text for clip in clips], [clip.lang for clip in clips]
        targets = prompts.targets(texts, spoken, data.max_target_length)
        tell_targets(targets, tokenizer, "training" if training else "validation", data.max_target_length)
        part = {"shard_index": shard_index, "shard_count": shard_count}
        settings = loader_settings(config, batch_size, train=training, **part)
        frames = [split.frames[clip.video_id] for clip in clips]
        lengths = padded_lengths(frames, length, data.buckets or (), v9_inputs=settings.v9_inputs)
        signed = glosses.labels(clips, length) if glosses else None
        return Loader(clips, files, targets.labels, settings, lengths=lengths, glosses=signed)

    return Splits(
        loader(train, data.batch_size, training=True),
        loader(val, data.val_batch_size or data.batch_size, training=False),
        tokenizer,
        not named,
        prompts,
        glosses,
    )


def loader_settings(
    config: Config, batch_size: int, *, train: bool, shard_index: int, shard_count: int
) -> LoaderSettings:
    """How a split of `config` becomes batches of `batch_size` clips."""
    data, model = config.data, config.model
    return LoaderSettings(
        batch_size=batch_size,
        sequence_length=model.sequence_length,
        image_size=model.image_size,
        num_landmarks=model.pose_landmarks,
        seed=data.seed,
        train=train,
        num_workers=data.num_workers,
        shard_index=shard_index,
        shard_count=shard_count,
        skip_bad_clips=data.skip_bad_clips,
        flip_probability=data.flip_probability,
        v9_inputs=bool(data.v9_hand_masks),
        streams=None if model.streams is None else tuple(model.streams),
    )


def _given(config: Config) -> dict[str, str]:
    """The paths that a run needs, by their keys. Raises UserError for one that is not given."""
    data = config.data
    given = {key: getattr(data, key) for key in (*(() if data.packs else folder_keys(config.model.streams)), *TABLES)}
    for key, path in given.items():
        if not path:
            raise UserError(f"--{key.replace('_', '-')} is not given (nor data.{key} in the configuration)")
    return given


def _checked_splits(config: Config, given: Mapping[str, str]) -> tuple["Usable", "Usable", Mapping[str, ClipFiles]]:
    """The clips of both splits that can be read, and all files; what is doubtful about them is told."""
    data = config.data
    flags = {"train_index": "--train-index", "val_index": "--val-index"}
    rows = _listed(given, flags)
    files = find_files(data, [clip.video_id for clips in rows for clip in clips], config.model.streams)
    landmarks, skip = config.model.pose_landmarks, data.skip_bad_clips
    train, val = (
        usable(clips, files, landmarks, flag, skip_bad_clips=skip)
        for clips, flag in zip(rows, flags.values(), strict=True)
    )
    both = [(clip.video_id, "in both splits", "") for clip in val.clips if clip.video_id in train.frames]
    tell(both, f"the {len(val.clips)} validation clips", strict=data.strict_quality)
    tell_doubts((train, val), files, landmarks, strict=data.strict_quality)
    return train, val, files


def _listed(given: Mapping[str, str], flags: Mapping[str, str]) -> list[list[ClipRow]]:
    """The clips of each split as its index lists them. The rest of the metadata is let go."""
    metadata = read_metadata(given["metadata_csv"])
    return [select(read_index(given[key]), metadata, f"{flag} {given[key]}") for key, flag in flags.items()]


def find_files(
    data: DataConfig, video_ids: Sequence[str], streams: Sequence[str] | None = None
) -> Mapping[str, ClipFiles]:
    """The files of the clips in these `streams` (None: all), in the pack if there is one, else in the folders."""
    if data.packs:
        files = open_pack(data.packs, streams).files(video_ids)
        return files if streams is None else files.only(streams)
    return scan({stream.name: stream.folder(data) or "" for stream in STREAMS}, video_ids, streams)


@dataclass(frozen=True)
class Usable:
    """The clips of a split that can be read, in order, with their numbers of frames, and why others cannot."""

    clips: list[ClipRow]
    frames: dict[str, int]
    skipped: dict[str, str]


def tell_doubts(
    splits: Sequence[Usable], files: Mapping[str, ClipFiles], landmarks: int, *, strict: bool = False
) -> None:
    """Warn of what is doubtful about the clips of these splits; raise UserError if `strict`."""
    clips = [clip for split in splits for clip in split.clips]
    report_quality(clips, files, strict=strict)
    check_kinds(clips, files, strict=strict)
    for split in splits:
        spot_check(split.clips, files, landmarks, strict=strict)


def usable(
    clips: Sequence[ClipRow], files: Mapping[str, ClipFiles], landmarks: int, flag: str, *, skip_bad_clips: bool
) -> Usable:
    """Which clips' files can be used, judging by a quick look: every pose is read, and both ends of every image.

    At packed clips this look was taken when they were packed.
    So a wrong landmark count or a damaged file is said before anything is compiled. Raises BadClip at the first that
    cannot be used unless bad clips are skipped, UserError naming `flag` where none is left, or naming the folder of a
    stream that has no frames.
    """
    split, left = Usable([], {}, {}), IMAGES_LOOKED_AT
    own = listed(files, [clip.video_id for clip in clips])
    check_streams(own)
    packed = own if isinstance(own, PackedClips) else None
    sure = packed.sure(landmarks).tolist() if packed else None
    lengths = packed.counts().longest.tolist() if packed else []
    for place, clip in enumerate(clips):
        if sure and sure[place]:
            split.clips.append(clip)
            split.frames[clip.video_id] = lengths[place]
            continue
        clip_files = own[place]
        try:
            if clip_files.record:
                clip_files.record.check(clip_files, landmarks)
                frames = max(clip_files.record.pose_frames if clip_files.pose else 0, clip_files.last_frame() + 1)
            else:
                pose_frames = look_at_pose(clip_files, landmarks)[0] if clip_files.pose else 0
                frames = max(pose_frames, clip_files.last_frame() + 1)
                if frames == 0:
                    raise BadClip(f"clip {clip.video_id} has neither frames nor pose in the data folders")
                if left > 0:
                    left -= check_images(clip_files)
        except BadClip as error:
            if not skip_bad_clips:
                raise
            split.skipped[clip.video_id] = str(error)
            logger.warning("clip %s is skipped, %d so far: %s", clip.video_id, len(split.skipped), error)
        else:
            split.clips.append(clip)
            split.frames[clip.video_id] = frames
    if not split.clips:
        raise UserError(f"{flag}: no clip of the split can be read")
    return split


def tokenizer_of_decoder(decoder_model: str | None) -> str | None:
    """A pretrained decoder's own tokenizer, as weights mean nothing with another. None if the folder has none."""
    if decoder_model and Path(decoder_model).is_dir():
        files = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "sentencepiece.bpe.model", "vocab.json")
        return decoder_model if any((Path(decoder_model) / file).exists() for file in files) else None
    return decoder_model


def tell_targets(targets: Targets, tokenizer: Any, split: str, longest: int) -> None:
    """Say what a model cannot learn of the texts of a split: ends that are cut off, and unknown tokens."""
    if cut := int((targets.lengths > longest).sum()):
        logger.warning(
            "%d of %d %s texts are longer than --max-target-length %d and are cut: the longest has %d tokens, raise it",
            cut, len(targets.lengths), split, longest, targets.lengths.max(),
        )  # fmt: skip
    if unknown := int((targets.labels == tokenizer.unk_token_id).sum()) if tokenizer.unk_token_id is not None else 0:
        total = int((targets.labels != IGNORE).sum())
        what = "the tokenizer does not know; another --tokenizer may"
        logger.warning("%d of the %d tokens of the %s texts stand for what %s", unknown, total, split, what)


def open_tokenizer(
    named: str | Path | None,
    folder: Path,
    texts: Sequence[str],
    *,
    language: str | None = None,
    spoken: Sequence[str] = (),
    prefix: str | None = None,
    source_lang: str | None = None,
    local_files_only: bool = False,
):
    """The tokenizer `named`, else one trained on `texts`. It is kept in `folder`, with its language.

    That is `language`, else what most rows say (`spoken`). Raises UserError if it needs one and none is given, or if
    it knows none.
    """
    if named:
        tokenizer = load_tokenizer(named, local_files_only=local_files_only)
        open_prompts(tokenizer, str(named), spoken, target_lang=language, prefix=prefix, source_lang=source_lang)
        if not ends_texts(tokenizer):
            end = tokenizer.convert_ids_to_tokens(end_token(tokenizer))
            logger.warning("--tokenizer %s: puts no end after texts; targets get its %s", named, end)
        if Path(named).absolute() != folder.absolute():
            tokenizer.save_pretrained(folder)
        return tokenizer
    if (language and LANG not in (prefix or "")) or source_lang:
        flag = f"--source-lang {source_lang}" if source_lang else f"{FLAG} {language}"
        raise UserError(f"{flag}: the tokenizer that training makes has no languages")
    tokenizer = train_tokenizer(texts, folder)
    logger.warning(
        "no --tokenizer: trained one on the %d training texts (%d tokens) and saved it in %s",
        len(texts),
        tokenizer.vocab_size,
        folder,
    )
    return tokenizer
