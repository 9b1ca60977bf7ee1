"""One optimiser for many parameters, some of which torch never updated."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from convert.optimizer import check_kind, from_torch, optimizer_kind, to_torch
from convert.state_dict import Entry
from slt_jax.config import OptimConfig, build_section
from slt_jax.errors import UserError
from slt_jax.training.optim import build_optimizer
from slt_jax.training.parts import translator_parts
from slt_jax.training.state import OptState

LR = 0.05
CLASSES = {
    "adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad, "adamax": torch.optim.Adamax, "adadelta": torch.optim.Adadelta,
    "nadam": torch.optim.NAdam, "radam": torch.optim.RAdam,
}  # fmt: skip
MOMENTUM = {"sgd": 0.9, "rmsprop": 0.8}
OPTIMIZERS = [*CLASSES, "sgd without momentum", "rmsprop without momentum"]


def both(name: str):
    """Ours with weight decay, and what makes torch's for parameters."""
    kind, _, bare = name.partition(" without ")
    momentum = 0.0 if bare else MOMENTUM.get(kind, 0.0)
    options = {"momentum": momentum} if kind in MOMENTUM else {}
    theirs = partial(CLASSES[kind], lr=LR, weight_decay=0.1, **options)
    return build_optimizer(OptimConfig(kind, lr=LR, weight_decay=0.1, momentum=momentum)), theirs


@pytest.mark.parametrize("late", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_parameter_counts_its_own_updates(name, late):
    """`b` has its first gradient `late` steps after `a`; where both began together they share one count."""
    rng = np.random.default_rng(0)
    weights = {path: rng.standard_normal((3, 4), np.float32) for path in "ab"}
    gradients = rng.standard_normal((6, 2, 3, 4), np.float32)
    optimizer, theirs = both(name)
    there = {path: torch.tensor(array, requires_grad=True) for path, array in weights.items()}
    torch_optimizer = theirs(list(there.values()))
    here, state = jax.tree.map(jnp.asarray, weights), optimizer.init(weights)

    for count, gradient in enumerate(gradients):
        given = dict(zip("ab", gradient, strict=True))
        there["a"].grad = torch.tensor(given["a"])
        there["b"].grad = torch.tensor(given["b"]) if count >= late else None
        torch_optimizer.step()
        before = here["b"], {slot: state.slots[slot]["b"] for slot in optimizer.slots}
        suited = optimizer.suited_to(state)
        assert suited.one_count is (late == 0 or count == 0)
        here, state = jax.jit(suited.update)(here, given, state, jnp.float32(LR))
        if count < late:
            here["b"] = before[0]
            slots = {slot: {**state.slots[slot], "b": array} for slot, array in before[1].items()}
            state = OptState(slots, state.step.at[1].set(0))

    for path, array in there.items():
        np.testing.assert_allclose(here[path], array.detach().numpy(), rtol=1e-5, atol=1e-6)


class Transposed:
    """A layout as that of a Linear."""

    def to_torch(self, array):
        return array.T

    def to_jax(self, array):
        return np.asarray(array).T


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torch_and_ours_continue_each_other(name):
    """Two steps in torch, two here from its state, two more in torch from ours: as six in torch."""
    rng = np.random.default_rng(1)
    start, gradients = rng.standard_normal((3, 4), np.float32), rng.standard_normal((6, 3, 4), np.float32)
    optimizer, theirs = both(name)
    entries = [Entry(key, key, (3, 4), Transposed(), False) for key in ("unused", "w")]

    def torch_steps(w, saved, gradients):
        parameters = [torch.zeros(3, 4, requires_grad=True), torch.tensor(w, requires_grad=True)]
        torch_optimizer = theirs(parameters)
        if saved:
            torch_optimizer.load_state_dict(saved)
        for gradient in gradients:
            parameters[1].grad = torch.tensor(gradient)
            torch_optimizer.step()
        return parameters[1].detach().numpy(), torch_optimizer.state_dict()

    expected, _ = torch_steps(start, None, gradients)
    w, saved = torch_steps(start, None, gradients[:2])
    assert optimizer_kind(saved) == optimizer.kind
    fresh = optimizer.init({"w": start.T}).to_tree()
    state = OptState.from_tree(from_torch(as_numpy(saved), fresh, ["w"], optimizer, entries))
    here = {"w": jnp.asarray(w.T)}
    update = jax.jit(optimizer.suited_to(state).update)
    for gradient in gradients[2:4]:
        here, state = update(here, {"w": jnp.asarray(gradient.T)}, state, jnp.float32(LR))
    ours = to_torch(state.to_tree(), ["w"], optimizer, LR, LR, entries)
    again, final = torch_steps(np.asarray(here["w"]).T, as_tensors(ours), gradients[4:])
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-6)

    # What we wrote has torch's own layout: the same groups, numbers and slots.
    theirs_group, group = final["param_groups"][0], ours["param_groups"][0]
    assert group.keys() - theirs_group.keys() <= {"initial_lr"}
    fresh_group = torch_steps(start, None, gradients[:1])[1]["param_groups"][0]
    assert {key: group[key] for key in fresh_group} == fresh_group
    assert ours["state"].keys() == saved["state"].keys()
    assert {n: list(slots) for n, slots in ours["state"].items()} == {n: list(s) for n, s in saved["state"].items()}


