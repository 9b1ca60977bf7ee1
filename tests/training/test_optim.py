"""One optimiser for many parameters, some of which torch never updated."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from convert.optimizer import check_kind, from_torch, optimizer_kind, to_torch
from convert.state_dict import Entry, table, to_state
from slt_jax.config import OptimConfig, build_section
from slt_jax.errors import UserError
from slt_jax.models.params import describe, split_model
from slt_jax.training.optim import build_optimizer
from slt_jax.training.parts import translator_parts
from slt_jax.training.state import OptState
from slt_jax.training.translation_program import translation_optimizer

LR = 0.05
CLASSES = {
    "adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad, "adamax": torch.optim.Adamax, "adadelta": torch.optim.Adadelta,
    "nadam": torch.optim.NAdam, "radam": torch.optim.RAdam,
    "adafactor": torch.optim.Adafactor,
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
        before = here["b"], {slot: kept["b"] for slot, kept in state.slots.items() if "b" in kept}
        suited = optimizer.suited_to(state)
        assert suited.one_count is (late == 0 or count == 0)
        here, state = jax.jit(suited.update)(here, given, state, jnp.float32(LR))
        if count < late:
            here["b"] = before[0]
            slots = state.slots | {slot: {**state.slots[slot], "b": array} for slot, array in before[1].items()}
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
    plain, theirs = both(name)
    entries = [Entry(key, key, (3, 4), Transposed(), False) for key in ("unused", "w")]
    config = OptimConfig(plain.kind, lr=LR, weight_decay=plain.weight_decay, momentum=plain.momentum)
    optimizer = translation_optimizer(config, lambda: entries)

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


class Assorted(nnx.Module):
    """Every way in which torch lays out a parameter, also at the edges of what has rows and columns."""

    def __init__(self, rngs: nnx.Rngs):
        self.image = nnx.Conv(3, 4, (5, 2), rngs=rngs)
        self.point = nnx.Conv(3, 4, (1, 1), rngs=rngs)
        self.column = nnx.Conv(3, 4, (5, 1), rngs=rngs)
        self.sound = nnx.Conv(3, 4, (5,), rngs=rngs)
        self.film = nnx.Conv(2, 3, (2, 3, 4), rngs=rngs)
        self.linear = nnx.Linear(3, 5, rngs=rngs)
        self.embed = nnx.Embed(6, 3, rngs=rngs)
        self.positions = nnx.Param(jnp.ones((1, 7, 6)))
        self.token = nnx.Param(jnp.full((1, 1, 6), 1e-4))  # smaller than what the rate is a share of
        self.scale = nnx.Param(jnp.full((), 2.0))


@pytest.mark.parametrize("lr", [0.01, 0.7])  # the latter is above 1 / sqrt(step) from the third step on
def test_adafactor_is_torchs_for_parameters_of_any_shape(lr):
    """Rows and columns are torch's last two axes, which are elsewhere here. Three steps here, two more in torch."""
    rng = np.random.default_rng(4)
    _, leaves = describe(lambda: Assorted(nnx.Rngs(0)))
    entries = table(leaves)
    _, start = split_model(Assorted(nnx.Rngs(0)))
    # From gradients that saturate nothing down to those below both of torch's smallest numbers.
    sizes = {entry.path: 10.0 ** -(n % 6) for n, entry in enumerate(entries)}
    gradients = [
        {entry.path: rng.standard_normal(entry.shape, np.float32) * np.float32(sizes[entry.path]) for entry in entries}
        for _ in range(5)
    ]

    def torch_steps(weights, saved, gradients):
        there = [torch.tensor(np.array(weights[entry.key]), requires_grad=True) for entry in entries]
        optimizer = torch.optim.Adafactor(there, lr=lr, weight_decay=0.1)
        if saved:
            optimizer.load_state_dict(as_tensors(saved))
        for gradient in gradients:
            for tensor, entry in zip(there, entries, strict=True):
                tensor.grad = torch.tensor(gradient[entry.path])
            optimizer.step()
        return {
            e.key: tensor.detach().numpy() for e, tensor in zip(entries, there, strict=True)
        }, optimizer.state_dict()

    optimizer = translation_optimizer(OptimConfig("adafactor", lr=lr, weight_decay=0.1), lambda: entries)
    here, state, paths = dict(start), optimizer.init(start), [entry.path for entry in entries]
    update = jax.jit(optimizer.suited_to(state).update)
    for gradient in gradients[:3]:
        ours = {entry.path: jnp.asarray(entry.layout.to_jax(gradient[entry.path])) for entry in entries}
        here, state = update(here, ours, state, jnp.float32(lr))
    saved = to_torch(state.to_tree(), paths, optimizer, lr, lr, entries)

    expected, theirs = torch_steps(to_state(start, entries), None, gradients[:3])
    for key, array in to_state(here, entries).items():
        np.testing.assert_allclose(array, expected[key], rtol=1e-5, atol=1e-7, err_msg=key)
    for number, slots in theirs["state"].items():
        assert saved["state"][number].keys() == slots.keys()
        for slot, tensor in slots.items():
            name = f"{slot} of {entries[number].key}"
            np.testing.assert_allclose(saved["state"][number][slot], tensor.numpy(), rtol=1e-5, err_msg=name)

    expected, _ = torch_steps(to_state(start, entries), None, gradients)
    again, _ = torch_steps(to_state(here, entries), saved, gradients[3:])
    for key, array in expected.items():
        np.testing.assert_allclose(again[key], array, rtol=1e-5, atol=1e-7, err_msg=key)
    back = from_torch(saved, optimizer.init(start).to_tree(), paths, optimizer, entries)
    jax.tree.map(np.testing.assert_array_equal, back, jax.device_get(state.to_tree()))

    linear = saved["state"][[entry.key for entry in entries].index("linear.weight")]
    linear["row_var"] = linear["row_var"].T
    with pytest.raises(UserError, match=r"'row_var' of linear\.weight .* it is of another model"):
        from_torch(saved, optimizer.init(start).to_tree(), paths, optimizer, entries)


def test_adafactor_keeps_a_row_and_a_column_of_a_matrix():
    optimizer = build_optimizer(OptimConfig("adafactor"))
    slots = optimizer.init({"w": np.zeros((300, 200), np.float32), "b": np.zeros(200, np.float32)}).slots
    assert {slot: {path: a.size for path, a in kept.items()} for slot, kept in slots.items()} == {
        "row_var": {"w": 300}, "col_var": {"w": 200}, "variance": {"b": 200},
    }  # fmt: skip


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
