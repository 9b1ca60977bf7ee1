"""Our files in torch and torch's training beside ours: the twin (torch_twin.py) stands for v9's code."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import slt_jax
from convert.checkpoint import plan_model
from slt_jax.config import Config, DataConfig, ModelConfig, OptimConfig
from slt_jax.decoding.inference import model_inputs
from slt_jax.training.position import Position
from slt_jax.training.program import Program, as_loaded
from slt_jax.training.start import fresh_params
from slt_jax.training.state import TrainState
from slt_jax.training.state_store import exporter_of
from slt_jax.training.translation_program import translation_program
from tests.parity.goldens import Golden, needs_goldens, relative_error
from tests.parity.torch_twin import TorchTwin, golden_twin, t5_from_flags, tensors

TOLERANCE = 1e-5
CASES = ["t5_mlp", "t5_identity", "t5_v1_1", "bart"]


# --- the twin is v9 -----------------------------------------------------------------------------------------------


@needs_goldens
@pytest.mark.parametrize("name", CASES)
def test_the_twin_is_v9(name):
    golden = Golden(name)
    twin = golden_twin(golden)
    assert list(twin.state_dict()) == golden.expected["param_names"].tolist()
    twin.load_state_dict(torch.load(golden.checkpoint, weights_only=True)["model_state"], strict=True)
    twin.eval()
    batch = tensors(golden.batch())
    with torch.no_grad():
        assert relative_error(twin(batch), golden.expected["logits"]) <= TOLERANCE
        assert float(twin.loss(batch)) == pytest.approx(float(golden.expected["loss"]), rel=TOLERANCE)


# --- ours, small, with parts that must not move -------------------------------------------------------------------

MODEL = {
    "image_size": 28, "projector_dim": 16, "d_model": 32, "pose_landmarks": 13, "sequence_length": 4,
    "temporal_nhead": 4, "temporal_layers": 1, "temporal_dim_feedforward": 48, "temporal_dropout": 0.0,
    "decoder_layers": 1, "decoder_heads": 4, "decoder_dropout": 0.0,
}  # fmt: skip
VIT = {"embed": 24, "depth": 1, "heads": 2, "grid": 4}
VOCABULARY, CLIP, SMOOTHING = 31, 0.5, 0.1
FROZEN = ("encoder.hand_backbone_left.", "encoder.hand_backbone_right.patch_embed.")
MASK_TOKENS = ("encoder.face_backbone.mask_token", "encoder.hand_backbone_right.mask_token")
TEXT_ENCODER = ("decoder.model.encoder.block.", "decoder.model.encoder.final_layer_norm.")  # which nothing uses
STILL = (*FROZEN, *MASK_TOKENS, *TEXT_ENCODER)


def config() -> ModelConfig:
    backbone = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 56}
    return ModelConfig(
        **MODEL,
        backbone=backbone,
        vocab_size=VOCABULARY,
        freeze_hand_left_backbone=True,
        freeze_hand_right_backbone="patch_embed",
    )


def batch_of(rows: int, seed: int, length: int = 7) -> dict[str, np.ndarray]:
    """Random inputs named as in the goldens, every mask in use."""
    rng = np.random.default_rng(seed)
    frames = MODEL["sequence_length"]
    shapes = dict.fromkeys(("face", "hand_l", "hand_r"), (rows, frames, 3, 28, 28)) | {"pose": (rows, frames, 39)}
    batch = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    batch["pad_mask"] = np.arange(frames) < np.array([frames, frames - 1] * (rows // 2) or [frames])[:, None]
    batch |= {name: rng.random((rows, frames)) < 0.3 for name in ("miss_mask_hl", "miss_mask_hr")}
    batch["pose_conf_mask"] = rng.random((rows, frames, 13)) < 0.8
    batch["labels"] = rng.integers(2, VOCABULARY, (rows, length))
    batch["labels"][0, -2:] = -100
    return batch


@pytest.fixture(scope="module")
def ours() -> SimpleNamespace:
    plan = plan_model(config())
    structure, entries = plan.structure()
    params = {path: np.asarray(array) for path, array in fresh_params(plan, entries, seed=5).items()}
    # What starts at zero, such as biases and mask tokens, would hide a decay or a wrong place.
    rng = np.random.default_rng(6)
    params = {path: array + 0.1 * rng.normal(size=array.shape).astype(np.float32) for path, array in params.items()}
    return SimpleNamespace(plan=plan, structure=structure, entries=entries, params=params)


def begin(ours, optim: OptimConfig) -> tuple[Program, TrainState]:
    config = Config(DataConfig(precision="float32", seed=0), ours.plan.config, optim)
    program = translation_program(config, ours.plan, ours.structure, prepare=as_loaded)
    return program, program.place(program.new_state(ours.params))


def advance(program: Program, state: TrainState, batches: list[list[dict]], lr: float) -> tuple[TrainState, list, list]:
    """Steps over groups of micro-batches: the state, every loss, every gradient norm."""
    losses, norms = [], []
    for group in batches:
        state, results = program.step(state, [model_inputs(batch) for batch in group], jnp.float32(lr))
        losses += [float(loss) for loss in results["loss"]]
        norms.append(float(results["grad_norm"]))
    return state, losses, norms


def write(ours, path, state: TrainState, optim: OptimConfig) -> None:
    exporter = exporter_of(Config(model=ours.plan.config, optim=optim), ours.plan, ours.entries)
    exporter.write(path, state, Position(epoch=1, best_val=1.0), lr=optim.lr, val_loss=1.0)


def torch_twin(content: dict) -> TorchTwin:
    twin = TorchTwin(MODEL, VIT, t5_from_flags(MODEL, VOCABULARY), identity=False)
    twin.load_state_dict(content["model_state"], strict=True)
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    return twin


def optim(kind: str, lr: float, **more) -> OptimConfig:
    return OptimConfig(kind, lr, weight_decay=0.05, label_smoothing=SMOOTHING, grad_clip_norm=CLIP, **more)


OPTIMIZERS = {
    "adamw": (optim("adamw", 2e-3), lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.05)),
    "adam": (optim("adam", 2e-3), lambda p: torch.optim.Adam(p, lr=2e-3, weight_decay=0.05)),
    "sgd": (optim("sgd", 5e-2, momentum=0.9), lambda p: torch.optim.SGD(p, lr=5e-2, weight_decay=0.05, momentum=0.9)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torch_continues_our_run(ours, tmp_path, name):
    """Three steps here, then four in torch from our file and four here: the same losses, norms and weights.

    Each step has two micro-batches, is clipped and decays; what gets no gradient stays bitwise as it was.
    """
    settings, torch_optimizer = OPTIMIZERS[name]
    program, state = begin(ours, settings)
    group = [batch_of(2, 1), batch_of(2, 2)]
    state, _, norms = advance(program, state, [group] * 3, settings.lr)
    assert min(norms) > CLIP
    path = tmp_path / "last.pt"
    write(ours, path, state, settings)

    content = torch.load(path, weights_only=True)
    assert torch.load(path, weights_only=True, mmap=True)["model_state"].keys() == content["model_state"].keys()
    twin = torch_twin(content).eval()
    with torch.no_grad():
        theirs = twin(tensors(group[0]))
    for model in (None, ours.plan.config):
        assert relative_error(slt_jax.load(path, model=model).logits(group[0]), theirs) <= TOLERANCE

    before = {key: value.clone() for key, value in twin.state_dict().items()}
    twin.train()
    theirs = torch_optimizer(twin.parameters())
    theirs.load_state_dict(content["optimizer_state"])
    torch_losses, torch_norms = [], []
    for _ in range(4):
        theirs.zero_grad()
        for batch in group:
            loss = twin.loss(tensors(batch), SMOOTHING)
            (loss / len(group)).backward()
            torch_losses.append(float(loss.detach()))
        torch_norms.append(float(torch.nn.utils.clip_grad_norm_(twin.parameters(), CLIP)))
        theirs.step()

    state, losses, norms = advance(program, state, [group] * 4, settings.lr)
    np.testing.assert_allclose(losses, torch_losses, rtol=TOLERANCE)
    np.testing.assert_allclose(norms, torch_norms, rtol=TOLERANCE)

    write(ours, path, state, settings)
    after = torch.load(path, weights_only=True)["model_state"]
    for key, value in twin.state_dict().items():
        if key.startswith(STILL):
            assert torch.equal(after[key], before[key]), key
        elif "in_proj_bias" not in key and "qkv.bias" not in key:  # key biases have no gradient but rounding's
            assert relative_error(after[key], value.detach()) <= 1e-4, key
            assert not torch.equal(after[key], before[key]), key
    still = [entry.path for entry in ours.entries if entry.key.startswith(STILL)]
    assert len(still) > 20
    assert all(np.array_equal(state.frozen[path], ours.params[path]) for path in still)


def test_micro_batches_equal_one_batch(ours):
    """Two micro-batches of one row each, with as many label tokens, give the gradients of the two rows together."""
    whole = batch_of(2, 3)
    whole["labels"][0, -2:] = 5  # nothing ignored: both rows count alike
    rows = [{name: array[i : i + 1] for name, array in whole.items()} for i in range(2)]
    program, state = begin(ours, OPTIMIZERS["adamw"][0])
    accumulate = jax.jit(program.functions.accumulate)
    zeros = jax.tree.map(jnp.zeros_like, state.trained)
    together, results = accumulate(state, zeros, model_inputs(whole), 0)
    first, one = accumulate(state, zeros, model_inputs(rows[0]), 0)
    summed, two = accumulate(state, first, model_inputs(rows[1]), 1)
    assert float(results["loss"]) == pytest.approx((float(one["loss"]) + float(two["loss"])) / 2, rel=1e-6)
    for path, gradient in together.items():
        np.testing.assert_allclose(summed[path] / 2, gradient, atol=1e-6, err_msg=path)


# --- schedules and names ------------------------------------------------------------------------------------------


def test_the_default_model_has_v9s_keys():
    """The list: v9's own keys in t5_identity, with 12 blocks, 6 temporal and 2 decoder layers. No array is computed."""
    spec = "torchhub::dinov2_vits14:random"
    model = ModelConfig(
        projector_dim=384, vocab_size=32_000, face_backbone=spec, hand_left_backbone=spec, hand_right_backbone=spec
    )
    _, entries = plan_model(model).structure()
    expected = (Path(__file__).parent / "default_keys.txt").read_text().split()
    assert [entry.key for entry in entries] == expected
    assert len(expected) == 658
