"""`slt-eval`, also `python tools/eval_slt_multistream_v9.py`: v9's command line."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slt_jax.cli import flags
from slt_jax.cli.command import choose_device, keep_compiled_programs, run
from slt_jax.config import DataConfig
from slt_jax.data.corpus_folder import FOLDERS
from slt_jax.errors import UserError
from slt_jax.evaluation.request import REPORTS, EvaluationRequest, merge_settings

ROOT_KEYS = (*FOLDERS, "metadata_csv")  # what --root stands for
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
COLUMNS = {
    "BLEU": "bleu", "chrF": "chrf", "chrF++": "chrf_pp", "CER": "cer", "WER": "wer", "ROUGE-L": "rouge_l",
    "ms/clip": "avg_latency_ms", "std": "std_latency_ms", "p50": "p50_latency_ms", "p95": "p95_latency_ms",
    "min": "min_latency_ms", "max": "max_latency_ms",
}  # fmt: skip


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """What to evaluate, and every data and model key as a flag."""
    top = flags.command_parser(
        "slt-eval",
        "Translate the clips of an index and score the translations. Model settings come from the checkpoint, and what "
        "is not given of the data too; --set wins over flags, flags over --config.",
    )
    top.add_argument(
        "--checkpoint",
        metavar="PT",
        nargs="+",
        action="extend",
        help="one or several .pt files, work-dirs (their best weights) or folders of saved states",
    )
    top.add_argument("--eval-index", metavar="CSV", help="the clips' ids")
    flags.add_root_flag(top, ROOT_KEYS)
    top.add_argument(
        "--output-csv",
        metavar="CSV",
        help="the predictions; report.json, report.csv and report.html are written beside it",
    )
    top.add_argument("--num-beams", type=int, metavar="INT", help="beams of the search (default: 1, greedy)")
    top.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="INT",
        help="longest translation in tokens (default: --max-target-length with the start token)",
    )
    top.add_argument(
        "--bleu-tokenize", metavar="NAME",
        help="sacrebleu's tokeniser: 13a, zh, ja-mecab, char, ... (default: 13a, or one for texts without spaces)",
    )  # fmt: skip
    top.add_argument("--split-by", metavar="COLUMN", help="also score each value of a column of the metadata")
    top.add_argument(
        "--card", metavar="DIR", help="also write a folder that others can check: predictions, scores, ..."
    )
    top.add_argument("--compare", metavar="CSV", help="in the card: a paired test against another system's predictions")
    top.add_argument("--check", metavar="DIR", help="only compute the scores of such a folder again, without a model")
    top.add_argument("--push", metavar="REPO", help="upload the folder of --card or --check to HuggingFace's hub")
    top.add_argument("--log-level", type=str.upper, choices=LOG_LEVELS, help="(default: WARNING)")
    flags.add_trust_flag(top)
    flags.add_config_flags(top, ("data", "model"))
    return flags.parse(top, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 a mistake in the input, 130 stopped by Ctrl-C."""
    return run("slt-eval", _evaluate, argv)


def _evaluate(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    logging.getLogger().setLevel(getattr(arguments, "log_level", "WARNING"))
    if not hasattr(arguments, "card") and not hasattr(arguments, "check") and hasattr(arguments, "push"):
        raise UserError(f"--push {arguments.push}: uploads a card; give --card, or --check for one that is there")
    if hasattr(arguments, "check"):
        return _check(Path(arguments.check), getattr(arguments, "push", None))
    for flag in ("checkpoint", "eval_index", "output_csv"):
        if not getattr(arguments, flag, None):
            raise UserError(f"--{flag.replace('_', '-')} is not given")
    data, model = merge_settings(
        getattr(arguments, "config", None), flags.config_flags(arguments, ROOT_KEYS), getattr(arguments, "set", [])
    )
    request = EvaluationRequest(
        checkpoints=tuple(map(Path, arguments.checkpoint)),
        eval_index=Path(arguments.eval_index),
        output_csv=Path(arguments.output_csv),
        data=data,
        model=model,
        num_beams=getattr(arguments, "num_beams", 1),
        max_new_tokens=getattr(arguments, "max_new_tokens", None),
        split_by=getattr(arguments, "split_by", None),
        bleu_tokenize=getattr(arguments, "bleu_tokenize", "auto"),
        trust_classes=arguments.trust_classes,
        card=Path(arguments.card) if hasattr(arguments, "card") else None,
        compare=Path(arguments.compare) if hasattr(arguments, "compare") else None,
    )
    choose_device(data.get("device", DataConfig.device))
    keep_compiled_programs()
    from slt_jax.evaluation.evaluate import evaluate

    try:
        report = evaluate(request)
    except KeyboardInterrupt:
        print("slt-eval: interrupted; predictions of finished checkpoints are kept", file=sys.stderr)
        return 130
    folder = request.output_csv.parent
    written = [*(checkpoint["predictions"] for checkpoint in report["checkpoints"]), *REPORTS]
    print("\n".join(table(report)))
    print(f"written: {', '.join(str(folder / name) for name in written)}")
    if request.card is not None:
        print(f"written: {request.card}, which slt-eval --check computes again")
        _push(request.card, getattr(arguments, "push", None))
    return 0


def _check(folder: Path, repository: str | None) -> int:
    from slt_jax.evaluation.card import check_card

    found = check_card(folder)
    scores = ", ".join(f"{name} {found['scores'][key]:.2f}" for name, key in COLUMNS.items() if key in found["scores"])
    print(f"{folder}: the same scores again, of {found['clips']} clips: {scores}")
    print(f"BLEU {found['signatures']['bleu']}")
    _push(folder, repository)
    return 0


def _push(folder: Path, repository: str | None) -> None:
    if repository is not None:
        from slt_jax.evaluation.card import push_card

        print(f"uploaded: {push_card(folder, repository)}")


def table(report: Mapping[str, Any]) -> list[str]:
    """A line per checkpoint and per group, and for several checkpoints their mean and standard deviation."""
    rows = [("", "clips", *_columns(report["checkpoints"][0].get("signatures", {})))]
    for checkpoint in report["checkpoints"]:
        rows.append(_row(checkpoint["label"], checkpoint["clips"], checkpoint["metrics"]))
        rows += [_row(f"  {name}", group["clips"], group) for name, group in checkpoint["groups"].items()]
    if len(report["checkpoints"]) > 1:
        for kind in ("mean", "std"):
            rows.append(_row(kind, "", {key: values[kind] for key, values in report["aggregate"].items()}))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    seconds = sum(checkpoint["compile_seconds"] for checkpoint in report["checkpoints"])
    return [*lines, f"compiled in {seconds:.1f} s, which is not part of the times per clip"]


def _columns(signatures: Mapping[str, str]) -> list[str]:
    """The names of the columns, which say so where texts without spaces are counted otherwise."""
    tokens = signatures.get("bleu", "").partition("|tok:")[2].partition("|")[0]
    names = {"BLEU": f"BLEU ({tokens})"} if tokens not in ("", "13a") else {}
    if signatures.get("words") == "characters":
        names |= {"WER": "WER (characters)", "ROUGE-L": "ROUGE-L (characters)"}
    return [names.get(name, name) for name in COLUMNS]


def _row(name: str, clips: int | str, values: Mapping[str, float]) -> tuple[str, ...]:
    return (name, str(clips), *(f"{values[key]:.2f}" if key in values else "" for key in COLUMNS.values()))


if __name__ == "__main__":
    sys.exit(main())
