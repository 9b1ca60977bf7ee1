"""Copies torch weights into a Flax module by walking its attributes: the attribute path is the torch key."""

import numpy as np
import torch
from flax import nnx

forward = nnx.jit(lambda model, *args, **kwargs: model(*args, **kwargs))
LEAF_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def leaves(module: nnx.Module, prefix: str = ""):
    """(torch key, variable, whether torch transposes it) in the order of assignment; tied ones under each name."""
    for name, value in vars(module).items():
        if isinstance(value, nnx.Variable):
            yield f"{prefix}{LEAF_NAMES.get(name, name)}", value, name == "kernel"
        elif isinstance(value, nnx.Module):
            yield from leaves(value, f"{prefix}{name}.")


def buffers_first(module: nnx.Module) -> list:
    """`leaves` in torch's state-dict order: a module's own parameters and buffers come before its children's."""
    return sorted(leaves(module), key=lambda leaf: "." in leaf[0])


def load(module: nnx.Module, state: dict[str, torch.Tensor]) -> nnx.Module:
    """`module` with every leaf replaced from `state`, whose keys must be exactly the module's."""
    seen = []
    for key, variable, transposed in buffers_first(module):
        array = state[key].detach().float().numpy()
        array = array.T if transposed else array
        assert array.shape == variable[...].shape, key
        variable[...] = np.array(array)
        seen.append(key)
    assert seen == list(state)
    return module


def randomise(model: torch.nn.Module, seed: int, std: float) -> torch.nn.Module:
    """Large random parameters, so that predictions differ from token to token; norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            is_scale = p.ndim == 1 and name.endswith("weight")
            p.copy_(1 + 0.2 * noise if is_scale else std * noise)
    return model.eval()


def relative_error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def gradient_errors(module: nnx.Module, gradients: nnx.State, model: torch.nn.Module) -> float:
    """The largest relative error of `gradients` of `module` over the parameters that got one in torch."""
    graph, _ = nnx.split(module)
    ours = {key: np.asarray(v[...]).T if t else v[...] for key, v, t in leaves(nnx.merge(graph, gradients))}
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(theirs) > 10
    return max(relative_error(ours[name], gradient) for name, gradient in theirs.items())
