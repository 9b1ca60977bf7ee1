"""The page as a folder for any web server: the model runs in the browser, and no picture leaves it.

The folder has the page's own parts, the model as ONNX in int8, what a program must know of it (`page.json`), its
tokens (`tokens.json`), MediaPipe's models, and two packages of npm in the versions of browser_parts/package-lock.json.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from slt_jax.base.console import say
from slt_jax.base.files import replacing_folder
from slt_jax.base.places import naming
from slt_jax.data.clips import MIN_CONFIDENCE
from slt_jax.data.landmarks import SETS, names
from slt_jax.data.token_table import token_table
from slt_jax.decoding.stream import SURE, UNSPACED
from slt_jax.errors import UserError
from slt_jax.media.settings import ExtractionSettings
from slt_jax.media.task_bundles import BUNDLES, write_bundles
from slt_jax.models.images import IMAGE_MEAN, IMAGE_STD
from slt_jax.serve.translate_video import VideoTranslator, in_language
from slt_jax.streams import HANDS, IMAGES

FACTS = "page.json"
SHARED = ("page.css", "page.js", "draw.js", "texts.js", "icon.svg")
OWN = ("service.js", "local_session.js", "translator.js", "worker.js", "model.js", "stream.js", "motion.js",
       "policies.js", "token_text.js", "detect.js", "finder.js", "hands.js", "crops.js", "extract.js")  # fmt: skip
# In the packages, and how they are called here: some servers know no .mjs.
VENDORED = {
    "@mediapipe/tasks-vision/vision_bundle.mjs": "vision_bundle.js",
    "@mediapipe/tasks-vision/wasm/vision_wasm_internal.js": "vision_wasm_internal.js",
    "@mediapipe/tasks-vision/wasm/vision_wasm_internal.wasm": "vision_wasm_internal.wasm",
    "onnxruntime-web/dist/ort.wasm.min.mjs": "ort.wasm.min.js",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
DETECTORS = "mediapipe"
PACKAGES = ("@mediapipe/tasks-vision", "onnxruntime-web")
GRAPHS = ("frames", "context", "decoder_first", "decoder_step")
CHUNK = 8  # frames that are looked at together
# Nothing is loaded from elsewhere, and nothing can be sent there. WebAssembly needs a word of its own.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'"
)
# What the page of a service says otherwise.
CHANGED = {
    '<meta charset="utf-8">': f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
    ' <a href="docs" data-text="api">For programs: the API</a>': "",
    'data-text="privacy">Your pictures go to this service and nowhere else. It keeps them in memory while it reads '
    "them, writes none to a disk, and forgets them and the text when you leave.": 'data-text="privacyHere">Your '
    "pictures never leave this device: the model runs in this browser, and no picture is sent or stored anywhere.",
}


def check_target(folder: Path) -> None:
    """Raises UserError for a folder that holds something else, and without npm, before anything takes long."""
    with naming(folder):
        foreign = folder.exists() and (
            not folder.is_dir() or (any(folder.iterdir()) and not (folder / FACTS).is_file())
        )
    if foreign:
        raise UserError(f"--static {folder}: is no page that slt-serve wrote; name a new folder")
    if shutil.which("npm") is None:
        raise UserError("--static: needs npm, which brings the packages that run in the browser; install Node.js")


def write_static_page(
    folder: Path, model: VideoTranslator, settings: ExtractionSettings, *, name: str, languages: Sequence[str],
    checkpoint: str, export: Callable[[Path, Path], None],
) -> None:  # fmt: skip
    """Write the folder, complete or not at all.

    `export` writes the graphs beside the path of an encoder, in a folder that will be at the second path. Raises
    UserError for what cannot be shown, and where npm cannot bring the packages.
    """
    facts = facts_of(model, settings, name=name, languages=languages)
    table = token_table(model.tokenizer, f"of {checkpoint}")
    with replacing_folder(folder) as partial:
        say("bringing the packages of the page by npm")
        bring_packages(partial / "vendor")
        # MediaPipe's JavaScript misreads the face mesh of the Python package; faces are then found by the pose's head.
        facts["face_mesh"] = not bring_detectors(partial / DETECTORS, folder / DETECTORS)
        export(partial / "model" / "encoder.onnx", folder / "model")
        for part, content in parts().items():
            (partial / part).write_bytes(content)
        for part, value in ((FACTS, facts), ("tokens.json", table)):
            (partial / part).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    say(f"{folder}: written, {size / 1e6:.1f} MB, for any web server")


def parts() -> dict[str, bytes]:
    """The page's files by their names, but for the model and the packages."""
    serve = package_files("slt_jax.serve")
    page = (serve / "page_parts" / "page.html").read_text(encoding="utf-8")
    for old, new in CHANGED.items():
        if old not in page:
            raise ValueError(f"page.html no longer has {old}")
        page = page.replace(old, new)
    return (
        {"index.html": page.encode()}
        | {part: (serve / "page_parts" / part).read_bytes() for part in SHARED}
        | {part: (serve / "browser_parts" / part).read_bytes() for part in OWN}
    )


