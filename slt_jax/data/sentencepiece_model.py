"""Tokenizer folders with a SentencePiece model and no tokenizer.json, as T5's, mBART's and Marian's come."""

import json
from pathlib import Path
from typing import Any

from slt_jax.base.json_text import read_json
from slt_jax.errors import UserError

# 0.2.3 needs protobuf 5, and mediapipe 0.10.14 needs protobuf 4.
INSTALL = "pip install 'sentencepiece>=0.2,<0.2.3'"
KINDS = {1: "Unigram", 2: "BPE"}  # SentencePiece's numbers for what `tokenizers` calls so
BARE = "spiece.model"  # T5's name; from any other the class of the tokenizer cannot be told
CLASSES = "T5Tokenizer, MBartTokenizer, MBart50Tokenizer, NllbTokenizer or MarianTokenizer"


def model_files(folder: Path) -> list[Path]:
    """The SentencePiece models of a folder that has nothing faster to read."""
    if not folder.is_dir() or (folder / "tokenizer.json").exists():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in (".model", ".spm") and path.is_file())


def cannot_read_models() -> str:
    """What to install where the package that reads SentencePiece models is missing or does not fit; else empty."""
    try:
        from sentencepiece import sentencepiece_model_pb2  # noqa: F401
    except ImportError:
        return f"it holds a SentencePiece model, which the package sentencepiece reads: {INSTALL}"
    return ""


def says_its_class(folder: Path) -> bool:
    """Whether a file of the folder says which tokenizer it is."""
    flag = "--tokenizer"
    for name, key in (("tokenizer_config.json", "tokenizer_class"), ("config.json", "model_type")):
        if (folder / name).exists() and isinstance(known := read_json(folder / name, flag), dict) and known.get(key):
            return True
    return False


def open_bare(folder: Path, models: list[Path]) -> Any:
    """The tokenizer of a folder that holds nothing but T5's `spiece.model`. Raises UserError for other models."""
    from transformers import T5Tokenizer

    if [path.name for path in models] != [BARE]:
        named = ", ".join(path.name for path in models)
        raise UserError(
            f"--tokenizer {folder}: nothing says which tokenizer {named} belongs to; put "
            f'{{"tokenizer_class": "..."}} into a tokenizer_config.json beside it, with {CLASSES}'
        )
    return T5Tokenizer.from_pretrained(str(folder), extra_ids=0)


def agree(tokenizer: Any, folder: Path, models: list[Path]) -> None:
    """Let the tokenizer made from a model read as the model does.

    transformers takes any model for one of the kind that the class usually has, and its unknown token for the usual
    id, where another model may have the end token. Raises UserError for the wrong kind.
    """
    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is None:  # SentencePiece itself splits texts there
        return
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Tokenizer

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(models[0].read_bytes())
    except Exception:  # protobuf's own; then another kind of file has this ending, and was not read
        return
    state = json.loads(backend.to_str())
    kind, read_as = KINDS.get(proto.trainer_spec.model_type), state["model"]["type"]
    if kind != read_as:
        raise UserError(
            f"--tokenizer {folder}: {models[0].name} is a {kind or 'word or character'} model, which "
            f"{type(tokenizer).__name__} would read as {read_as}; train it with --model_type={read_as.lower()}"
        )
    if read_as == "Unigram" and state["model"].get("unk_id") != tokenizer.unk_token_id:
        state["model"]["unk_id"] = tokenizer.unk_token_id
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
