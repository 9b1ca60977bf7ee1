"""A folder that others can check: scores with their confidence, where they come from, and the hub's card."""

import csv
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import sacrebleu
import yaml

from slt_jax.base.files import sha256
from slt_jax.cli.evaluate import main
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import choose_scoring
from slt_jax.errors import UserError
from slt_jax.evaluation.card import check_card, push_card, write_card

PAIRS = [("hoy vamos a la casa", "hoy vamos a casa"), ("no quiero pan, gracias", "no quiero pan"),
         ("¿dónde está el médico?", "¿dónde está el médico?"), ('dice "sí"\ny se va', "dice sí y va")]  # fmt: skip
ZH = ["你今天想吃什么饭菜", "我的妹妹很喜欢跳舞", "他明天要去北京开会", "这本书是我昨天买的"]
FACTS = {"label": "best", "index": "test.csv", "settings": {"num_beams": 4}, "configuration": {"data": {}}}


def made(folder, pairs=PAIRS, **more):
    predictions = [Prediction(f"v{n}", *pair, latency_ms=1.0, chrf=0.0) for n, pair in enumerate(pairs)]
    weights = folder.parent / "best.pt"
    weights.write_bytes(b"weights")
    scoring = choose_scoring(reference for reference, _ in pairs)
    return write_card(folder, predictions, scoring, FACTS, {"weights": weights}, **more)


def test_scores_are_sacrebleus_with_its_confidence(tmp_path):
    scores = made(tmp_path / "card", languages=["es", ""])
    references, texts = zip(*PAIRS, strict=True)
    wanted = sacrebleu.BLEU().corpus_score(list(texts), [list(references)], n_bootstrap=1000)
    assert scores["scores"]["bleu"] == pytest.approx(wanted.score)
    assert scores["bootstrap"]["bleu"] == {"mean": pytest.approx(wanted._mean), "ci95": pytest.approx(wanted._ci)}
    plus = sacrebleu.CHRF(word_order=2).corpus_score(list(texts), [list(references)]).score
    assert scores["scores"]["chrf_pp"] == pytest.approx(plus)
    assert "|nw:2|" in scores["signatures"]["chrf_pp"]

    header, text = (tmp_path / "card/README.md").read_text(encoding="utf-8").split("---\n")[1:]
    data = yaml.safe_load(header)
    assert (data["language"], data["library_name"]) in (("es", "slt-jax"), (["es"], "slt-jax"))
    metrics = {m["name"]: m["value"] for m in data["model-index"][0]["results"][0]["metrics"]}
    assert metrics["BLEU"] == pytest.approx(wanted.score, abs=1e-4)
    assert set(metrics) == {"BLEU", "chrF", "chrF++", "CER", "WER", "ROUGE-L"}
    assert scores["signatures"]["bleu"] in text
    told = json.loads((tmp_path / "card/provenance.json").read_text())
    assert told["checksums"] == {"weights": sha256(tmp_path / "best.pt")}
    assert told["configuration"] == {"data": {}}
    assert {"python", "jax", "sacrebleu"} <= told["versions"].keys()


def test_a_model_that_says_next_to_nothing_gets_its_card(tmp_path):
    """Of resampled corpora, some then have a chrF of 0."""
    pairs = [("mañana llueve mucho", "xx"), ("hoy hace frío", "xx"), ("buenos días", "xx"), ("gracias", "gr")]
    scores = made(tmp_path / "card", pairs)
    assert 0 < scores["bootstrap"]["chrf"]["mean"] < 20
    check_card(tmp_path / "card")


def test_a_card_is_computed_again_without_a_model(tmp_path, capsys):
    made(tmp_path / "card")
    assert main(["--check", str(tmp_path / "card")]) == 0
    said = capsys.readouterr().out
    assert "the same scores again, of 4 clips: BLEU" in said
    assert "nrefs:1|case:mixed|eff:no|tok:13a" in said


def test_perfect_chinese_scores_100(tmp_path):
    scores = made(tmp_path / "card", [(text, text) for text in ZH], languages=["zh"])
    assert scores["scores"] == pytest.approx(
        {"bleu": 100, "chrf": 100, "chrf_pp": 100, "cer": 0, "wer": 0, "rouge_l": 100}
    )
    assert "|tok:zh|" in scores["signatures"]["bleu"]
    assert check_card(tmp_path / "card")["scores"]["bleu"] == pytest.approx(100)


