"""Which hand masks a run goes on with: those that its first weights know."""

from pathlib import Path

import pytest

from convert.checkpoint import Checkpoint
from slt_jax.config import Config, build_config
from slt_jax.training.earlier import Earlier
from slt_jax.training.translation import with_hand_masks

BACKBONE = {"encoder.face_backbone.cls_token": None}
WHOLE = BACKBONE | {"encoder.fusion.proj.weight": None}
OURS, V9 = {"data": {"v9_hand_masks": False}}, {"data": {"batch_size": 4}}


@pytest.mark.parametrize(
    ("state", "saved", "hidden"),
    [
        (WHOLE, V9, True),
        (WHOLE, {}, True),
        (WHOLE, OURS, False),
        (BACKBONE, V9, False),  # no backbone has seen a mask
        (BACKBONE, {}, False),
        (None, V9, False),
    ],
)
def test_hands_are_hidden_from_weights_that_never_saw_one(state, saved, hidden):
    path = Path("given.pt")
    earlier = None if state is None else Earlier(path, saved, None, Checkpoint(path, state, {}), None)
    assert with_hand_masks(Config(), earlier).data.v9_hand_masks is hidden
    asked = build_config({"data": {"v9_hand_masks": not hidden}})
    assert with_hand_masks(asked, earlier).data.v9_hand_masks is not hidden
