"""The benchmarks of docs/performance.md on a tiny model: both sides compute the same, and the results say so."""

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from slt_jax.cli import flags
from slt_jax.errors import UserError
from tools.benchmarks import attention, opening
from tools.benchmarks.command import main
from tools.benchmarks.problem import add_config_flags, problem
from tools.benchmarks.processes import Side
from tools.benchmarks.step import check_same, of_turns, ours, turn
from tools.benchmarks.timing import Seconds

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
BACKBONE = 'model.backbone={"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 56}'
# Positions are resized, the left hand is frozen; without dropout both sides have the same losses while they train.
TINY = [
    "--device", "cpu", "--precision", "float32", "--batch-size", "2", "--frames", "4", "--image-size", "28",
    "--max-target-length", "9", "--d-model", "32", "--projector-dim", "16", "--temporal-nhead", "4",
    "--temporal-layers", "1", "--temporal-dim-feedforward", "64", "--decoder-layers", "1", "--decoder-heads", "4",
    "--freeze-hand-left-backbone", "--clip-grad-norm", "0.5", "--weight-decay", "0.1", "--set", BACKBONE,
    "--set", "model.vocab_size=50", "--set", "model.temporal_dropout=0", "--set", "model.decoder_dropout=0",
]  # fmt: skip


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """The measured processes find neither simplejpeg nor tensorboardX."""
    for name in ("simplejpeg", "tensorboardX"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not here')")
    monkeypatch.syspath_prepend(tmp_path)


def documented(command: str) -> list[str]:
    """The flags that the guide gives a command."""
    lines = "".join(re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL))
    start = f"python tools/benchmark.py {command} "
    return shlex.split(next(line for line in lines.splitlines() if line.startswith(start)).removeprefix(start))


