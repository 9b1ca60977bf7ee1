"""A clip to text with onnxruntime alone, from the files that `slt-export --decoder` writes; JAX is not needed.

python tools/translate_onnx.py artefacts/encoder_v1.json CLIP --root corpus --tokenizer run/tokenizer
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.base.json_text import read_json
from slt_jax.cli import command
from slt_jax.cli.flags import add_corpus_flags, places_of
from slt_jax.data.clip_files import scan
from slt_jax.data.clips import read_clip
from slt_jax.data.corpus_folder import FOLDERS, StreamFolders, by_stream, check_folders
from slt_jax.data.stream_folders import check_streams
from slt_jax.errors import UserError
from slt_jax.streams import IMAGES, MASKED, POSE

BACKENDS = ("onnx", "decoder_first", "decoder_step")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _tokens(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_whole, value)))


def _normal(value: Any) -> bool:
    """Mean and deviation of three colours."""
    parts = value.get("normalization") if isinstance(value, dict) else None
    rows = [parts.get(part) for part in ("mean", "std")] if isinstance(parts, dict) else [None]
    return all(
        isinstance(row, list) and len(row) == 3 and all(type(x) in (int, float) and abs(x) < 1e6 for x in row)
        for row in rows
    )


# What a translation reads of the metadata, and what it must be.
NEEDED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "generation": {
        **dict.fromkeys(
            ("decoder_start_token_id", "max_length", "min_length", "no_repeat_ngram_size", "pad_token_id"), _whole
        ),
        "eos_token_id": _tokens, "forced_eos_token_id": _tokens,
        "forced_bos_token_id": lambda value: value is None or _whole(value),
    },
    "model": dict.fromkeys(("sequence_length", "image_size", "pose_landmarks"), _whole),
    "inputs": {stream.name: _normal for stream in IMAGES},
}  # fmt: skip


class OnnxTranslator:
    """What a metadata file of `slt-export --decoder` describes. Raises UserError if a file is missing."""

    def __init__(self, metadata: Path):
        self.facts, files = read_facts(metadata)
        self.encoder, self.first, self.step = map(open_session, files)

    def tokens(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """Greedy token ids (B, <= max_length), start token included, of the encoder's inputs."""
        rules = self.facts["generation"]
        encoded = run(self.encoder, batch)["encoded"]
        known = {"encoded": encoded, "pad_mask": batch["pad_mask"]}
        tokens = np.full((len(encoded), 1), rules["decoder_start_token_id"], np.int64)
        finished = np.zeros(len(encoded), bool)
        session = self.first
        while tokens.shape[1] < rules["max_length"] and not finished.all():
            outputs = run(session, known | {"input_ids": tokens[:, -1:]})
            best = restrict(outputs["logits"], tokens, rules).argmax(axis=1)
            best = np.where(finished, rules["pad_token_id"], best)
            tokens = np.concatenate([tokens, best[:, None]], axis=1)
            finished |= np.isin(best, rules["eos_token_id"])
            known |= {name.replace("present.", "past."): array for name, array in outputs.items()}
            session = self.step
        return tokens

    def read(self, folders: StreamFolders, video_id: str) -> dict[str, np.ndarray]:
        """The encoder's inputs for one clip on disk, sampled as in evaluation."""
        model, inputs = self.facts["model"], self.facts["inputs"]
        files = scan(folders, [video_id])[video_id]
        check_streams([files])
        clip = read_clip(
            files,
            sequence_length=model["sequence_length"],
            image_size=model["image_size"],
            num_landmarks=model["pose_landmarks"],
            v9_inputs=self.facts["v9_hand_masks"],
        )
        real = clip["pad_mask"]
        batch: dict[str, Any] = {"pad_mask": clip["pad_mask"][real][None]}
        for name in (stream.name for stream in IMAGES):
            mean, std = (np.array(inputs[name]["normalization"][part], np.float32) for part in ("mean", "std"))
            pixels = (clip[name][real][None].astype(np.float32) / 255 - mean) / std
            batch[name] = np.ascontiguousarray(pixels.transpose(0, 1, 4, 2, 3))
        sure = np.repeat(clip[POSE.mask], 3, axis=-1)
        batch[POSE.name] = np.where(sure, clip[POSE.name], 0)[real][None]
        batch |= {stream.mask: clip[stream.mask][real][None] for stream in MASKED}
        return batch


