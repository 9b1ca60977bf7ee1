"""From texts to label ids and back, with a tokenizer trained on a small corpus or any HuggingFace tokenizer."""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slt_jax.base.hub import hub_unreachable
from slt_jax.base.places import naming
from slt_jax.data import sentencepiece_model
from slt_jax.data.target_language import frame, language_codes
from slt_jax.errors import UserError

IGNORE = -100  # labels with this value are no target
AT_ONCE = 8192  # texts; a tokenizer's own notes of a million would take gigabytes
VOCABULARY = 8000  # tokens of a tokenizer that training makes for itself
PAD, EOS, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as T5 numbers them


def load_tokenizer(path: str | Path, *, local_files_only: bool = False):
    """A tokenizer from a local directory or, if no such path exists, from the HuggingFace hub (or its cache)."""
    name, local = str(path), os.path.exists(path)
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(f"--tokenizer {name}: no such directory")
    local = local or local_files_only
    away = "" if local else hub_unreachable()  # then only the cache can have it
    local = local or bool(away)
    models = sentencepiece_model.model_files(Path(path))
    if models and (advice := sentencepiece_model.cannot_read_models()):
        raise UserError(f"--tokenizer {name}: {advice}")
    try:
        tokenizer = _open(name, models, local_files_only=local)
    except UserError:
        raise
    except Exception as error:
        reason = away or next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        if "tiktoken" in reason:  # which is tried where a SentencePiece model of the hub could not be read
            reason = sentencepiece_model.cannot_read_models() or reason
        raise UserError(f"--tokenizer {name}: cannot be loaded ({reason})") from None
    if tokenizer.pad_token_id is None:
        raise UserError(f"--tokenizer {name}: it has no pad token, which labels need; choose one that defines it")
    return tokenizer


def _open(name: str, models: list[Path], *, local_files_only: bool):
    import transformers  # takes seconds to import

    # `AutoTokenizer` imports torch where it is installed, which takes seconds, and chooses this class by its name too.
    plain = _class_of(Path(name)) == "PreTrainedTokenizerFast"
    kind = transformers.PreTrainedTokenizerFast if plain else transformers.AutoTokenizer

    def automatic():
        return kind.from_pretrained(name, local_files_only=local_files_only, trust_remote_code=False)

    if not models:
        return automatic()
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)  # what it tries is not what the user is to do
    try:
        with warnings.catch_warnings(action="ignore"):
            known = sentencepiece_model.says_its_class(Path(name))
            tokenizer = automatic() if known else sentencepiece_model.open_bare(Path(name), models)
    finally:
        transformers.logging.set_verbosity(level)
    sentencepiece_model.agree(tokenizer, Path(name), models)
    return tokenizer


