"""Write a generated signing corpus: python tools/make_synthetic_signs.py OUT_DIR --level small --train 400."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from slt_jax.base.places import check_file
from slt_jax.cli.command import run
from slt_jax.synthetic.contact_sheet import contact_sheet
from slt_jax.synthetic.generator import LEVELS, generate


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 a mistake in the input, 130 stopped by Ctrl-C."""
    return run("make_synthetic_signs", _generate, argv)


def _generate(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("out_dir", type=Path, help="directory to write; appears complete or not at all")
    levels = "small: 12 glosses, short clips; full: 90; hard: 300, spelled names, paths, new signers in the test"
    parser.add_argument("--level", default="full", choices=LEVELS, help=levels)
    parser.add_argument("--train", type=int, default=400, help="clips")
    parser.add_argument("--val", type=int, default=40, help="clips")
    parser.add_argument("--test", type=int, default=40, help="clips")
    parser.add_argument("--frames", type=int, nargs=2, metavar=("LEAST", "MOST"), help="clip length; default: level's")
    parser.add_argument("--image-size", type=int, default=64, help="pixels")
    parser.add_argument("--fps", type=float, default=25, help="frames a second written to meta.csv")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    parser.add_argument("--workers", type=int, help="processes; default: one a core, 0: none")
    parser.add_argument("--overwrite", action="store_true", help="replace a corpus generated before")
    parser.add_argument("--contact-sheet", type=Path, metavar="PNG", help="also draw the first three clips")
    args = parser.parse_args(argv)
    check_file("--contact-sheet", args.contact_sheet)
    summary = generate(
        args.out_dir,
        num_train=args.train,
        num_val=args.val,
        num_test=args.test,
        seed=args.seed,
        level=args.level,
        frames=args.frames and tuple(args.frames),
        image_size=args.image_size,
        fps=args.fps,
        workers=args.workers,
        overwrite=args.overwrite,
    )
    print(
        f"{summary.directory}: {sum(summary.clips.values())} clips, {summary.frames} frames, "
        f"{summary.glosses} glosses, {summary.signers} signers, {summary.seconds:.1f} s, "
        f"{summary.missing_hands:.0%} of the hand crops missing"
    )
    for split, count in summary.clips.items():
        print(f"  {split}: {count} clips of {summary.sentences[split]} sentences")
    if args.contact_sheet:
        print(f"contact sheet: {contact_sheet(args.out_dir, args.contact_sheet)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
