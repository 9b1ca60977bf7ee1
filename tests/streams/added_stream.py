"""What a stream goes through, from video to exported encoder: run with a table of streams that has a row more.

test_added_stream.py starts it in a process of its own, where `slt_jax` is a copy with the changed table.
"""

import json
import sys
from pathlib import Path

from slt_jax.cli.convert import main as convert
from slt_jax.cli.export import main as export
from slt_jax.cli.pack_dataset import main as pack
from slt_jax.cli.train import main as train
from slt_jax.cli.view_clip import main as view
from slt_jax.media.extract_many import extract_videos
from slt_jax.media.jobs import find_videos
from slt_jax.media.settings import ExtractionSettings
from tests.media.synthetic import SquareDetector, signing, write_video

BACKBONE = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 28}
TINY = {
    "image_size": 28, "sequence_length": 4, "projector_dim": 24, "d_model": 16, "temporal_nhead": 2,
    "temporal_layers": 1, "temporal_dim_feedforward": 16, "decoder_layers": 1, "decoder_heads": 2, "backbone": BACKBONE,
}  # fmt: skip


def main(folder: Path) -> None:
    """Leave in `folder` what each command wrote; two steps are trained on two clips."""
    corpus, run = folder / "corpus", folder / "run"
    for name in ("a", "b", "c"):
        write_video(folder / "videos" / f"{name}.mp4", signing(5))
    settings = ExtractionSettings(crop_size=28)
    jobs = find_videos(folder / "videos")
    extract_videos(jobs, corpus, settings, 0, progress=False, make_detector=SquareDetector)
    (corpus / "index").mkdir()
    (corpus / "meta.csv").write_text("id;text\na;uno dos\nb;dos tres\nc;uno tres\n")
    (corpus / "index" / "train.csv").write_text("video_id\na\nb\n")
    (corpus / "index" / "val.csv").write_text("video_id\nc\n")
    (folder / "model.json").write_text(json.dumps({"model": TINY}))
    commands = (
        (pack, "write", "--root", corpus, "--output", folder / "pack"),
        (train, "--config", folder / "model.json", "--root", corpus, "--packs", folder / "pack", "--work-dir", run,
         "--epochs", "1", "--batch-size", "1", "--max-target-length", "8", "--device", "cpu", "--mix-stream", "body",
         "--flip-probability", "1"),
        (convert, "to-torch", run, folder / "weights.pt", "--weights-only"),
        (convert, "inspect", folder / "weights.pt"),
        (export, "--checkpoint", run, "--onnx", folder / "encoder.onnx"),
        (view, "a", "--root", corpus, "--output", folder / "sheet.png"),
        (view, "a", "--root", corpus, "--output", folder / "film.gif"),
    )  # fmt: skip
    for command, *arguments in commands:
        print(f"== {command.__module__}", flush=True)
        if code := command([str(argument) for argument in arguments]):
            raise SystemExit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
