"""A plain DINO step in torch, put together from transformers' and torch's own parts, as people write one.

Dinov2Model with SDPA, weight-normalised heads, the centred cross entropy, KoLeo, a teacher by moving average, AdamW and
autocast. Nothing here is used by the library or its tests.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from slt_jax.pretraining.settings import PretrainConfig
from tools.benchmarks.processes import resident
from tools.benchmarks.timing import timed
from tools.benchmarks.torch_baseline import device_facts, dinov2, renamed


def build(config: PretrainConfig, vit: Mapping[str, Any], weights: Mapping[str, Any]):
    """A backbone and its head with our weights."""
    from torch import nn

    loss = config.loss
    hidden = [loss.head_hidden_dim] * (loss.head_nlayers - 1)
    widths, layers = [vit["embed_dim"], *hidden, loss.head_bottleneck_dim], []
    for number in range(loss.head_nlayers):
        layers += [nn.Linear(*widths[number : number + 2]), nn.GELU()]
    last = nn.utils.parametrizations.weight_norm(nn.Linear(loss.head_bottleneck_dim, loss.out_dim, bias=False))
    net = nn.ModuleDict({"backbone": dinov2(vit), "mlp": nn.Sequential(*layers[:-1]), "last": last})
    known = set(net.state_dict())
    state: dict[str, Any] = {}
    for key, tensor in weights.items():
        if key.startswith("backbone."):
            # `renamed` knows backbones as parts of an encoder.
            state |= {name.removeprefix("encoder."): part for name, part in renamed(
                f"encoder.{key}", tensor, {f"encoder.{name}" for name in known})}  # fmt: skip
        elif key.startswith("dino_head.mlp."):
            state[key.removeprefix("dino_head.")] = tensor
    rows = weights["dino_head.last_layer.weight_v"]
    state["last.parametrizations.weight.original1"] = rows
    state["last.parametrizations.weight.original0"] = rows.new_ones(len(rows), 1)  # norms stay 1, as in DINO
    net.load_state_dict(state)
    net["last"].parametrizations.weight.original0.requires_grad_(False)
    return net


def dino_loss(student, teacher, views: Mapping[str, Any], center, config: PretrainConfig):
    """The loss of a batch, and the mean of the teacher's outputs."""
    import torch
    from torch.nn import functional as F

    settings = config.loss

    def seen(net, images):
        cls = net["backbone"](images).last_hidden_state[:, 0]
        return cls, net["last"](F.normalize(net["mlp"](cls), dim=-1)).float()

    with torch.no_grad():
        logits = seen(teacher, views["large"])[1].unflatten(0, (-1, 2))
        targets = F.softmax((logits - center) / settings.warmup_teacher_temp, dim=-1)
    cls, found = seen(student, views["large"])
    log_seen = F.log_softmax(found / settings.student_temp, dim=-1).unflatten(0, (-1, 2))
    pairs = -(targets.flip(1) * log_seen).sum(dim=(1, 2))
    if "small" in views:
        found = seen(student, views["small"])[1].unflatten(0, (len(log_seen), -1))
        small = F.log_softmax(found / settings.student_temp, dim=-1)
        pairs = pairs - (targets.sum(1, keepdim=True) * small).sum(dim=(1, 2))
        pairs = pairs / (2 + 2 * small.shape[1])
    else:
        pairs = pairs / 2
    loss = pairs.mean()
    if settings.koleo_loss_weight:
        parts = [koleo(view) for view in cls.float().unflatten(0, (-1, 2)).unbind(1)]
        loss = loss + settings.koleo_loss_weight * sum(parts)
    return loss, logits.mean(dim=(0, 1))


def koleo(features):
    """Minus the mean log distance of each feature to its nearest neighbour."""
    import torch
    from torch.nn import functional as F

    x = F.normalize(features, dim=-1)
    with torch.no_grad():
        nearest = (x @ x.T).fill_diagonal_(-2).argmax(dim=1)
    return -torch.log(F.pairwise_distance(x, x[nearest], eps=1e-8) + 1e-8).mean()


class Training:
    """Steps on views that are on the device already."""

    def __init__(self, config: PretrainConfig, vit: Mapping[str, Any], weights: str, views: str, *, compiled: bool):
        import torch

        self.config = config
        on_gpu = config.run.device != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda" if on_gpu else "cpu")
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.backends.cudnn.allow_tf32 = False
        state = torch.load(weights, weights_only=True)
        self.student, self.teacher = (build(config, vit, state).to(self.device) for _ in range(2))
        self.teacher.requires_grad_(False)
        with np.load(views) as archive:
            self.views = {
                name: torch.from_numpy(array).flatten(0, 1).permute(0, 3, 1, 2).contiguous().to(self.device)
                for name, array in archive.items()
                if array.size
            }
        self.center = torch.zeros(config.loss.out_dim, device=self.device)
        self.dtype = {"amp": torch.bfloat16}.get(config.run.precision)
        self.trained = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        optim = config.optim
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=1e-4, weight_decay=optim.weight_decay, fused=self.device.type == "cuda"
        )
        self.compute = torch.compile(dino_loss, dynamic=False) if compiled else dino_loss
        self.warm = False

    def facts(self) -> dict[str, Any]:
        """The device and versions."""
        return device_facts(self.device)

    def loss(self) -> float:
        """The loss of the views in float32, before the first step."""
        import torch

        with torch.no_grad():
            return float(dino_loss(self.student, self.teacher, self.views, self.center, self.config)[0])

    def bytes_in_use(self) -> dict[str, int]:
        """Bytes now and at most: of tensors on a GPU, or on a CPU this process's."""
        import torch

        if self.device.type == "cpu":
            return resident()
        return {"now": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()}

    def turn(self, steps: int, warm_up: int) -> dict[str, Any]:
        """`steps` steps: time a step, and all losses. Untimed before: `warm_up` the first time, then one."""
        import torch

        losses: list[Any] = []

        def run(count: int) -> None:
            losses.extend(self._step() for _ in range(count))
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        run(1 if self.warm else warm_up)
        self.warm = True
        return {"seconds": timed(lambda: run(steps)) / steps, "losses": [float(loss) for loss in losses]}

    def _step(self):
        import torch

        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            loss, mean = self.compute(self.student, self.teacher, self.views, self.center, self.config)
        loss.backward()
        if self.config.optim.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.trained, self.config.optim.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            momentum, keep = self.config.loss.teacher_momentum_base, self.config.loss.center_momentum
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)
            self.center.lerp_(mean, 1 - keep)
        return loss.detach()