def facts_of(
    model: VideoTranslator, settings: ExtractionSettings, *, name: str, languages: Sequence[str]
) -> dict[str, Any]:
    """What a program must know of the model and of how its streams are cut out. No path of this machine is in it."""
    config, fps = model.translator.config, settings.rate(None)
    decoder: Mapping[str, Any] = model.translator.structure.merge(model.translator.params).decoder.model.config
    spoken = {"": model} | {language: in_language(model, language) for language in languages}
    if languages:
        spoken[""] = spoken[languages[0]]
    search = spoken[""].search.resolved(decoder)
    points = names(settings.landmarks)
    return {
        "version": 1,
        "name": name,
        "fps": fps,
        "chunk": CHUNK,
        "sequence_length": config.sequence_length,
        "image_size": config.image_size,
        "languages": list(languages),
        "language": next(iter(languages), None),
        "starts": {language: _start(one, decoder) for language, one in spoken.items()},
        "generation": {
            "eos_token_id": list(search.eos), "forced_eos_token_id": list(search.forced_eos),
            "no_repeat_ngram_size": search.no_repeat_ngram_size, "min_length": search.min_length,
            "max_length": search.max_length,
        },
        "images": {stream.name: {"mean": IMAGE_MEAN, "std": IMAGE_STD, "mask": stream.mask,
                                 "hidden": model.v9_hand_masks and stream in HANDS,
                                 "smoothing": stream.crop.smoothing} for stream in IMAGES},
        "points": points,
        "landmarks": SETS[settings.landmarks],
        "sure": MIN_CONFIDENCE,
        "sure_words": SURE,
        "unspaced": UNSPACED,
        "pose": settings.pose, "crop_size": settings.crop_size, "min_confidence": settings.min_confidence,
        "face_blur": settings.face_blur, "mirrored": settings.mirrored, "signer_box": settings.signer_box,
        "files": {graph: f"model/{graph}.onnx" for graph in GRAPHS},
    }  # fmt: skip


def _start(model: VideoTranslator, decoder: Mapping[str, Any]) -> dict[str, Any]:
    """The token that texts start from, and those that they say first."""
    search = model.search.resolved(decoder)
    first, prompt = search.start, [] if search.forced_bos is None else [search.forced_bos]
    if model.start is not None:
        first = int(model.start.first[0]) if model.start.first[0] >= 0 else first
        prompt = [int(token) for token in model.start.forced[0] if token >= 0]
    return {"first": first, "prompt": prompt}


def bring_detectors(folder: Path, shown: Path) -> bool:
    """Put MediaPipe's models into `folder`, or tell that they belong into `shown`; whether they are there."""
    try:
        write_bundles(folder)
        return True
    except UserError as reason:
        say(f"note: put {' and '.join(BUNDLES)} into {shown}; the page needs them ({reason})")
        return False


def bring_packages(folder: Path) -> None:
    """Put the files of the packages that the page needs into `folder`. Raises UserError where npm cannot."""
    folder.mkdir(parents=True)
    own = package_files("slt_jax.serve") / "browser_parts"
    with tempfile.TemporaryDirectory(prefix="slt-npm-") as temporary:
        for name in ("package.json", "package-lock.json"):
            (Path(temporary) / name).write_bytes((own / name).read_bytes())
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error"]
        done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, check=False)
        modules = Path(temporary) / "node_modules"
        if done.returncode:
            told = [line.removeprefix("npm error ") for line in done.stderr.splitlines() if line.strip()]
            raise UserError(f"--static: npm cannot bring the packages ({told[0] if told else done.returncode})")
        for source, target in VENDORED.items():
            shutil.copyfile(modules / source, folder / target)
        known = [json.loads((modules / name / "package.json").read_text(encoding="utf-8")) for name in PACKAGES]
        listed = [{key: one[key] for key in ("name", "version", "license")} for one in known]
        (folder / "packages.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
