"""Which memory rule `--remat auto` takes."""

from types import SimpleNamespace

import pytest

from convert.checkpoint import plan_model
from slt_jax.config import build_config
from slt_jax.errors import UserError
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.training import memory as subject
from slt_jax.training.memory import GIB, StepMemory, kept_bytes, out_of_memory, step_memory, with_memory_rule
from slt_jax.training.program import Program
from slt_jax.training.translation_program import abstract_batch, translation_program

MODEL = {
    "image_size": 28, "projector_dim": 16, "d_model": 16, "sequence_length": 24, "temporal_nhead": 2,
    "temporal_layers": 1, "temporal_dim_feedforward": 16, "decoder_layers": 1, "decoder_heads": 2, "vocab_size": 31,
    "backbone": {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 7, "image_size": 28},
}  # fmt: skip


def step_of(**training) -> SimpleNamespace:
    """The shapes of a small run's step, as the loop builds it."""
    config = build_config(
        {
            "model": MODEL,
            "data": {"batch_size": 2, "max_target_length": 8, "precision": "float32"},
            "training": training,
        }
    )
    plan = plan_model(config.model)
    program = translation_program(config, plan)
    return SimpleNamespace(
        config=config, program=program, state=program.abstract_state(), batch=abstract_batch(config, program.layout, 2)
    )


@pytest.fixture(scope="module")
def auto() -> SimpleNamespace:
    return step_of()


def rule_in(program: Program, step: SimpleNamespace) -> Memory:
    return program.structure.merge(step.state.params).encoder.memory


def choose(step: SimpleNamespace) -> Program:
    return with_memory_rule(step.program, step.config.training, step.batch, step.state)


def rule_of(step: SimpleNamespace) -> Memory:
    return rule_in(choose(step), step)


def test_a_rule_that_was_asked_for_is_taken():
    assert rule_of(step_of(remat="block", frame_chunk=3)) == Memory("block", 3)
    assert rule_of(step_of(remat="none")) == KEEP_ALL


@pytest.mark.parametrize(("free", "expected"), [
    (64 * GIB, KEEP_ALL), (30 << 20, KEEP_ALL), (3 << 20, Memory("none", 8)), (1000, Memory("none", 8)),
])  # fmt: skip
def test_a_computer_short_of_memory_takes_frames_in_chunks(auto, monkeypatch, capsys, free, expected):
    monkeypatch.setattr(subject, "device_bytes", lambda: free)
    assert rule_of(auto) == expected
    assert capsys.readouterr().out.startswith(f"memory: {expected}, ")


def device_choice(step, monkeypatch, limit: int, used: dict[str, int]) -> tuple[Memory, list[str]]:
    """The choice on an accelerator whose compiler tells `used` bytes by rule, and the rules it was asked about."""
    asked = []

    def compile_step(program, state, batch) -> StepMemory:
        memory = rule_in(program, step)
        asked.append(str(memory))
        total = used[str(memory)]
        return StepMemory(0, total, total, fits=total < 10 * limit)

    monkeypatch.setattr(subject, "step_memory", compile_step)
    memory, _ = subject.first_that_fits(step.program, step.state, step.batch, subject.RULES, limit)
    return memory, asked


BLOCK, STREAM, CHUNKED = "--remat block", "--remat stream", "--remat block --frame-chunk 64"


def test_nothing_is_compiled_where_there_is_plenty(auto, monkeypatch):
    assert device_choice(auto, monkeypatch, 100 * GIB, {}) == (KEEP_ALL, [])


def test_the_first_rule_that_fits_is_taken(auto, monkeypatch):
    arrays = sum(map(subject.shard_bytes, (auto.state, auto.state.trained, auto.batch)))
    limit = arrays + kept_bytes(auto.program, auto.state, auto.batch) // 2  # so that the compiler has to be asked
    used = {"--remat none": limit + 1, BLOCK: limit, CHUNKED: limit}
    assert device_choice(auto, monkeypatch, limit, used) == (Memory("block"), ["--remat none", BLOCK])
    used = {"--remat none": limit + 1, BLOCK: limit + 1, STREAM: limit + 1, CHUNKED: limit + 1}
    memory, asked = device_choice(auto, monkeypatch, limit, used)
    assert memory == Memory("block", 64)
    assert asked == ["--remat none", BLOCK, STREAM, CHUNKED]


def test_what_cannot_fit_is_told(auto, monkeypatch):
    too_much = StepMemory(0, 0, 50 * GIB, fits=False)
    monkeypatch.setattr(subject, "on_cpu", lambda mesh: False)
    monkeypatch.setattr(subject, "device_bytes", lambda: 1000)
    monkeypatch.setattr(subject, "first_that_fits", lambda *_: (Memory("block", 64), too_much))
    with pytest.raises(UserError, match=r"takes 50\.0 of .* even with .*--frame-chunk 64; lower --batch-size"):
        choose(auto)


@pytest.mark.parametrize(("text", "expected"), [
    ("Ran out of memory in memory space hbm. Used 48.00G of 15.75G hbm. Exceeded", (48 * GIB, int(15.75 * GIB))),
    ("required for HLO temporaries (26.5G) exceeds available HBM (15.75G).", (int(26.5 * GIB), int(15.75 * GIB))),
    ("no numbers", (0, 0)),
])  # fmt: skip
def test_what_a_compiler_wanted_is_read_from_its_words(text, expected):
    assert out_of_memory(RuntimeError(text)) == expected


def test_a_step_is_measured_by_its_program(auto):
    measured = step_memory(auto.program, auto.state, auto.batch)
    assert measured.fits
    assert measured.arguments > subject.shard_bytes(auto.state)
    assert measured.total >= measured.arguments + measured.temporaries
    chunked = auto.program.under(Memory("none", 4))
    assert step_memory(chunked, auto.state, auto.batch).temporaries < measured.temporaries / 2