def as_numpy(tree):
    if isinstance(tree, dict):
        return {key: as_numpy(value) for key, value in tree.items()}
    return tree.numpy() if isinstance(tree, torch.Tensor) else tree


def as_tensors(tree):
    if isinstance(tree, dict):
        return {key: as_tensors(value) for key, value in tree.items()}
    return torch.tensor(tree) if isinstance(tree, np.ndarray) else tree


@pytest.mark.parametrize("name", ["nadam", "radam"])
def test_late_updates_are_torchs(name):
    """What comes from a table holds after thousands of updates, and at the change to rectified ones."""
    optimizer, theirs = both(name)
    for count in (4, 5, 6, 3000, 40000):
        w = torch.tensor([0.5], requires_grad=True)
        torch_optimizer = theirs([w])
        w.grad = torch.tensor([0.25])
        torch_optimizer.step()
        with torch.no_grad():
            w.fill_(0.5)
            torch_optimizer.state[w]["step"].fill_(count)
            if name == "nadam":
                torch_optimizer.state[w]["mu_product"].fill_(optimizer.scalars(float(count))["mu_product"])
        saved = as_numpy(torch_optimizer.state_dict())
        entries = [Entry("w", "w", (1,), Transposed(), False)]
        fresh = optimizer.init({"w": np.zeros(1, np.float32)}).to_tree()
        state = OptState.from_tree(from_torch(saved, fresh, ["w"], optimizer, entries))
        here, _ = jax.jit(optimizer.update)({"w": jnp.array([0.5])}, {"w": jnp.array([0.25])}, state, jnp.float32(LR))
        torch_optimizer.step()
        np.testing.assert_allclose(here["w"], w.detach().numpy(), rtol=1e-5)


def test_lion_is_optaxs():
    """torch has none."""
    rng = np.random.default_rng(2)
    w = jnp.asarray(rng.standard_normal((3, 4), np.float32))
    ours, theirs = build_optimizer(OptimConfig("lion", weight_decay=0.1)), optax.lion(LR, weight_decay=0.1)
    here, there, state, their_state = {"w": w}, w, ours.init({"w": w}), theirs.init(w)
    for gradient in rng.standard_normal((6, 3, 4), np.float32):
        updates, their_state = theirs.update(gradient, their_state, there)
        there = optax.apply_updates(there, updates)
        here, state = jax.jit(ours.update)(here, {"w": gradient}, state, jnp.float32(LR))
    np.testing.assert_allclose(here["w"], there, rtol=1e-5)
    saved = to_torch(state.to_tree(), ["w"], ours, LR, LR, [Entry("w", "w", (3, 4), Transposed(), False)])
    assert optimizer_kind(saved) == "lion"


# --- parts with rates of their own --------------------------------------------------------------------------------

SHAPES = {
    "encoder.face_backbone.patch_embed.proj.kernel": (3, 2), "encoder.face_backbone.blocks.0.mlp.fc1.kernel": (2, 2),
    "encoder.face_backbone.blocks.1.norm1.scale": (4,), "encoder.face_backbone.norm.bias": (3,),
    "encoder.fusion.proj.kernel": (2, 3), "decoder.model.lm_head.kernel": (3, 3), "decoder.model.norm.scale": (2,),
}  # fmt: skip
BY_PART = OptimConfig(
    lr=LR, lr_backbone=LR / 10, lr_decoder=LR * 2, layer_decay=0.5, weight_decay=0.1, decay_only_matrices=True
)
# What each of SHAPES is to have: its rate as a part of LR, and whether it decays. A ViT of two blocks has four layers:
# the embedding, the blocks, and the last norm above them.
WANTED = [(0.1 / 8, True), (0.1 / 4, True), (0.1 / 2, False), (0.1, False), (1, True), (2, True), (2, False)]