def benchmark(command: str, tmp_path, *flags: str) -> dict:
    """The results of the guide's command, made small by `flags`."""
    path = tmp_path / "results.json"
    assert main([command, *documented(command), *flags, "--threads", "1", "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    assert results["benchmark"] == command
    assert results["command"].startswith(f"python tools/benchmark.py {command} ")
    assert {"date", "processor", "cores", "load"} <= results["machine"].keys()
    return results


@pytest.mark.slow
def test_step(bare, tmp_path, capsys):
    """Gradients, clipping and AdamW agree, too: else the losses of later steps would part."""
    results = benchmark("step", tmp_path, *TINY, "--rounds", "2", "--steps", "1", "--warm-up", "2")
    assert results["losses"]["torch"] == pytest.approx(results["losses"]["ours"], rel=1e-5)
    ours, theirs = (results["results"][name] for name in ("ours", "torch"))
    assert len(ours["losses"]) == 3
    assert ours["losses"][0] > ours["losses"][1] > ours["losses"][2]
    assert theirs["losses"] == pytest.approx(ours["losses"], rel=1e-5)
    assert {"torch", "transformers", "jax"} <= results["facts"]["versions"].keys()
    operations, seconds = results["facts"]["flops"]["total"], ours["seconds"]
    assert seconds["fastest"] <= seconds["low"] <= seconds["median"] <= seconds["high"]
    assert ours["clips_per_second"] == pytest.approx(2 / seconds["median"])
    assert ours["flops_per_second"] == pytest.approx(2 * operations / seconds["median"])
    assert ours["share_of_matmul_peak"] == ours["flops_per_second"] / results["facts"]["matmul_peak"]
    assert theirs["times_ours"]["median"] == theirs["seconds"]["median"] / seconds["median"]
    shown = capsys.readouterr().out
    assert "GFLOP a clip" in shown
    assert "torch / ours: median" in shown


def test_data(tmp_path, capsys):
    """Three batches of two clips: the first is where time begins."""
    results = benchmark(
        "data", tmp_path, "--clips", "6", "--batch-size", "2", "--frames", "5", "--image-size", "28", "--rounds", "2"
    )
    facts, ours, v9 = results["facts"], results["results"]["ours"], results["results"]["v9"]
    assert facts["clips"] == 4
    assert 4 * 5 < facts["images"] <= 4 * 5 * 3
    assert ours["images_per_cpu_second"] == pytest.approx(facts["images"] / ours["seconds"]["cpu"])
    assert v9["times_ours"]["cpu"] == pytest.approx(ours["images_per_cpu_second"] / v9["images_per_cpu_second"])
    assert "v9 / ours: median" in capsys.readouterr().out


@pytest.mark.slow
def test_opening_many_clips(tmp_path, capsys):
    opening.write_split(tmp_path, 40)
    stages = opening.Opening(str(tmp_path)).run()
    opening.report(40, stages)
    told = capsys.readouterr().out
    assert "40 clips in a pack" in told
    for name in ("metadata", "index", "rows", "pack", "look", "targets", "loader"):
        assert stages[name]["seconds"] >= 0
        assert stages[name]["peak_mib"] > 10
        assert f"  {name} " in told


def test_generate(bare, tmp_path, capsys):
    results = benchmark("generate", tmp_path, *TINY, "--rounds", "2")["results"]
    assert results.keys() == {"1", "4"}
    for result in results.values():
        assert 2 <= result["length"] <= 9
        ours, theirs = result["ours"]["seconds"], result["torch"]["seconds"]
        assert result["torch"]["times_ours"]["median"] == theirs["median"] / ours["median"]
    assert "4 beams" in capsys.readouterr().out


@pytest.mark.slow
def test_memory(bare, tmp_path, capsys):
    results = benchmark("memory", tmp_path, *TINY, "--batch-sizes", "2")
    (result,) = results["results"].values()
    state = 3 * 4 * results["facts"]["parameters"]  # weights and two slots, but for the frozen hand
    assert state / 2 < result["compiled"]["arguments"] < 2 * state
    assert result["compiled"]["temporaries"] > 0
    assert result["compiled"]["fits"]
    for name in ("ours", "torch"):
        assert 0 < result[name]["before"] <= result[name]["peak"]
    assert "B 2: compiled step: arguments" in capsys.readouterr().out


@pytest.mark.slow
def test_compile(bare, tmp_path, capsys):
    """The second process finds the program of the first."""
    quick = ["--optimizer", "sgd", "--freeze-face-backbone", "--freeze-hand-right-backbone"]
    results = benchmark("compile", tmp_path, *TINY, *quick, "--rounds", "1")
    cold, warm = results["results"]["cold"], results["results"]["warm"]
    assert cold.keys() == warm.keys() == {"import", "state and batch", "trace", "compile", "first step", "total"}
    assert results["facts"]["programs_kept"] >= 1
    assert warm["compile"] < cold["compile"]
    assert cold["total"] > sum(cold[part] for part in cold if part != "total")
    assert "warm: " in capsys.readouterr().out


def test_named_backbones_are_neither_read_nor_downloaded(tmp_path, monkeypatch):
    """As configs/single_signer.yml names them: their sizes count, their weights are random."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    top = flags.command_parser("benchmark", "")
    add_config_flags(top)
    given = [*TINY[: TINY.index("--set")], "--optimizer", "sgd", "--face-backbone", "torchhub::dinov2_vits14"]
    training = ours(problem(flags.parse(top, given)))
    assert training.plan.backbones["face"].embed_dim == 384
    assert float(abs(training.state.trained["encoder.face_backbone.pos_embed"]).max()) > 0


class Hungry:
    """A side that takes more memory than there is."""

    def turn(self, steps: int, warm_up: int) -> None:
        raise MemoryError


def test_a_side_that_does_not_fit_is_told_and_the_others_go_on():
    arguments = SimpleNamespace(steps=1, warm_up=1)
    taken = [turn(Side("torch", Hungry), arguments, at_once=False) for _ in range(2)]
    assert of_turns(taken) == {"error": "torch: does not fit the device's memory; use a smaller --batch-size"}


class Modest:
    """A side that reaches 70 bytes in its first process, 90 in its second."""

    def __init__(self, peaks: Path):
        self.peak = int(peaks.read_text()) + 20
        peaks.write_text(str(self.peak))

    def turn(self, steps: int, warm_up: int) -> dict:
        return {"seconds": Seconds(0.5, 0.25), "losses": [2.0]}

    def bytes_in_use(self) -> dict:
        return {"now": 1, "peak": self.peak}


def test_a_side_alone_on_its_device_tells_its_peak(tmp_path):
    arguments, peaks = SimpleNamespace(steps=1, warm_up=1), tmp_path / "peaks"
    peaks.write_text("50")
    result = of_turns([turn(Side("ours", Modest, peaks), arguments, at_once=False) for _ in range(2)])
    assert result["peak"] == 90
    assert result["seconds"]["median"] == 0.5


def test_what_computes_something_else_is_not_timed():
    check_same({"ours": 4.0, "torch": 4.0003})
    for other in (4.0005, float("nan")):
        with pytest.raises(UserError, match=r"torch computes something else: its loss is .*, ours 4\.0"):
            check_same({"ours": 4.0, "torch": other})


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["stepp"], "did you mean 'step'?"),
        (["step", "--rounds", "0"], "--rounds: '0' is not a number of 1 or more"),
        (["step", "--batchsize", "2"], "did you mean '--batch-size'?"),
        (["step", "--against", "jax"], "--against: invalid choice: 'jax'"),
        (["data", "--clips", "2", "--frames", "4", "--image-size", "28"], "--batch-size 4 takes all clips at once"),
        (["step", "--decoder-class", "mine:Decoder"], "--decoder-class"),
        (["step", *TINY, "--image-size", "30"], "--image-size 30 is not a multiple of the patch size 14"),
    ],
)
def test_mistakes_are_told_in_one_line(flags, told, capsys):
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_features(tmp_path, capsys):
    results = benchmark("features", tmp_path, *TINY, "--clips", "2", "--rounds", "1")["results"]
    assert results["images_over_features"]["cpu"] > 0
    assert "features of 0 clips are in" in (said := capsys.readouterr().out)
    assert "once, to compute its features" in said


def test_attention(tmp_path, capsys, monkeypatch):
    """What gives other gradients, or takes no such shape, is not timed."""
    known = attention.implementations

    def with_others(backend):
        def no_odd_lengths(query, key, value, real):
            if query.shape[1] % 2:
                raise ValueError("an even number of tokens, please")
            return known(backend)["xla"](query, key, value, real)

        def too_sharp(query, key, value, real):
            return known(backend)["ours"](4 * query, key, value, real)

        return known(backend) | {"sharp": too_sharp, "even": no_odd_lengths}

    monkeypatch.setattr(attention, "implementations", with_others)
    small = ["--images", "2", "--tokens", "5", "--heads", "2", "--head-dim", "8", "--pad", "8", "--rounds", "1"]
    results = benchmark("attention", tmp_path, *small)
    assert results["results"].keys() == {"ours 5", "ours 8", "xla 5", "xla 8", "even 8"}
    assert results["refused"].keys() == {"sharp 5", "sharp 8", "even 5"}
    assert "an even number of tokens, please" in capsys.readouterr().out
