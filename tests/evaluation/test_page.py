"""report.html: complete in itself, bounded, safe with any text, and it works in a browser where there is one."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from slt_jax.data.clip_files import ClipFiles, scan
from slt_jax.data.corpus_folder import folders_under
from slt_jax.decoding.results import Prediction
from slt_jax.evaluation import page
from slt_jax.evaluation.page import extremes, write_page
from slt_jax.synthetic.generator import generate

NASTY = "¿Dónde está </script><script>alert('ñ')</script> & <b>la niña</b>?"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, ClipFiles]:
    root = tmp_path_factory.mktemp("page") / "clips"
    generate(
        root,
        num_train=0,
        num_val=0,
        num_test=4,
        seed=2,
        level="small",
        frames=(4, 6),
        image_size=28,
        workers=0,
        progress=False,
    )
    found = scan(folders_under(root),
                 [f"test_{n:06d}" for n in range(4)])  # fmt: skip
    return {f"clip_{n}": clip for n, clip in enumerate(found.values())}


def predictions(*scores: float, text: str = "la casa es grande", group: str | None = None) -> list[Prediction]:
    return [
        Prediction(f"clip_{n}", text, f"la {n} casa", 10.0 + n, score, group) for n, score in enumerate(scores)
    ]  # fmt: skip


def report(*labels: str, groups: dict | None = None) -> dict:
    metrics = {"bleu": 12.3456, "chrf": 34.5, "cer": 50.0, "wer": 60.0, "rouge_l": 70.0, "avg_latency_ms": 11.0,
               "p50_latency_ms": 10.5, "p95_latency_ms": 12.0}  # fmt: skip
    return {
        "aggregate": {name: {"mean": value, "std": 0.0, "min": value, "max": value, "count": len(labels)}
                      for name, value in metrics.items()},
        "checkpoints": [
            {"label": label, "checkpoint": f"runs/{label}.pt", "epoch": 2, "metrics": metrics, "groups": groups or {},
             "settings": {"num_beams": 4, "precision": "float32"}, "skipped": {}}
            for label in labels
        ],
        "split_by": "signer" if groups else None, "devices": "1 x cpu",
    }  # fmt: skip


def curve(epochs: int = 3) -> list[dict]:
    return [{"epoch": n, "train_loss": 3.0 / n, "val_loss": float("nan") if n == 2 else 2.0 / n, "lr": 1e-3}
            for n in range(1, epochs + 1)]  # fmt: skip


def written(path: Path, results, files, *, title="Evaluation", curves=None, **more) -> tuple[str, dict]:
    """The page, and the data in it."""
    write_page(path, title=title, report=report(*results, **more), results=results, files=files, curves=curves or {})
    text = path.read_text(encoding="utf-8")
    return text, json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


class References(HTMLParser):
    """All that an element asks a browser to fetch."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def test_it_asks_for_nothing(files, tmp_path):
    text, _ = written(tmp_path / "report.html", {"best": predictions(10, 90, 50, 20)}, files, curves={"best": curve()})
    parser = References()
    parser.feed(text)
    assert parser.found == []
    for word in ("http:", "https:", "//fonts", "@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert word not in text, word
    assert "default-src 'none'" in text
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_any_text_stays_text(files, tmp_path):
    results = {"<best>": predictions(10, 20, text=NASTY, group="<i>Ana</i>")}
    title, groups = "Evaluation of <b>@data@ á.csv", {"<i>Ana</i>": {"clips": 2}}
    text, data = written(tmp_path / "report.html", results, files, title=title, groups=groups)
    assert [clip["reference"] for clip in data["clips"]] == [NASTY, NASTY]
    assert data["clips"][0]["group"] == "<i>Ana</i>"
    assert text.count("</script>") == 2  # the data's own and the script's
    assert "<title>Evaluation of &lt;b&gt;@data@ á.csv</title>" in text
    assert "está" in text


def test_sheets_are_those_of_the_worst_and_the_best(files, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "SHEETS", 3)
    _, data = written(tmp_path / "report.html", {"a": predictions(10, 50, 90, 20)}, files)
    with_sheet = {clip["id"] for clip in data["clips"] if clip["sheet"]}
    assert with_sheet == {"clip_0", "clip_2", "clip_3"}
    width, height, jpeg = data["clips"][0]["sheet"]
    assert width > height > 100
    assert jpeg.startswith("/9j/")  # JPEG in base64


def test_every_checkpoint_has_its_worst_and_best():
    first, second = predictions(10, 50, 90, 20), predictions(70, 5, 30, 99)
    assert list(extremes({"a": first, "b": second})) == ["clip_0", "clip_2", "clip_1", "clip_3"]
    assert list(extremes({})) == []


def test_a_clip_that_cannot_be_drawn_says_why(files, tmp_path):
    damaged = tmp_path / "clip_0.npz"
    damaged.write_bytes(b"PK")
    broken = ClipFiles("clip_0", files["clip_0"].frames, str(damaged))
    _, data = written(tmp_path / "report.html", {"a": predictions(10, 20)}, files | {"clip_0": broken})
    assert "clip_0.npz" in data["clips"][0]["sheet"]
    assert isinstance(data["clips"][1]["sheet"], list)


def test_ten_thousand_clips_give_a_page_of_a_few_megabytes(files, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "SHEETS", 4)
    many = [Prediction(f"clip_{n}", 60 * "a ", 60 * "b ", 12.345678, 1.0) for n in range(10_000)]
    _, data = written(tmp_path / "report.html", {"a": many}, files)
    assert len(data["clips"]) == len(data["checkpoints"][0]["rows"]) == 10_000
    assert (tmp_path / "report.html").stat().st_size < 4e6


def test_curves_of_one_run_are_drawn_once(files, tmp_path):
    results = {"best": predictions(1), "last": predictions(2), "other": predictions(3), "bare": predictions(4)}
    runs = {"best": curve(), "last": curve(), "other": curve(5), "bare": []}
    _, data = written(tmp_path / "report.html", results, files, curves=runs)
    assert [run["labels"] for run in data["curves"]] == [["best", "last"], ["other"]]
    assert data["curves"][0]["records"][1]["val_loss"] is None  # NaN


def test_a_report_may_say_less(files, tmp_path):
    write_page(tmp_path / "a.html", title="t", report={}, results={"a": predictions(3)}, files={}, curves={})
    assert "la casa es grande" in (tmp_path / "a.html").read_text(encoding="utf-8")


PROBE = """<pre id="said"></pre><script>
const all = (what) => [...document.querySelectorAll(what)];
const said = {errors: window.failures};
const ids = () => all("#table tbody td.id").map((cell) => cell.textContent).join(" ");
said.worst = ids();
document.getElementById("best").click();
said.best = ids();
all("[data-column=latency]")[0].click();
said.sorted = ids();
said.aria = all("th[aria-sort=ascending]").map((cell) => cell.textContent).join();
all("[data-column=latency]")[0].click();
said.reversed = ids();
const type = (text) => { const field = document.getElementById("filter"); field.value = text;
  field.dispatchEvent(new Event("input")); };
type("NINA clip_2");
said.filtered = ids();
said.reference = all("td.text")[0].textContent.trim();
said.missed = all("#table del").map((mark) => mark.textContent);
said.made = all("#table ins").map((mark) => mark.textContent);
type("");
said.pictures = all(".sheet img").filter((image) => image.complete || image.width > 100).length;
said.cards = all(".card b").map((card) => card.textContent);
said.panels = all(".panel h3").map((title) => title.textContent);
const drawing = all(".panel svg")[0];
for (let i = 0; i < 3; i++) drawing.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
said.hover = all(".tip")[0].textContent;
all("#checkpoints button")[1].click();
said.second = document.getElementById("facts").textContent;
said.groups = all("#groups tbody th").map((cell) => cell.textContent);
document.getElementById("said").textContent = JSON.stringify(said);
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_in_a_browser(files, tmp_path):
    results = {
        "best": [Prediction(f"clip_{n}", NASTY, "¿Dónde queda la niña</b>?", ms, chrf, "Ana")
                 for n, (ms, chrf) in enumerate(((9.0, 50.0), (7.0, 10.0), (8.0, 90.0)))],
        "last": predictions(1, 2, 3),
    }  # fmt: skip
    path = tmp_path / "report.html"
    text, _ = written(path, results, files, curves={"best": curve()}, groups={"Ana": {"clips": 3, "bleu": 1.0}})
    listener = "<body><script>window.failures = []; window.onerror = (what) => window.failures.push(what)</script>"
    path.write_text(text.replace("<body>", listener).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=3000", "--enable-logging=stderr", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    said = json.loads(html.unescape(re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    assert said["errors"] == []
    assert said["worst"] == "clip_1 clip_0 clip_2"
    assert said["best"] == "clip_2 clip_0 clip_1"
    assert (said["sorted"], said["aria"]) == ("clip_1 clip_2 clip_0", "ms")
    assert said["reversed"] == "clip_0 clip_2 clip_1"
    assert said["filtered"] == "clip_2"
    assert said["reference"] == NASTY
    assert said["missed"] == ["está </script><script>alert('ñ')</script> & <b>la"]
    assert said["made"] == ["queda la"]
    assert said["pictures"] == 3
    assert said["cards"][:2] == ["12.35", "34.50"]
    assert said["panels"] == ["Loss", "Learning rate"]
    assert said["hover"] == "epoch 1train: 3validation: 2"
    assert "runs/last.pt" in said["second"]
    assert "4 beams" in said["second"]
    assert said["groups"] == ["Ana"]