def test_parts_learn_and_decay_as_torchs_groups_and_are_written_as_they():
    """Four steps here, then two in torch from what we wrote, against six steps of torch; and back into ours."""
    rng = np.random.default_rng(3)
    start = {path: rng.standard_normal(shape, np.float32) for path, shape in SHAPES.items()}
    gradients = [{path: rng.standard_normal(shape, np.float32) for path, shape in SHAPES.items()} for _ in range(6)]
    groups: dict[tuple, list[str]] = {}
    for path, settings in zip(SHAPES, WANTED, strict=True):
        groups.setdefault(settings, []).append(path)

    def torch_steps(weights, saved, gradients):
        there = {path: torch.tensor(weights[path], requires_grad=True) for path in SHAPES}
        options = [
            {"params": [there[path] for path in paths], "lr": LR * rate, "weight_decay": 0.1 * decays}
            for (rate, decays), paths in groups.items()
        ]
        optimizer = torch.optim.AdamW(options)
        if saved:
            optimizer.load_state_dict(as_tensors(saved))
        for gradient in gradients:
            for path, array in gradient.items():
                there[path].grad = torch.tensor(array)
            optimizer.step()
        return {path: array.detach().numpy() for path, array in there.items()}, as_numpy(optimizer.state_dict())

    expected, _ = torch_steps(start, None, gradients)
    optimizer = build_optimizer(BY_PART, translator_parts(BY_PART, SHAPES))
    entries = [Entry(path, path, shape, Same(), False) for path, shape in SHAPES.items()]
    here, state = jax.tree.map(jnp.asarray, start), optimizer.init(start)
    for gradient in gradients[:4]:
        here, state = jax.jit(optimizer.update)(here, gradient, state, jnp.float32(LR))
    ours = to_torch(state.to_tree(), list(SHAPES), optimizer, LR, LR, entries)
    again, theirs = torch_steps(jax.tree.map(np.array, here), ours, gradients[4:])
    for path, array in expected.items():
        np.testing.assert_allclose(again[path], array, rtol=1e-5, atol=1e-6, err_msg=path)
    for our, their in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        assert our["params"] == their["params"]
        assert [our["lr"], our["weight_decay"]] == pytest.approx([their["lr"], their["weight_decay"]])

    back = from_torch(ours, optimizer.init(start).to_tree(), list(SHAPES), optimizer, entries)
    for slot in optimizer.slots:
        for path in SHAPES:
            np.testing.assert_array_equal(back[slot][path], state.slots[slot][path], err_msg=path)


def test_the_encoders_rate_is_that_of_its_backbones_too():
    """As in later v9, which knows two rates."""
    parts = dict(translator_parts(OptimConfig(lr=LR, lr_encoder=LR / 4, lr_decoder=LR), SHAPES))
    assert {path: parts[path].rate for path in parts} == {path: 0.25 for path in SHAPES if path.startswith("encoder.")}


class Same:
    """A layout that changes nothing."""

    def to_torch(self, array):
        return array

    def to_jax(self, array):
        return np.asarray(array)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scheduler": "linear", "scheduler_unit": "epoch"}, "linear counts steps; leave the unit out"),
        ({"scheduler_unit": "batch"}, "must be epoch or step, not 'batch'"),
        ({"layer_decay": 0.0}, "above 0 and at most 1"),
        ({"lr": 0.0, "lr_decoder": 0.1}, "nothing moves while optim.lr is 0"),
        ({"warmup_steps": -1}, "must be 0 or more"),
    ],
)
def test_rates_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        build_section("optim", settings)


def test_names_in_any_case_and_what_is_not_one():
    assert build_section("optim", {"optimizer": "AdamW"}).optimizer == "adamw"
    assert build_section("optim", {"optimizer": "RMSprop", "momentum": 0.9}).momentum == 0.9
    with pytest.raises(UserError, match="did you mean 'radam'"):
        build_section("optim", {"optimizer": "RAdams"})
    with pytest.raises(UserError, match=r"optim\.momentum 0\.9: adam has none"):
        build_section("optim", {"optimizer": "Adam", "momentum": 0.9})


def test_another_optimisers_state_is_refused():
    optimizer, _ = both("radam")
    saved = to_torch(optimizer.init({}).to_tree(), [], optimizer, LR, LR, [])
    with pytest.raises(UserError, match="was written by radam, not adamw; give --optimizer radam"):
        from_torch(saved, {}, [], both("adamw")[0], [])
    check_kind("adam", "adamw", "--resume x")  # the one's state is the other's
    with pytest.raises(UserError, match="--resume x: was written by adamw, not nadam"):
        check_kind("adamw", "nadam", "--resume x")
