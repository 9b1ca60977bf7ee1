"""The text of a model card, with the metadata that HuggingFace's hub reads."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {"bleu": "BLEU", "chrf": "chrF", "chrf_pp": "chrF++", "cer": "CER", "wer": "WER", "rouge_l": "ROUGE-L"}
TYPES = {"chrf_pp": "chrf", "rouge_l": "rouge"}  # the hub's names of metrics, where they differ from ours


def model_card(scores: Mapping[str, Any], provenance: Mapping[str, Any], languages: Sequence[str]) -> str:
    """README.md: metadata in YAML, a table of scores, and how to compute them again."""
    from huggingface_hub import EvalResult, ModelCardData

    name, index = provenance["label"], provenance["index"]
    results = [
        EvalResult(
            task_type="translation", task_name="Sign language translation", dataset_type=index, dataset_name=index,
            metric_type=TYPES.get(key, key), metric_name=NAMES[key], metric_value=round(value, 4),
        )
        for key, value in scores["scores"].items()
    ]  # fmt: skip
    codes = sorted({code for code in languages if re.fullmatch(r"[a-z]{2,3}", code)})
    data = ModelCardData(
        language=codes or None,
        library_name="slt-jax",
        tags=["sign-language-translation"],
        model_name=name,
        eval_results=results,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_body(name, scores, provenance)}"


def _body(name: str, scores: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    lines = [
        f"# {name}", "",
        f"Sign language translation by slt_jax, scored on the {scores['clips']} clips of `{provenance['index']}`.", "",
        "| metric | score | 95 % by bootstrap | signature |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for key, value in scores["scores"].items():
        known = scores["bootstrap"].get(key)
        interval = f"{known['mean']:.2f} ± {known['ci95']:.2f}" if known else ""
        words = "" if key in ("bleu", "chrf", "chrf_pp") else _counted(key, scores["words"])
        signature = f"`{scores['signatures'][key]}`" if key in scores["signatures"] else words
        lines.append(f"| {NAMES[key]} | {value:.2f} | {interval} | {signature} |")
    if paired := scores.get("paired"):
        lines += ["", "Against the predictions in `compared.csv` (paired bootstrap):", "",
                  "| metric | other | this | p |", "| --- | --- | --- | --- |"]  # fmt: skip
        lines += [
            f"| {NAMES[key]} | {row['other']:.2f} | {row['this']:.2f} | {row['p_value']:.4f} |"
            for key, row in paired.items()
        ]
    lines += [
        "", "Texts are compared in NFC. `slt-eval --check .` in this folder computes this again from the predictions,",
        "without the model. `provenance.json` has checksums of weights, index and metadata, and the configuration.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _counted(key: str, words: str) -> str:
    if key == "cer":
        return "characters"
    return "words" if words == "whitespace" else "characters"
