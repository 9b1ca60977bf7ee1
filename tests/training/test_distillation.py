"""What a teacher expects of each token: torch's divergence, and which checkpoints can teach which students."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from slt_jax.config import build_config, build_section
from slt_jax.data.text import IGNORE
from slt_jax.errors import UserError
from slt_jax.models.multistream import MultiStreamEncoder
from slt_jax.models.vit import ViTConfig
from slt_jax.training.distillation import distillation_loss
from slt_jax.training.teaching import Teaching

LABELS = np.array([[4, 2, 1, IGNORE], [3, 1, IGNORE, IGNORE]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient_are_torchs(smoothing):
    student, teacher = np.random.default_rng(0).standard_normal((2, 2, 4, 7)) * 3

    def ours(student):
        total, tokens = distillation_loss(student, jnp.asarray(teacher, jnp.float32), jnp.asarray(LABELS), smoothing)
        return total / tokens

    loss, gradient = jax.value_and_grad(ours)(jnp.asarray(student, jnp.float32))
    counted = torch.tensor(LABELS != IGNORE)
    there, expected = torch.tensor(student, requires_grad=True), torch.tensor(teacher).softmax(-1)[counted]
    smoothed = (1 - smoothing) * expected + smoothing / 7
    crossed = torch.nn.functional.cross_entropy(there[counted], expected, label_smoothing=smoothing)
    theirs = crossed + (smoothed * smoothed.log()).sum(-1).mean()
    theirs.backward()
    assert float(loss) == pytest.approx(theirs.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, there.grad, rtol=1e-5, atol=1e-7)


def test_who_expects_the_same_has_nothing_to_learn():
    logits = jnp.array([[[0.0, 90.0, -90.0]]])  # a probability that float32 cannot hold
    total, tokens = distillation_loss(logits, logits, jnp.array([[1]]), 0.0)
    assert (total, tokens) == (0, 1)


def teaching(**model) -> Teaching:
    fields = {"image_size": 28, "sequence_length": 8, "pose_landmarks": 13}
    plan = SimpleNamespace(config=build_config({"model": fields | model}).model, vocabulary=10, decoder={})
    return Teaching(Path("t.pt"), plan, {}, SimpleNamespace(get_vocab=lambda: {"a": 0}), None, False)


def student(vocab: dict[str, int], **model):
    config = build_config({"model": {"image_size": 28, "sequence_length": 8} | model})
    return config, SimpleNamespace(vocabulary=model.get("vocab_size", 10)), SimpleNamespace(get_vocab=lambda: vocab)


@pytest.mark.parametrize(
    ("vocab", "model", "said"),
    [
        ({"a": 1}, {}, "has another tokenizer than the student"),
        ({"a": 0}, {"vocab_size": 12}, "its decoder has 10 tokens and the student's 12; set model.vocab_size to 10"),
        ({"a": 0}, {"image_size": 56}, "sees pictures of 28 pixels; set --image-size 28"),
        ({"a": 0}, {"sequence_length": 9}, "has positions for 8 frames"),
        ({"a": 0}, {"pose_landmarks": 17}, "reads 13 landmarks; set --pose-landmarks 13"),
    ],
)
def test_a_teacher_that_reads_or_writes_something_else_is_refused(vocab, model, said):
    with pytest.raises(UserError, match=f"^training.teacher t.pt: .*{said}"):
        teaching().check(*student(vocab, **model))


def test_what_may_do_harm_is_said(capsys):
    replace(teaching(), v9_hand_masks=True, prefix="es: ").check(*student({"a": 0}))
    said = capsys.readouterr()
    assert "v9's hand masks, which hide every hand" in said.out + said.err
    assert "the prefix 'es: '" in said.out + said.err


def test_the_streams_of_both_are_loaded():
    both = teaching(streams=["face", "pose"]).joining(student({}, streams=["hand_l", "pose"])[0])
    assert both.model.streams == ["face", "hand_l", "pose"]
    assert teaching().joining(student({}, streams=["pose"])[0]).model.streams is None


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"objectives": {"distillation": 1}}, "distillation needs a teacher: name a checkpoint with training.teacher"),
        ({"teacher": "t.pt"}, "training.teacher 't.pt': teaches nothing without a weight"),
        ({"teacher": "t.pt", "objectives": {"translation": 1}}, "teaches nothing without a weight"),
    ],
)
def test_a_teacher_and_its_weight_belong_together(training, said):
    with pytest.raises(UserError, match=said):
        build_config({"training": training})


def test_a_teacher_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^training\.teacher: .*nothing\.pt"):
        Teaching.open(str(tmp_path / "nothing.pt"), False)


def test_what_only_the_teacher_sees_hides_nothing_from_the_student():
    """A missing right hand hides the left one from a model of both, but not from one that has no right hand."""
    config = build_section(
        "model",
        {"streams": ["hand_l"], "image_size": 28, "projector_dim": 8, "d_model": 8, "temporal_nhead": 2,
         "temporal_layers": 1, "temporal_dim_feedforward": 8, "sequence_length": 2},
    )  # fmt: skip
    sizes = ViTConfig(embed_dim=6, depth=1, num_heads=2, patch_size=14, image_size=28)
    encoder = MultiStreamEncoder(config, {"hand_l": sizes}, rngs=nnx.Rngs(0))
    features = jax.random.normal(jax.random.key(0), (1, 2, 6))
    own = {"hand_l": features, "miss_mask_hl": jnp.zeros((1, 2), bool), "pad_mask": jnp.ones((1, 2), bool)}
    more = {"hand_r": features, "miss_mask_hr": jnp.ones((1, 2), bool)}
    np.testing.assert_array_equal(encoder(own | more), encoder(own))
