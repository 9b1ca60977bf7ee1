"""Later v9 numbers only what needs a gradient, the encoder's and the decoder's parameters in a group each."""

import numpy as np
import pytest
import torch

from convert import read_pt, write_pt
from convert.optimizer import from_torch, numbering, rates_note, regrouped
from convert.state_dict import Entry
from slt_jax.cli.convert import main
from slt_jax.errors import UserError
from slt_jax.training.optim import Optimizer
from tests.convert.models import settings, tiny


class Plain:
    """A layout that changes nothing."""

    def to_torch(self, array):
        return array

    def to_jax(self, array):
        return array


KEYS = {
    "encoder.face_backbone.w": (2, 3), "encoder.face_backbone.b": (3,), "encoder.fusion.w": (4,),
    "decoder.model.shared": (5,), "decoder.model.encoder.unused": (6,), "decoder.model.head": (7,),
}  # fmt: skip
FROZEN = {"encoder.face_backbone.w", "encoder.face_backbone.b"}
TRAINED = KEYS.keys() - FROZEN - {"decoder.model.encoder.unused"}
ENTRIES = [Entry(key, key, shape, Plain(), False) for key, shape in KEYS.items()]
ADAMW = Optimizer("adamw")


def saved_by_torch(grouping: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """torch's own state after a step, with its parameters grouped as a version of v9 groups them."""
    torch.manual_seed(0)
    parameters = {key: torch.nn.Parameter(torch.randn(shape)) for key, shape in KEYS.items()}
    for key, parameter in parameters.items():
        parameter.requires_grad = key not in FROZEN
    needing = {key: p for key, p in parameters.items() if p.requires_grad}
    groups = {
        "all": [{"params": list(parameters.values())}],
        "trained": [{"params": list(needing.values())}],
        "later": [
            {"params": [p for key, p in needing.items() if key.startswith(part)], "lr": rate}
            for part, rate in (("encoder.", 1e-3), ("decoder.", 2e-3))
        ],
    }
    optimizer = torch.optim.AdamW(groups[grouping], weight_decay=0.01)
    for key in TRAINED:
        parameters[key].grad = torch.randn(KEYS[key])
    optimizer.step()
    means = {key: optimizer.state[parameters[key]]["exp_avg"] for key in TRAINED}
    return numpy(optimizer.state_dict()), means


def numpy(tree):
    if isinstance(tree, torch.Tensor):
        return tree.numpy()
    if isinstance(tree, dict):
        return {key: numpy(value) for key, value in tree.items()}
    return [numpy(value) for value in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize("grouping", ["all", "trained", "later"])
def test_each_parameter_gets_its_own_state_back(grouping):
    saved, means = saved_by_torch(grouping)
    fresh = ADAMW.init({key: np.zeros(KEYS[key], np.float32) for key in TRAINED}).to_tree()
    read = from_torch(saved, fresh, TRAINED, ADAMW, ENTRIES, FROZEN)
    for key, mean in means.items():
        np.testing.assert_array_equal(read["exp_avg"][key], mean)
    np.testing.assert_array_equal(read["step"], np.ones(len(TRAINED)))


@pytest.mark.parametrize("origin", ["all", "later"])
def test_torch_loads_the_layout_that_is_asked_for(origin):
    saved, means = saved_by_torch(origin)
    later = regrouped(saved, "later-v9", ENTRIES, FROZEN)
    assert [group["params"] for group in later["param_groups"]] == [[0], [1, 2, 3]]
    assert sorted(later["state"]) == [0, 1, 3]  # torch keeps nothing of what never had a gradient
    np.testing.assert_array_equal(later["state"][3]["exp_avg"], means["decoder.model.head"])
    back = regrouped(later, "v9", ENTRIES, FROZEN)
    assert [group["params"] for group in back["param_groups"]] == [list(range(6))]
    assert sorted(back["state"]) == [2, 3, 5]
    np.testing.assert_array_equal(back["state"][5]["exp_avg"], means["decoder.model.head"])


def test_what_fits_nothing_is_refused_with_the_numbers():
    saved, _ = saved_by_torch("later")
    with pytest.raises(UserError) as error:
        numbering(saved, ENTRIES)  # as if nothing were frozen
    assert "has 1 + 3 parameters, the model has 6, of which 6 are not frozen (3 of the encoder, 3 of the decoder)" in (
        str(error.value)
    )
    assert "--freeze-face-backbone" in str(error.value)
    other = [Entry(e.key, e.path, (9, *e.shape), e.layout, False) for e in ENTRIES]
    fresh = ADAMW.init({key: np.zeros((9, *KEYS[key]), np.float32) for key in TRAINED}).to_tree()
    with pytest.raises(UserError, match="of another model"):
        from_torch(saved, fresh, TRAINED, ADAMW, other, FROZEN)


def test_rates_that_differ_are_told():
    assert "0.001, 0.002" in rates_note(saved_by_torch("later")[0], ADAMW)
    assert rates_note(saved_by_torch("all")[0], ADAMW) is None


def test_to_torch_writes_either_layout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan, state = tiny()
    model = settings() | {"freeze_face_backbone": True}
    _, entries = plan.structure()
    paths = list({entry.path: None for entry in entries if not entry.buffer})
    group = {"lr": 0.1, "weight_decay": 0.0, "betas": (0.9, 0.999), "params": list(range(len(paths)))}
    last = paths.index(next(path for path in paths if path.startswith("encoder.fusion.proj")))
    slots = {"step": np.array(3, np.float32), "exp_avg": np.ones(1), "exp_avg_sq": np.ones(1)}
    saved = {"state": {last: slots}, "param_groups": [group]}
    write_pt("v9.pt", {"epoch": 1, "model_state": state, "optimizer_state": saved, "config": {"model": model}})
    assert main(["to-torch", "v9.pt", "later.pt", "--layout", "later-v9"]) == 0
    groups = [group["params"] for group in read_pt("later.pt")["optimizer_state"]["param_groups"]]
    frozen = sum(path.startswith("encoder.face_backbone.") for path in paths)
    assert sum(map(len, groups)) == len(paths) - frozen
    assert groups[0][-1] + 1 == groups[1][0]
    assert list(read_pt("later.pt")["optimizer_state"]["state"]) == [last - frozen]
    assert main(["to-torch", "later.pt", "back.pt"]) == 0
    assert list(read_pt("back.pt")["optimizer_state"]["state"]) == [last]

    # A later v9 without the groups: it numbers what is not frozen, in one.
    trained = {"state": {last - frozen: slots}, "param_groups": [group | {"params": list(range(len(paths) - frozen))}]}
    write_pt("one.pt", {"epoch": 1, "model_state": state, "optimizer_state": trained, "config": {"model": model}})
    assert main(["to-torch", "one.pt", "from_one.pt"]) == 0
    assert list(read_pt("from_one.pt")["optimizer_state"]["state"]) == [last]
    group["params"].pop()
    write_pt("odd.pt", {"epoch": 1, "model_state": state, "optimizer_state": saved, "config": {"model": model}})
    assert main(["to-torch", "odd.pt", "from_odd.pt"]) == 2
    assert "--weights-only leaves out the optimiser's state" in capsys.readouterr().err
    assert main(["to-torch", "odd.pt", "from_odd.pt", "--weights-only"]) == 0

    assert main(["to-torch", "v9.pt", "x.pt", "--layout", "later-v9", "--weights-only"]) == 2
    assert "--layout is about the optimiser's state" in capsys.readouterr().err
