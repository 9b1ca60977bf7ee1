"""`make demo`: generate a small signing corpus, train a small model on it, translate sentences it has never seen."""

import csv
import json
import sys
from pathlib import Path

from slt_jax.cli.command import run
from slt_jax.cli.evaluate import main as evaluate
from slt_jax.cli.train import main as train
from slt_jax.synthetic.contact_sheet import contact_sheet
from slt_jax.synthetic.generator import generate

CONFIG = Path(__file__).resolve().parents[1] / "configs/demo.yml"
SHOWN = 5


def main() -> int:
    """Exit codes: 0 done, 2 a mistake in the input, such as a full disk."""
    return run("demo", lambda _: demo(), None)


def demo() -> int:
    data, work_dir = Path("runs/demo/data"), Path("runs/demo/run")
    print("generating 1,080 clips of 12 signs by 3 signers; no sentence of the test clips is in the others", flush=True)
    generate(data, num_train=1000, num_val=40, num_test=40, level="small", image_size=28, overwrite=True)
    code = train([
        "--config", str(CONFIG), "--root", str(data), "--work-dir", str(work_dir), "--overwrite",
    ])  # fmt: skip
    if code:
        return code
    predictions = work_dir / "test" / "predictions.csv"
    print("\ntest clips, whose sentences the model has never seen:")
    code = evaluate([
        "--checkpoint", str(work_dir / "last.pt"), "--root", str(data), "--eval-index", f"{data}/index/test.csv",
        "--output-csv", str(predictions),
    ])  # fmt: skip
    return code or show(predictions, data, work_dir.parent / "clips.png")


def show(predictions: Path, data: Path, picture: Path) -> int:
    """The first sentences and their translations as they come, all clips' BLEU, and a picture of these clips."""
    with predictions.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:SHOWN]
    scores = json.loads((predictions.parent / "report.json").read_text(encoding="utf-8"))["checkpoints"][0]["metrics"]
    print()
    for row in rows:
        print(f"  {row['video_id']}\n    reference:   {row['reference']}\n    translation: {row['prediction']}")
    contact_sheet(data, picture, [row["video_id"] for row in rows])
    print(f"\nBLEU {scores['bleu']:.1f}, chrF {scores['chrf']:.1f} on {data}/index/test.csv; these clips: {picture}")
    return 0


if __name__ == "__main__":  # the generator spawns workers
    sys.exit(main())