def _class_of(folder: Path) -> str | None:
    """The class that the folder of a tokenizer names."""
    try:
        return json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
    except (OSError, ValueError, AttributeError):
        return None


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
    with naming(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        with naming(directory):
            tokenizer.save_pretrained(temporary)
            config = temporary / "tokenizer_config.json"
            settings = json.loads(config.read_text(encoding="utf-8"))
            # transformers 4 does not know version 5's name for it
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
            config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            temporary.chmod(0o777 & ~_umask())
            if directory.is_dir() and any(directory.iterdir()):  # it holds other files: replace each at once
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


def end_token(tokenizer) -> int:
    """The id that ends a text. Raises UserError if the tokenizer has none."""
    end = next((t for t in (tokenizer.eos_token_id, tokenizer.sep_token_id) if t is not None), None)
    if end is None:
        raise UserError("--tokenizer: it has neither an eos nor a sep token; the decoder needs one to stop")
    return end


def ends_texts(tokenizer) -> bool:
    """Whether the tokenizer puts its end token after texts by itself."""
    return end_token(tokenizer) in frame(tokenizer)[1]


def vocabulary_size(tokenizer) -> int:
    """How many tokens a decoder needs: the vocabulary, and added tokens if targets or their padding hold some."""
    before, after = frame(tokenizer)
    languages = {*language_codes(tokenizer).values()}
    languages = languages if languages & {*before, *after} else set()  # else targets hold none
    largest = max(tokenizer.pad_token_id, end_token(tokenizer), *before, *after, *languages)
    return tokenizer.vocab_size if largest < tokenizer.vocab_size else max(len(tokenizer), largest + 1)


@dataclass(frozen=True)
class Targets:
    """The labels of texts, int32 (N, S), padded with -100, and the tokens (N,) that each text has uncut."""

    labels: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class RowStarts:
    """How generation begins in each row: the token that it starts from, (B,), and those that it says first, (B, P).

    -1 is for a start that the decoder's configuration knows, and after the last of a row's tokens.
    """

    first: np.ndarray
    forced: np.ndarray


def encode_targets(tokenizer, texts: Sequence[str], max_length: int, prompt: Sequence[int] = ()) -> Targets:
    """What a decoder learns of texts. Long ones are cut, and all end in the end token, whoever puts it there.

    `prompt` stands before each text, and after what the tokenizer puts there. S is the length of the longest label,
    rounded up to a multiple of 8 and at most `max_length`: one shape per split. Raises UserError for added tokens,
    which the decoder does not have, and for a prompt that leaves no room.
    """
    if not len(texts):
        return Targets(np.full((0, min(8, max_length)), IGNORE, np.int32), np.zeros(0, int))
    end = [] if ends_texts(tokenizer) else [end_token(tokenizer)]
    before, after = frame(tokenizer) if prompt else ([], [])
    if prompt and len(before) + len(prompt) + len(after) + len(end) >= max_length:
        raise UserError(f"--prefix has {len(prompt)} tokens, and no text fits beside it; raise --max-target-length")
    starts = range(0, len(texts), AT_ONCE)
    around = len(before), prompt, end
    parts = [_encoded(tokenizer, list(texts[n : n + AT_ONCE]), max_length, *around) for n in starts]
    lengths = np.concatenate([part.lengths for part in parts])
    longest = min(lengths.max(), max_length)
    labels = np.full((len(texts), min(-(-longest // 8) * 8, max_length)), IGNORE, np.int32)
    for start, part in zip(starts, parts, strict=True):
        labels[start : start + len(part.labels), : part.labels.shape[1]] = part.labels
    if labels.max() >= (size := vocabulary_size(tokenizer)):
        largest = f"id {labels.max()} in a vocabulary of {size}"
        raise UserError(f"--tokenizer {tokenizer.name_or_path}: added tokens occur in the texts ({largest})")
    return Targets(labels, lengths)


def _encoded(
    tokenizer, texts: list[str], max_length: int, before: int, prompt: Sequence[int], end: list[int]
) -> Targets:
    """`encode_targets` of some of the texts; the prompt comes after the first `before` tokens."""
    ids = tokenizer(text_target=texts, verbose=False)["input_ids"]
    lengths = np.array([len(prompt) + len(tokens) + len(end) for tokens in ids])
    if long := np.flatnonzero(lengths > max_length).tolist():
        chosen, room = [texts[n] for n in long], max_length - len(end) - len(prompt)
        cut = tokenizer(text_target=chosen, truncation=True, max_length=room)["input_ids"] if room else [[]] * len(long)
        for n, tokens in zip(long, cut, strict=True):
            ids[n] = tokens
    labels = np.full((len(ids), min(lengths.max(), max_length)), IGNORE, np.int32)
    for row, tokens in zip(labels, ids, strict=True):
        whole = [*tokens[:before], *prompt, *tokens[before:], *end]
        row[: len(whole)] = whole
    return Targets(labels, lengths)


def encode_labels(tokenizer, texts: Sequence[str], max_length: int) -> np.ndarray:
    """The labels alone, see `encode_targets`."""
    return encode_targets(tokenizer, texts, max_length).labels


def decode(tokenizer, ids: np.ndarray) -> list[str]:
    """The texts of ids (N, S), without special tokens, languages and ignored labels."""
    hidden = [IGNORE, *language_codes(tokenizer).values()]  # not all tokenizers call their languages special
    rows = [row[(row >= 0) & ~np.isin(row, hidden)].tolist() for row in np.asarray(ids)]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
