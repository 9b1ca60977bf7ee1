"""The generated corpus on backbones that were pre-trained on its crops, and on random ones."""

from pathlib import Path
from typing import Any

from slt_jax.synthetic.generator import MARKER, generate
from tools.benchmarks.learning import CONFIG, IMAGE_SIZE, train_and_score
from tools.benchmarks.on_backbones import pretrain, start_on

PRETRAINING = CONFIG.with_name("pretrain_signs.yml")
TRAIN, VAL, TEST = 4000, 100, 400  # clips; docs/learning.md has 16,000
STREAMS = {"face": ("face",), "hands": ("hand_l", "hand_r")}


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """BLEU, chrF and exact translations after a quarter of the steps of docs/learning.md, on a quarter of its clips."""
    corpus = folder / "corpus"
    if not (corpus / MARKER).is_file():
        generate(corpus, num_train=TRAIN, num_val=VAL, num_test=TEST, image_size=IMAGE_SIZE)
    backbones: dict[str, Path] = {}
    for kind, streams in STREAMS.items():
        output = folder / f"dino-{kind}"
        words = ["--config", str(PRETRAINING), "--train-dir", str(corpus), "--stream", kind]
        pretrain(output, words)
        backbones |= dict.fromkeys(streams, output / "backbone.pt")
    start = start_on(backbones, folder / "backbones.pt")
    return {
        name: train_and_score(CONFIG, corpus, folder / name, words)
        for name, words in {"pre-trained": ["--init-checkpoint", str(start)], "random": []}.items()
    }
