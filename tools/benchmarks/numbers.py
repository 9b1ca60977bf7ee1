"""Photos to text: numbers that unseen signers spell, translated on a pre-trained and on a random hand backbone."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from slt_jax.base.files import replacing_folder
from tools.benchmarks.learning import train_and_score
from tools.benchmarks.on_backbones import sizes, start_on

Photos = Mapping[str, Mapping[str, Sequence[Path]]]  # by signer and digit

CONFIG = Path(__file__).resolve().parents[2] / "configs/hand_numbers.yml"
CLIPS = {"train": 1600, "val": 80, "test": 240}
HELD = (3, 5)  # frames of a digit, at least and at most
SHIFT, LIGHT = 0.08, 0.15  # greatest, as shares of the side and of the brightness
VARIANTS = {
    "pre-trained, frozen": ("--freeze-hand-right-backbone",),
    "pre-trained, trained": (),
    "random, trained": (),
    "random, frozen": ("--freeze-hand-right-backbone",),
}
BELOW_30 = ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve", "diez", "once", "doce",
            "trece", "catorce", "quince", "dieciséis", "diecisiete", "dieciocho", "diecinueve", "veinte", "veintiuno",
            "veintidós", "veintitrés", "veinticuatro", "veinticinco", "veintiséis", "veintisiete", "veintiocho",
            "veintinueve"]  # fmt: skip
TENS = {3: "treinta", 4: "cuarenta", 5: "cincuenta", 6: "sesenta", 7: "setenta", 8: "ochenta", 9: "noventa"}
HUNDREDS = ["", "ciento", "doscientos", "trescientos", "cuatrocientos", "quinientos", "seiscientos", "setecientos",
            "ochocientos", "novecientos"]  # fmt: skip


def in_words(number: int) -> str:
    """A number from 0 to 9999 in Spanish."""
    if number < 30:
        return BELOW_30[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return f"{TENS[tens]} y {BELOW_30[rest]}" if rest else TENS[tens]
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{HUNDREDS[hundreds]} {in_words(rest)}" if rest else "cien" if hundreds == 1 else HUNDREDS[hundreds]
    thousands, rest = divmod(number, 1000)
    head = "mil" if thousands == 1 else f"{BELOW_30[thousands]} mil"
    return f"{head} {in_words(rest)}" if rest else head


def measure(photos: Photos, unseen: set[str], pretrained: Path, folder: Path) -> dict[str, Any]:
    """The scores of each variant, with the backbone that the run `pretrained` left."""
    model, corpus = sizes(pretrained), folder / "corpus"
    if not corpus.is_dir():
        with replacing_folder(corpus) as partial:
            write_corpus(photos, unseen, partial, model["model.image_size"])
    start = start_on({"hand_r": pretrained / "backbone.pt"}, folder / "backbone.pt")
    fixed = [word for key, value in model.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    results = {}
    for name, flags in VARIANTS.items():
        words = [*fixed, *flags, *(["--init-checkpoint", str(start)] if name.startswith("pre-trained") else [])]
        results[name] = train_and_score(CONFIG, corpus, folder / name.replace(", ", "-"), words)
    return results


def write_corpus(photos: Photos, unseen: set[str], folder: Path, size: int) -> None:
    """Clips of hand_r: each a signer's photos that spell a number, every digit held for some frames.

    Clips of the test split show `unseen` signers and numbers that no other clip has.
    """
    rng = np.random.default_rng(0)
    numbers = rng.permutation(np.arange(10, 10_000))
    parts = {"test": numbers[:1500], "val": numbers[1500:2000], "train": numbers[2000:]}
    frames = folder / "hand_r"
    frames.mkdir(parents=True)
    (folder / "index").mkdir()
    rows = []
    for split, count in CLIPS.items():
        signers = sorted(name for name in photos if (name in unseen) == (split == "test"))
        ids = [f"{split}_{number:05d}" for number in range(count)]
        for clip in tqdm(ids, desc=f"numbers, {split}", unit="clip"):
            digits, chosen = "", photos[signers[0]]
            while not digits or not set(digits) <= set(chosen):  # not every signer has a photo of every digit
                digits, chosen = _drawn(rng, parts[split]), photos[signers[rng.integers(len(signers))]]
            _write_clip(frames / clip, [chosen[digit] for digit in digits], size, rng)
            rows.append((clip, in_words(int(digits))))
        (folder / "index" / f"{split}.csv").write_text("\n".join(["video_id", *ids]) + "\n", encoding="utf-8")
    with (folder / "meta.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=";", lineterminator="\n").writerows([("id", "texto"), *rows])


def _drawn(rng: np.random.Generator, numbers: np.ndarray) -> str:
    """A number's digits: two, three and four of them are equally likely, as far as the split has such numbers."""
    length = int(rng.integers(2, 5))
    return str(rng.choice(numbers[(numbers >= 10 ** (length - 1)) & (numbers < 10**length)]))


def _write_clip(prefix: Path, digits: Sequence[Sequence[Path]], size: int, rng: np.random.Generator) -> None:
    number, light = 0, 1 + rng.uniform(-LIGHT, LIGHT)
    for photos in digits:
        with Image.open(photos[int(rng.integers(len(photos)))]) as file:
            photo = file.convert("RGB")
        for _ in range(rng.integers(HELD[0], HELD[1] + 1)):
            room = SHIFT * np.array(photo.size)
            left, top = room * rng.uniform(0, 1, 2)
            box = (left, top, left + photo.width - room[0], top + photo.height - room[1])
            pixels = np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC, box=box), np.float32)
            pixels *= light + rng.uniform(-LIGHT, LIGHT) / 4
            frame = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            frame.save(prefix.with_name(f"{prefix.name}_f{number:06d}.png"), compress_level=1)
            number += 1
