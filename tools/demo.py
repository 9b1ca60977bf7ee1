"""`make demo`: generate a small signing corpus, train a small model on it, show what it learned."""

import sys
from pathlib import Path

from slt_jax.cli.train import main as train
from slt_jax.data.synthetic import contact_sheet, generate

HERE = Path(__file__).resolve().parents[1]


def main() -> int:
    data, run = Path("runs/demo/data"), Path("runs/demo/run")
    print("generating 480 clips of 12 signs by 3 signers; validation sentences are never seen in training", flush=True)
    generate(data, num_train=400, num_val=40, num_test=40, level="small", image_size=56, overwrite=True)
    picture = contact_sheet(data, run.parent / "clips.png", ["train_000000", "train_000001", "train_000002"])
    print(f"three clips to look at: {picture}", flush=True)
    return train([
        "--config", str(HERE / "configs/demo.yml"),
        "--face-dir", f"{data}/face", "--hand-left-dir", f"{data}/hand_l", "--hand-right-dir", f"{data}/hand_r",
        "--pose-dir", f"{data}/pose", "--metadata-csv", f"{data}/meta.csv",
        "--train-index", f"{data}/index/train.csv", "--val-index", f"{data}/index/val.csv",
        "--work-dir", str(run), "--overwrite",
    ])  # fmt: skip


if __name__ == "__main__":  # the generator spawns workers
    sys.exit(main())