def read_facts(metadata: Path) -> tuple[dict[str, Any], list[Path]]:
    """The metadata, with all that a translation needs of it, and the paths of the encoder and the decoder's parts."""
    wrong = f"{metadata}: is not the JSON file that slt-export writes"
    try:
        facts = read_json(metadata, "")
    except UserError as error:
        raise UserError(str(error).strip() if "cannot be read" in str(error) else wrong) from None
    if not isinstance(facts, dict):
        raise UserError(wrong)
    backends = facts.get("backends")
    names = [backends.get(name) if isinstance(backends, dict) else None for name in BACKENDS]
    if not all(isinstance(name, str) and name and "\0" not in name for name in names) or "generation" not in facts:
        raise UserError(f"{metadata}: names no decoder; export with slt-export --decoder")
    for section, wanted in NEEDED.items():
        for key, fits in wanted.items():
            if not isinstance(facts.get(section), dict) or not fits(facts[section].get(key)):
                raise UserError(f"{wrong} ({section}.{key})")
    if not isinstance(facts.get("v9_hand_masks"), bool):
        raise UserError(f"{wrong} (v9_hand_masks)")
    return facts, [metadata.parent / str(name) for name in names]


def open_session(path: Path):
    try:
        import onnxruntime
    except ImportError:
        raise UserError('this needs the package onnxruntime: pip install "slt-jax[export]"') from None
    if not path.is_file():
        raise UserError(f"{path}: no such file; the metadata names it")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common name
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(f"{path}: onnxruntime cannot read it ({reason})") from None


def run(session, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wanted = {value.name: inputs[value.name] for value in session.get_inputs()}
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, wanted), strict=True))


def restrict(scores: np.ndarray, tokens: np.ndarray, rules: dict[str, Any]) -> np.ndarray:
    """`scores` (B, vocab) of the token after `tokens` (B, length), -inf where forbidden, in HuggingFace's order."""
    length, size = tokens.shape[1], rules["no_repeat_ngram_size"]
    scores = scores.copy()
    for row, earlier in zip(scores, tokens.tolist(), strict=True):
        windows = [earlier[i : i + size] for i in range(length - size + 1)] if size else []
        row[[window[-1] for window in windows if window[:-1] == earlier[length - size + 1 :]]] = -np.inf
    if length < rules["min_length"]:
        scores[:, rules["eos_token_id"]] = -np.inf
    forced = []
    if length == 1 and rules["forced_bos_token_id"] is not None:
        forced = [rules["forced_bos_token_id"]]
    if length == rules["max_length"] - 1 and rules["forced_eos_token_id"]:
        forced = rules["forced_eos_token_id"]
    if forced:
        scores[:] = -np.inf
        scores[:, forced] = 0
    return scores


def load_tokenizer(folder: Path):
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"--tokenizer {folder}: has no tokenizer.json; save the tokenizer again with transformers")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing narrower
        raise UserError(f"--tokenizer {file}: cannot be read ({error})") from None


def translate(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """(video id, text) of every clip."""
    folders = by_stream(places_of(vars(arguments), FOLDERS))
    check_folders(folders)
    tokenizer = load_tokenizer(arguments.tokenizer)
    translator = OnnxTranslator(arguments.metadata)
    texts = []
    for video_id in arguments.video_id:
        ids = translator.tokens(translator.read(folders, video_id))[0]
        texts.append((video_id, tokenizer.decode(ids.tolist(), skip_special_tokens=True).strip()))
    return texts


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 a mistake in the input, 130 stopped by Ctrl-C."""
    return command.run("translate_onnx", _translate, argv)


def _translate(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], argument_default=argparse.SUPPRESS)
    parser.add_argument("metadata", type=Path, help="the .json that slt-export --decoder wrote")
    parser.add_argument("video_id", nargs="+", help="a clip's name: its files are VIDEO_ID_f000000.jpg and so on")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    add_corpus_flags(parser, FOLDERS)
    arguments = parser.parse_args(argv)
    for video_id, text in translate(arguments):
        print(f"{video_id}: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