def test_another_system_is_tested_in_pairs(tmp_path, capsys):
    with open(tmp_path / "other.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video_id", "prediction", "reference", "latency_ms"])
        rows.writerows([f"v{n}", "hoy no", reference, 1.0] for n, (reference, _) in reversed([*enumerate(PAIRS)]))
    scores = made(tmp_path / "card", compare=tmp_path / "other.csv")
    assert scores["paired"]["chrf"]["this"] == pytest.approx(scores["scores"]["chrf"])
    assert scores["paired"]["chrf"]["other"] < 30
    assert scores["paired"]["chrf"]["p_value"] < 0.1
    assert scores["paired"]["bleu"]["this"] == pytest.approx(scores["scores"]["bleu"])
    assert check_card(tmp_path / "card")["paired"]["bleu"] == pytest.approx(scores["paired"]["bleu"])
    text = (tmp_path / "other.csv").read_text(encoding="utf-8")
    for old, new, message in (
        ("v3,", "v9,", r"1 of 4 clips are not in it, such as v3"), ("el médico", "la médica", "v2 has another ref"),
        ("v3,", "v2,", "line 4: repeats the clip v2"), ("prediction", "text", "has no column prediction"),
        ("v0,hoy no", "v0,hoy no,x,1\r\nv7,hoy no", "1 clips of it are not in the index, such as v7"),
    ):  # fmt: skip
        (tmp_path / "wrong.csv").write_text(text.replace(old, new, 1), encoding="utf-8", newline="")
        with pytest.raises(UserError, match=message):
            made(tmp_path / "again", compare=tmp_path / "wrong.csv")
    assert not (tmp_path / "again").exists()


def test_what_was_changed_is_named(tmp_path):
    folder = tmp_path / "card"
    made(folder)
    scores = json.loads((folder / "scores.json").read_text())
    better = scores | {"scores": scores["scores"] | {"bleu": scores["scores"]["bleu"] + 1}}
    (folder / "scores.json").write_text(json.dumps(better))
    with pytest.raises(UserError, match=r"other scores come out: scores\.bleu .* \(again: "):
        check_card(folder)
    (folder / "scores.json").write_text(json.dumps(scores))
    check_card(folder)
    text = (folder / "predictions.csv").read_text(encoding="utf-8")
    (folder / "predictions.csv").write_text(text.replace("hoy vamos a casa", "hoy vamos a la casa"), encoding="utf-8")
    with pytest.raises(UserError, match=r"predictions\.csv is not the file that was scored"):
        check_card(folder)
    (folder / "predictions.csv").unlink()
    with pytest.raises(UserError, match=r"'predictions\.csv' is missing"):
        check_card(folder)
    with pytest.raises(UserError, match=r"has no scores\.json; name a folder that slt-eval --card wrote"):
        check_card(tmp_path)
    (folder / "scores.json").write_text("{}")
    with pytest.raises(UserError, match=r"scores\.json lacks 'bleu_tokens'; it is damaged"):
        check_card(folder)


def test_a_card_takes_the_place_of_a_card_alone(tmp_path):
    made(tmp_path / "card")
    made(tmp_path / "card", PAIRS[:2])
    assert check_card(tmp_path / "card")["clips"] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(UserError, match=r"--card .*mine: holds other files; name a new folder"):
        made(tmp_path / "mine")


def test_flags_that_do_not_fit_are_one_line(tmp_path, capsys):
    assert main(["--push", "me/model"]) == 2
    assert "--push me/model: uploads a card; give --card" in capsys.readouterr().err
    given = ["--eval-index", "i.csv", "--output-csv", str(tmp_path / "p.csv")]
    assert main(["--checkpoint", "a.pt", "b.pt", "--card", str(tmp_path / "c"), *given]) == 2
    assert "is of one checkpoint, and 2 are given" in capsys.readouterr().err
    assert main(["--checkpoint", "a.pt", "--compare", "o.csv", *given]) == 2
    assert "--compare o.csv: stands in a card; give --card too" in capsys.readouterr().err


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files needs."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        if self.server.refuse:
            return self.answer(401, {"error": "Invalid username or password."})
        if "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                     for f in json.loads(body)["files"]]  # fmt: skip
            return self.answer(200, {"files": files})
        address = "https://huggingface.co/me/model"
        return self.answer(200, {"url": address, "commitUrl": f"{address}/commit/1", "commitOid": "1", "name": "model"})

    def do_GET(self):
        self.answer(200, {"id": "me/model", "sha": "0", "siblings": [], "private": False})

    def answer(self, code, content):
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.refuse = [], False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    # As HF_ENDPOINT does in a process that starts with it.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_folder_is_what_is_uploaded(tmp_path, hub, capsys):
    made(tmp_path / "card")
    assert main(["--check", str(tmp_path / "card"), "--push", "me/model"]) == 0
    assert "/me/model" in capsys.readouterr().out
    commit = next(body for path, _, body in hub.seen if "/commit/" in path).decode()
    files = {line["value"]["path"] for line in map(json.loads, commit.splitlines()) if line["key"] == "file"}
    assert files == {"README.md", "predictions.csv", "provenance.json", "scores.json"}
    assert {authorization for _, authorization, _ in hub.seen} == {"Bearer hf_of_the_test"}
    hub.refuse = True
    with pytest.raises(UserError, match=r"--push me/model: .*; .*card is kept\. Log in with `hf auth login`") as error:
        push_card(tmp_path / "card", "me/model")
    assert "\n" not in str(error.value)
