"""Every reader of files that are not one's own, with a small valid sample of what it reads."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before processes are forked, as it takes seconds)
from PIL import Image

from convert import write_pt
from convert.checkpoint import plan_model
from convert.safetensors_file import write_safetensors
from convert.source import open_source
from slt_jax.cli.validate_metrics import read_reference
from slt_jax.config import ModelConfig, apply_setting, build_config, read_config_file
from slt_jax.corpora.captions import AutomaticCaptions
from slt_jax.corpora.subtitled import read_corpus
from slt_jax.data.clip_files import ClipFiles, Frames, decode_image, load_pose, scan
from slt_jax.data.feature_cache import Features, Stale, fingerprint
from slt_jax.data.metadata import ClipRow, read_index, read_metadata
from slt_jax.data.packing import write_pack
from slt_jax.data.packs import open_pack
from slt_jax.data.quality import check_images, look_at_pose
from slt_jax.errors import UserError
from slt_jax.media.jobs import ExtractionRecord
from slt_jax.pictures.curves import read_records
from slt_jax.streams import IMAGES, STREAMS
from slt_jax.training.workdir import WorkDir
from tools.fuzzing import corpora
from tools.translate_onnx import read_facts

DOCUMENTED = (UserError, Stale, AutomaticCaptions)  # what a reader may raise, whatever it is given


@dataclass(frozen=True)
class Reader:
    """`read(folder)` reads what lies in a folder; `sample(folder)` puts something there that it can read."""

    read: Callable[[Path], Any]
    sample: Callable[[Path], Any]


def _weights() -> dict[str, np.ndarray]:
    shared = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {"encoder.fusion.weight": shared, "decoder.model.lm_head.weight": shared, "b": np.zeros(3, np.int64)}


def _pt(folder: Path) -> None:
    optimizer = {"state": {0: {"step": 1.0}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    content = {"epoch": 1, "model_state": _weights(), "optimizer_state": optimizer, "config": {"model": {"d_model": 3}}}
    write_pt(folder / "x.pt", content)


def _read_weights(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        source = open_source(folder / name if name else folder)
        for array in source.checkpoint.state.values():
            np.asarray(array).sum()

    return read


def _huggingface(folder: Path) -> None:
    config = {"model_type": "t5", "d_model": 4, "d_ff": 8, "d_kv": 2, "num_heads": 2, "num_layers": 1, "vocab_size": 6}
    (folder / "config.json").write_text(json.dumps(config | {"decoder_start_token_id": 0, "feed_forward_proj": "relu"}))
    write_safetensors(folder / "model-1.safetensors", {"shared.weight": np.zeros((6, 4), np.float32)}, {})
    index = {"weight_map": {"shared.weight": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _read_huggingface(folder: Path) -> None:
    _read_weights("")(folder)
    plan_model(ModelConfig(decoder_model=str(folder), d_model=4, temporal_nhead=2))


def _tables(folder: Path) -> None:
    (folder / "meta.csv").write_text(
        'id;texto;fps;duration\na;"uno; ""dos""";25;1.5\nb;mañana;25;2\n', encoding="utf-8"
    )
    (folder / "index.csv").write_text("video_id\na\nb\n")
    (folder / "corpus.csv").write_text("id,text,video,start,end\na,uno,v1,0.0,1.5\nb,dos,v2,00:01,00:02\n")


def _settings(folder: Path) -> None:
    (folder / "x.yml").write_text("model: {d_model: 64, decoder_model: null}\noptim:\n  lr: 1.0e-3\ndata:\n  seed: 3\n")
    (folder / "set").write_text('model.backbone={"embed_dim": 24, "depth": 1}')


def _read_settings(folder: Path) -> None:
    tree = read_config_file(folder / "x.yml")
    if (folder / "set").exists():
        apply_setting(tree, (folder / "set").read_bytes().decode(errors="surrogateescape"))
    build_config(tree)


def _pose(folder: Path) -> None:
    arrays: dict[str, Any] = {"pose": np.ones((4, 39), np.float32), "missing_hand_l": np.zeros(4, bool)}
    np.savez(folder / "clip.npz", **arrays, landmark_set=np.array("mediapipe_13"), fps=np.array(25.0))


def _read_pose(folder: Path) -> None:
    files = ClipFiles("clip", {}, str(folder / "clip.npz"))
    load_pose(files)
    look_at_pose(files)


def _images(folder: Path) -> None:
    picture = Image.fromarray(np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3))
    for stream, ending in zip((stream.name for stream in IMAGES), ("jpg", "png", "jpg"), strict=True):
        (folder / stream).mkdir()
        picture.save(folder / stream / f"clip_f000000.{ending}")


def _read_images(folder: Path) -> None:
    for stream in STREAMS:
        (folder / stream.name).mkdir(parents=True, exist_ok=True)
    files = scan({stream.name: str(folder / stream.name) for stream in STREAMS}, ["clip"])["clip"]
    for frames in files.frames.values():
        for position in range(len(frames.numbers)):
            decode_image(frames.path("clip", position), np.empty((16, 16, 3), np.uint8))
    check_images(files)


