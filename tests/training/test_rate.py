"""Learning rates by epoch are those of torch's schedulers, by step those of transformers'."""

import pytest
import torch
from transformers import optimization

from slt_jax.config import OptimConfig, TrainingConfig
from slt_jax.training.rate import Rates, schedule_notes

LR, STEPS, WARMUP = 0.02, 30, 6


def rates_of(schedule, optimizer, count: int):
    for _ in range(count):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({"scheduler": "steplr", "scheduler_step_size": 3, "scheduler_gamma": 0.3},
         lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.3)),
        ({"scheduler": "cosine", "scheduler_tmax": 5}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5)),
        ({"scheduler": "cosine"}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 8)),
        ({"scheduler": "none"}, lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
    ],
    ids=["steplr", "cosine", "cosine over the epochs", "none"],
)  # fmt: skip
def test_schedules_are_torchs(settings, schedule):
    """Also past T_max, where torch's cosine rises again."""
    theirs = optimizer()
    rates = Rates(OptimConfig(lr=LR, **settings), epochs=8, steps=80)
    for done, rate in enumerate(rates_of(schedule(theirs), theirs, 14)):
        assert rates(done, 10 * done) == pytest.approx(rate, rel=1e-9, abs=1e-15), done


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({"scheduler": "linear"}, lambda o, w: optimization.get_linear_schedule_with_warmup(o, w, STEPS)),
        ({"scheduler": "cosine", "scheduler_unit": "step"},
         lambda o, w: optimization.get_cosine_schedule_with_warmup(o, w, STEPS)),
        ({"scheduler": "inverse_sqrt"}, lambda o, w: optimization.get_inverse_sqrt_schedule(o, w)),
        ({"scheduler_unit": "step"}, lambda o, w: optimization.get_constant_schedule_with_warmup(o, w)),
    ],
    ids=["linear", "cosine", "inverse_sqrt", "none"],
)  # fmt: skip
def test_schedules_by_step_are_those_of_transformers(settings, schedule, warmup):
    """Also after the last step."""
    theirs = optimizer()
    rates = Rates.of(OptimConfig(lr=LR, warmup_steps=warmup, **settings), TrainingConfig(epochs=3), STEPS // 3)
    for step, rate in enumerate(rates_of(schedule(theirs, warmup), theirs, STEPS + 8)):
        assert rates(step // 10, step) == pytest.approx(rate, rel=1e-9, abs=1e-15), step


def test_steplr_by_step_waits_for_the_warm_up():
    theirs = optimizer()
    parts = [torch.optim.lr_scheduler.LambdaLR(theirs, lambda step: step / WARMUP),
             torch.optim.lr_scheduler.StepLR(theirs, 4, 0.5)]  # fmt: skip
    settings = OptimConfig(
        lr=LR,
        scheduler="steplr",
        scheduler_unit="step",
        scheduler_step_size=4,
        scheduler_gamma=0.5,
        warmup_steps=WARMUP,
    )
    both = torch.optim.lr_scheduler.SequentialLR(theirs, parts, [WARMUP])
    ours = [Rates(settings, 1)(0, step) for step in range(STEPS)]
    assert ours == pytest.approx(list(rates_of(both, theirs, STEPS)), rel=1e-9)


def test_a_schedule_by_epoch_can_warm_up_by_step():
    rates = Rates(OptimConfig(lr=LR, scheduler="cosine", warmup_steps=15), epochs=4)
    assert [rates(0, 0), rates(0, 5), rates(1, 10)] == pytest.approx([0, LR / 3, rates(1, 20) * 10 / 15])


def test_a_schedule_ends_with_max_steps():
    optim = OptimConfig(lr=LR, scheduler="linear")
    assert Rates.of(optim, TrainingConfig(epochs=10, max_steps=20), steps_per_epoch=10)(1, 10) == LR / 2
    assert Rates.of(optim, TrainingConfig(epochs=1, max_steps=20), steps_per_epoch=10)(0, 5) == LR / 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_steps": 31}, "max_steps 31: 3 epochs end after 30 steps"),
        ({"max_steps": 30}, None),
        ({"warmup_steps": 30}, "warmup_steps 30: the rate never gets to optim.lr, the run has 30 steps"),
        ({"warmup_steps": 29, "scheduler": "cosine"}, None),
        ({"scheduler": "linear", "warmup_steps": 5, "scheduler_tmax": 3}, "the rate of the run's last 22 is 0"),
        ({"scheduler": "cosine", "scheduler_unit": "step", "scheduler_tmax": 30}, None),
        ({"scheduler": "cosine", "scheduler_tmax": 2}, None),  # torch's rises again
    ],
)
def test_a_schedule_that_the_run_does_not_see_is_told(settings, told):
    optim = {key: value for key, value in settings.items() if key != "max_steps"}
    training = TrainingConfig(epochs=3, max_steps=settings.get("max_steps"))
    notes = schedule_notes(OptimConfig(lr=LR, **optim), training, steps_per_epoch=10)
    assert any(told in note for note in notes) if told else not notes
