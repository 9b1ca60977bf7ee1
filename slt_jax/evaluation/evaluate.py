"""An evaluation from top to bottom: checkpoints, clips, translations, scores, reports."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from slt_jax.base.console import Progress, say
from slt_jax.base.files import write_json
from slt_jax.data.augment import prepare
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import Scoring, choose_scoring
from slt_jax.decoding.translate import BatchDecoder, translate
from slt_jax.errors import UserError
from slt_jax.evaluation.card import check_place, read_compared, write_card
from slt_jax.evaluation.checkpoints import Candidate, open_candidates
from slt_jax.evaluation.clip_selection import EvaluationClips, batch_rows, bucket_loader, length_buckets, open_clips
from slt_jax.evaluation.page import write_page
from slt_jax.evaluation.report import aggregate, checkpoint_report, write_predictions, write_report_csv
from slt_jax.evaluation.request import EvaluationRequest
from slt_jax.models.params import Params, Structure
from slt_jax.runtime.precision import use_precision
from slt_jax.runtime.sharding import check_batch_size, device_mesh, replicated
from slt_jax.training.memory import suit_heap


def evaluate(request: EvaluationRequest) -> dict[str, Any]:
    """Translate the clips of the index with every checkpoint, write the reports and return that of report.json.

    Raises UserError before anything is compiled, except for images that are damaged in the middle: they are only found
    when they are read.
    """
    # --- the checkpoints and the clips; what is wrong is reported here ------------------------------------------------
    candidates = open_candidates(request)
    first = candidates[0]
    mesh = device_mesh()
    for candidate in candidates:
        check_batch_size("--batch-size", candidate.batch_size, mesh)
    split = open_clips(request.eval_index, first.data, first.model.pose_landmarks, first.model.streams)
    scoring = choose_scoring((clip.text for clip in split.clips), request.bleu_tokenize)
    groups = split.groups(request.split_by) if request.split_by else {}
    say(
        f"{counted(len(split.clips), 'clip')}, {counted(len(candidates), 'checkpoint')}, "
        f"{mesh.size} x {jax.devices()[0].device_kind}"
    )
    if note := scoring.note():
        say(note)
    if request.card is not None:
        check_place(request.card)
    if request.compare is not None and not split.skipped:  # before anything is translated
        read_compared(request.compare, [(clip.video_id, clip.text, "") for clip in split.clips])

    # --- translations -------------------------------------------------------------------------------------------------
    results: dict[str, list[Prediction]] = {}
    checkpoints = []
    for candidate in candidates:
        predictions, skipped, compile_seconds = translate_split(candidate, split, mesh)
        predictions = [dataclasses.replace(p, group=groups.get(p.video_id)) for p in predictions]
        name = request.output_csv.name
        if len(candidates) > 1:
            name = f"{request.output_csv.stem}__{candidate.label}{request.output_csv.suffix}"
        write_predictions(request.output_csv.with_name(name), predictions)
        results[candidate.label] = predictions
        told = {"predictions": name, "compile_seconds": round(compile_seconds, 3), "skipped": skipped}
        languages = request.bleu_tokenize if (request.split_by or "").strip().lower() == "lang" else None
        checkpoints.append(_facts(candidate) | checkpoint_report(predictions, scoring, languages=languages) | told)

    # --- reports ------------------------------------------------------------------------------------------------------
    report = {
        "aggregate": aggregate(checkpoints),
        "checkpoints": checkpoints,
        "eval_index": str(request.eval_index),
        "split_by": request.split_by,
        "devices": f"{mesh.size} x {jax.devices()[0].device_kind}",
    }
    folder = request.output_csv.parent
    write_json(folder / "report.json", report)
    write_report_csv(folder / "report.csv", report)
    curves = {candidate.label: candidate.curves() for candidate in candidates}
    title = f"Evaluation of {request.eval_index.name}"
    write_page(folder / "report.html", title=title, report=report, results=results, files=split.files, curves=curves)
    if request.card is not None:
        _write_card(request, first, split, results[first.label], scoring, checkpoints[0])
    return report


def _write_card(
    request: EvaluationRequest,
    candidate: Candidate,
    split: EvaluationClips,
    predictions: Sequence[Prediction],
    scoring: Scoring,
    told: Mapping[str, Any],
) -> None:
    """The folder of a result that others can check; see card.py."""
    assert request.card is not None
    facts = {
        "label": candidate.label,
        "index": request.eval_index.name,
        "settings": told["settings"],
        "skipped": told["skipped"],
        "configuration": json.loads(json.dumps(candidate.checkpoint.config, default=str)),
    }
    files = {
        "weights": candidate.checkpoint.path,
        "index": request.eval_index,
        "metadata": Path(str(candidate.data.metadata_csv)),
    }
    languages = sorted({clip.lang for clip in split.clips})
    write_card(request.card, predictions, scoring, facts, files, languages=languages, compare=request.compare)


def _facts(candidate: Candidate) -> dict[str, Any]:
    """What a checkpoint is, and how its texts were searched for."""
    search, data = candidate.search, candidate.data
    settings = {
        "num_beams": search.num_beams,
        "max_length": search.max_length,
        "min_length": search.min_length,
        "precision": data.precision,
        "batch_size": candidate.batch_size,
        "v9_hand_masks": data.v9_hand_masks,
    }
    epoch = candidate.checkpoint.rest.get("epoch")
    return {"checkpoint": str(candidate.path), "label": candidate.label, "epoch": epoch, "settings": settings}


def translate_split(
    candidate: Candidate, split: EvaluationClips, mesh: Mesh
) -> tuple[list[Prediction], dict[str, str], float]:
    """One checkpoint's translations in the order of the index, the unreadable clips, and seconds of compilation."""
    use_precision(candidate.data.precision)
    suit_heap(candidate.model, candidate.batch_size)
    params = jax.device_put(candidate.params(), replicated(mesh))
    batches = BatchDecoder(
        partial(_encode, candidate.structure, params),
        candidate.structure.merge(params).decoder.model,
        mesh,
        candidate.search,
        candidate.starts([clip.lang for clip in split.clips]),
        warm_up=True,
    )
    buckets = length_buckets(split.frames, candidate.model.sequence_length, candidate.batch_size)
    rows = {length: batch_rows(len(ids), candidate.batch_size, mesh.size) for length, ids in buckets.items()}
    skipped, translated = dict(split.skipped), {}
    total = sum(math.ceil(len(ids) / rows[length]) for length, ids in buckets.items())
    with Progress(candidate.label, total) as progress:
        for length, ids in buckets.items():
            chosen = set(ids)
            clips = [clip for clip in split.clips if clip.video_id in chosen]
            with bucket_loader(
                clips, split.files, candidate.data, candidate.model, length=length, rows=rows[length]
            ) as loader:
                for prediction in translate(loader, batches, candidate.tokenizer, progress=progress):
                    translated[prediction.video_id] = prediction
                skipped |= loader.bad_clips
    if not translated:
        raise UserError(f"{candidate.path}: no clip of the split could be read")
    predictions = [translated[clip.video_id] for clip in split.clips if clip.video_id in translated]
    return predictions, skipped, batches.compile_seconds


def counted(number: int, noun: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


@partial(jax.jit, static_argnums=0)
def _encode(structure: Structure, params: Params, batch: Mapping[str, Array]) -> tuple[Array, Array]:
    """Encoded frames (B, T, d_model) and which of them are real (B, T)."""
    inputs = prepare(batch)
    return structure.merge(params).encoder(inputs), inputs["pad_mask"]