def _pack(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        _images(root)
        (root / "pose").mkdir()
        np.savez(root / "pose" / "clip.npz", pose=np.ones((1, 39), np.float32))
        files = scan({stream.name: str(root / stream.name) for stream in STREAMS}, ["clip"])
        write_pack(folder, [ClipRow("clip", "text")], files, shard_bytes=1 << 20)


def _read_pack(folder: Path) -> None:
    pack = open_pack(str(folder))
    for files in pack.files(pack.clips).values():
        loaded = files.loaded()
        if loaded.pose:
            load_pose(loaded)
        for frames in loaded.frames.values():
            for position in range(len(frames.numbers)):
                frames.decode(files.video_id, position, np.empty((16, 16, 3), np.uint8))


def _features_of(folder: Path) -> tuple[Features, ClipFiles]:
    none = Frames("", np.empty(0, np.int64), ())
    files = ClipFiles("clip", {stream.name: none for stream in IMAGES}, None)
    kinds = {stream.name: (4, np.dtype(np.float32)) for stream in IMAGES}
    return Features(folder, kinds, {"clip": fingerprint(files)}), files


def _features(folder: Path) -> None:
    features, files = _features_of(folder)
    features.write(files, False, {stream.name: np.ones((1, 4), np.float32) for stream in IMAGES})


def _read_features(folder: Path) -> None:
    features, files = _features_of(folder)
    features.read(files, False)


def _onnx(folder: Path) -> None:
    """What the metadata of `slt-export --decoder` has for a translation."""
    normal = {"normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}
    numbers = ("max_length", "min_length", "no_repeat_ngram_size", "decoder_start_token_id", "pad_token_id")
    facts = {
        "backends": {name: f"{name}.onnx" for name in ("onnx", "decoder_first", "decoder_step")},
        "generation": dict.fromkeys(numbers, 1)
        | {"eos_token_id": [1], "forced_bos_token_id": None, "forced_eos_token_id": [1]},
        "model": {"image_size": 28, "sequence_length": 8, "pose_landmarks": 13},
        "inputs": {stream.name: normal for stream in IMAGES},
        "v9_hand_masks": False,
    }
    (folder / "encoder.json").write_text(json.dumps(facts))


def _records(folder: Path) -> None:
    lines = [json.dumps({"epoch": epoch, "train_loss": 1.5 / epoch, "val_loss": 2.0}) + "\n" for epoch in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    (folder / "reference.json").write_text('{"val_loss": {"value": 3.6, "tolerance": 0.05, "epoch": "last"}}')
    (folder / "metadata.jsonl").write_text('{"video_id": "a", "status": "ok", "frames": 3, "files": {"pose": 1}}\n')


def _read_each(*reads: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A reader of several files, each of them whatever became of the others."""

    def read(folder: Path) -> None:
        problem: Exception | None = None
        for one in reads:
            try:
                one(folder)
            except DOCUMENTED as error:
                problem = error
        if problem:
            raise problem

    return read


READERS: dict[str, Reader] = {
    "pt": Reader(_read_weights("x.pt"), _pt),
    "safetensors": Reader(
        _read_weights("x.safetensors"),
        lambda folder: write_safetensors(folder / "x.safetensors", {"a.weight": _weights()["b"]}, {"c": "a.weight"}),
    ),
    "huggingface": Reader(_read_huggingface, _huggingface),
    "csv": Reader(
        _read_each(
            lambda folder: read_metadata(folder / "meta.csv"),
            lambda folder: read_index(folder / "index.csv"),
            lambda folder: read_corpus(folder / "corpus.csv"),
        ),
        _tables,
    ),
    "settings": Reader(_read_settings, _settings),
    "npz": Reader(_read_pose, _pose),
    "image": Reader(_read_images, _images),
    "pack": Reader(_read_pack, _pack),
    "features": Reader(_read_features, _features),
    "onnx": Reader(lambda folder: read_facts(folder / "encoder.json"), _onnx),
    "records": Reader(
        _read_each(
            lambda folder: WorkDir(folder).read_metrics(),
            lambda folder: read_records(folder / "metrics.jsonl"),
            lambda folder: read_reference(folder / "reference.json"),
            lambda folder: ExtractionRecord(folder / "metadata.jsonl"),
        ),
        _records,
    ),
    "corpora": Reader(_read_each(*corpora.READ_CORPORA), corpora.write_corpora),
    "tables": Reader(_read_each(*corpora.READ_TABLES), corpora.write_tables),
    "captions": Reader(_read_each(*corpora.READ_CAPTIONS), corpora.write_captions),
    "poses": Reader(_read_each(*corpora.READ_POSES), corpora.write_poses),
}


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their relative paths."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def as_text(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
