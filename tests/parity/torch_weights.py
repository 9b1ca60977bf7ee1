"""The oracle's side of the decoder tests: torch weights into Flax modules, and the same batch through both.

Weights are copied by walking the module's attributes, as the attribute path is the torch key.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers.modeling_outputs import BaseModelOutput


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """In every module that imports it: compile three times faster, run slower; the models are tiny."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
    """`module` with every leaf replaced from `state`, whose keys must be exactly the module's, in order."""
    found = buffers_first(module)
    assert [key for key, _, _ in found] == list(state)
    for key, variable, transposed in found:
        array = state[key].detach().float().numpy()
        array = array.T if transposed else array
        assert array.shape == variable.shape, key
        variable[...] = np.array(array)
    return module


def decoder_state(checkpoint) -> dict[str, torch.Tensor]:
    """The HuggingFace model in a v9 checkpoint."""
    prefix = "decoder.model."
    state = torch.load(checkpoint)["model_state"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


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


# --- the same batch through both ----------------------------------------------------------------------------------


@functools.cache
def inputs(frames: int = 7, length: int = 9, width: int = 24, vocab: int = 31) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = rng.integers(2, vocab, (3, length))
    labels[1, -3:], labels[2, -1:] = -100, -100
    return {
        "encoded": rng.normal(size=(3, frames, width)).astype(np.float32),
        "encoder_mask": np.arange(frames) < np.array([[frames], [3], [5]]),
        "labels": labels,
        "decoder_mask": np.arange(length) < np.array([[length], [length - 3], [length - 1]]),
    }


def torch_forward(model, data, *, masked: bool = True):
    """The encoded frames as a torch leaf, and HuggingFace's output with the loss of the labels."""
    encoded = torch.tensor(data["encoded"], requires_grad=True)
    masks = {
        "attention_mask": torch.tensor(data["encoder_mask"]),
        "decoder_attention_mask": torch.tensor(data["decoder_mask"]),
    }
    output = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
        labels=torch.tensor(data["labels"]),
        **(masks if masked else {}),
    )
    return encoded, output


@nnx.jit
def forward(model, *args, **kwargs):
    return model(*args, **kwargs)


def token_loss(model, encoded, data):
    """Mean cross entropy over the labels that are not -100."""
    labels = jnp.asarray(data["labels"])
    logits = model(encoded, data["encoder_mask"], model.shift_right(labels), data["decoder_mask"])
    real = labels != -100
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.where(real, labels, 0)[..., None], axis=-1)
    return -(log_probs[..., 0] * real).sum() / real.sum()


def gradient_errors(module: nnx.Module, gradients: nnx.State, model: torch.nn.Module, ignore: str = "-") -> float:
    """The largest relative error of `gradients` of `module` over the parameters that got one in torch."""
    graph, _, buffers = nnx.split(module, nnx.Param, ...)
    merged = nnx.merge(graph, gradients, buffers)
    ours = {key: np.asarray(v[...]).T if t else v[...] for key, v, t in leaves(merged)}
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and ignore not in name}
    assert len(theirs) > 10
    return max(relative_error(ours[name], gradient) for name, gradient in theirs.items())
