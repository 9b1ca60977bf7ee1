"""From texts to label ids and back, with a tokenizer trained on a small corpus or any HuggingFace tokenizer."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from slt_jax.base.hub import hub_unreachable
from slt_jax.errors import UserError

IGNORE = -100  # labels with this value are no target
VOCABULARY = 8000  # tokens of a tokenizer that training makes for itself
PAD, EOS, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as T5 numbers them


def load_tokenizer(path: str | Path, *, local_files_only: bool = False):
    """A tokenizer from a local directory or, if no such path exists, from the HuggingFace hub (or its cache)."""
    from transformers import AutoTokenizer  # takes seconds to import

    name, local = str(path), os.path.exists(path)
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(f"--tokenizer {name}: no such directory")
    local = local or local_files_only
    away = "" if local else hub_unreachable()  # then only the cache can have it
    local = local or bool(away)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local, trust_remote_code=False)
    except Exception as error:
        reason = away or next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(f"--tokenizer {name}: cannot be loaded ({reason})") from None
    if tokenizer.pad_token_id is None:
        raise UserError(f"--tokenizer {name}: it has no pad token, which labels need; choose one that defines it")
    return tokenizer


def train_tokenizer(texts: Iterable[str], directory: str | Path, vocab_size: int = VOCABULARY):
    """Train a byte-level BPE tokenizer on `texts` and save it in `directory` for `AutoTokenizer.from_pretrained`.

    Bytes cover everything (accents, ¿, ¡, emoji), so there are no unknown tokens and decoding gives back the exact
    text. The same texts give the same files.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + 3:
        raise UserError(f"vocab_size {vocab_size} is too small: bytes and special tokens alone are {len(alphabet) + 3}")
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    # A word is the same token at the start of a text as inside it: a space is put in front and later removed.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, UNK],
        initial_alphabet=alphabet,
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.strip() for text in texts], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 1)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNK, clean_up_tokenization_spaces=False
    )
    _save(wrapped, Path(directory))
    return wrapped


def _save(tokenizer, directory: Path) -> None:
    """Write beside the directory and rename, so that readers see all of it or nothing."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        tokenizer.save_pretrained(temporary)
        config = temporary / "tokenizer_config.json"
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 4 does not know version 5's name for it
        config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        temporary.chmod(0o777 & ~_umask())
        if directory.is_dir() and any(directory.iterdir()):  # the directory holds other files: replace each at once
            for file in sorted(temporary.iterdir()):
                os.replace(file, directory / file.name)
        else:
            os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def encode_labels(tokenizer, texts: Sequence[str], max_length: int) -> np.ndarray:
    """Label ids, int32 (N, S), padded with -100. Long texts are cut and keep their end token.

    S is the length of the longest text, rounded up to a multiple of 8 and at most `max_length`: one shape per split.
    """
    ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"] if len(texts) else []
    longest = max(map(len, ids), default=1)
    labels = np.full((len(ids), min(-(-longest // 8) * 8, max_length)), IGNORE, np.int32)
    for row, tokens in zip(labels, ids, strict=True):
        row[: len(tokens)] = tokens
    if labels.size and labels.max() >= tokenizer.vocab_size:
        largest = f"id {labels.max()} in a vocabulary of {tokenizer.vocab_size}"
        raise UserError(f"--tokenizer {tokenizer.name_or_path}: added tokens occur in the texts ({largest})")
    return labels


def decode(tokenizer, ids: np.ndarray) -> list[str]:
    """The texts of ids (N, S), without special tokens and ignored labels."""
    rows = [row[row >= 0].tolist() for row in np.asarray(ids)]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
