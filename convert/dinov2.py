"""Read backbone weights of every origin under the keys of the DINOv2 hub models, which are our attribute names.

Origins: the hub's `.pth` files, HuggingFace's Dinov2 and Dinov2WithRegisters models, and what DINO, iBOT and DINOv2
training runs save.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.huggingface import read_folder, read_safetensors
from convert.state_dict import strip_prefixes
from convert.torch_file import read_pt
from slt_jax.base.json_text import read_json
from slt_jax.errors import UserError
from slt_jax.models.vit import VIT_SIZES, ViTConfig

# Where a training run keeps the backbone. The teacher is the better of the two.
ENTRIES = ("teacher", "model", "model_state", "state_dict", "student", "backbone", "encoder")
HEADS = re.compile(r"(head|dino_head|ibot_head|dino_loss|ibot_patch_loss|classifier|fc)\.")
MARKS = ("cls_token", "embeddings.cls_token")  # every backbone has one of these


@dataclass(frozen=True)
class BackboneWeights:
    """A ViT's weights under hub names, its sizes, and a note of what was left out."""

    state: dict[str, np.ndarray]
    sizes: ViTConfig
    note: str | None


def read_backbone(path: str | Path, model: str | None = None) -> BackboneWeights:
    """The backbone in `path`, a weight file or a HuggingFace folder.

    If `model` is a hub name such as `dinov2_vitb14_reg`, the weights must be of it. Raises UserError in one line.
    """
    path = Path(path)
    config: Mapping[str, Any] = {}
    if path.is_dir():
        config, state = _folder_config(path), read_folder(path)
    elif path.suffix == ".safetensors":
        state = read_safetensors(path)
    else:
        state = _entry(read_pt(path), path)
    published = VIT_SIZES[model.removeprefix("dinov2_")] if model else None
    try:
        # transformers resizes positions to a size, the hub by a factor with an offset. Each keeps its own way.
        offset = 0.0 if any(key.endswith("embeddings.cls_token") for key in state) else None
        state, note = hub_state(state)
        if model and published:
            _check_name(model, published, vit_sizes(state, num_heads=1))
        heads = config.get("num_attention_heads") or (published.num_heads if published else None)
        sizes = vit_sizes(state, num_heads=heads, interpolate_offset=offset)
    except ValueError as error:  # a UserError, or what ViTConfig refuses
        raise UserError(f"{path}: {error}") from None
    return BackboneWeights(state, sizes, note)


def _folder_config(folder: Path) -> Mapping[str, Any]:
    if not (folder / "config.json").exists():
        return {}
    config = read_json(folder / "config.json", "backbone")
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'}: is not the configuration of a model")
    kind = config.get("model_type", "dinov2")
    if kind not in ("dinov2", "dinov2_with_registers"):
        raise UserError(f"{folder}: is a {str(kind)[:40]} model; a backbone is a dinov2 or dinov2_with_registers model")
    if config.get("hidden_act", "gelu") != "gelu" or config.get("layer_norm_eps", 1e-6) != 1e-6:
        raise UserError(f"{folder}: its activation or LayerNorm epsilon is not DINOv2's (gelu, 1e-6)")
    return config


def _entry(content: Any, path: Path) -> dict[str, np.ndarray]:
    """Find the state dict in what a training run saved."""
    for _ in range(4):
        if not isinstance(content, Mapping):
            break
        if any(key.endswith(MARKS) for key in content):
            return {key: value for key, value in content.items() if isinstance(value, np.ndarray)}
        content = next((content[name] for name in ENTRIES if isinstance(content.get(name), Mapping)), None)
    raise UserError(
        f"{path}: has no vision transformer in it (no cls_token, neither at the top nor under {', '.join(ENTRIES[:5])})"
    )


def hub_state(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str | None]:
    """A ViT's complete state dict under hub names, and a note of what was left out, such as heads.

    What DINO and iBOT do not have is filled in: LayerScale with 1, the mask token with 0. Raises UserError
    if there is no ViT in `state`.
    """
    state = strip_prefixes(state)
    marks = [key for key in state if key.endswith(MARKS)]
    if not marks:
        raise UserError("has no vision transformer in it (no cls_token)")
    mark = next((key for key in marks if "teacher" in key), marks[0])
    prefix = mark.removesuffix("cls_token").removesuffix("embeddings.")
    inside = {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
    weights = {key: array for key, array in inside.items() if not HEADS.match(key)}
    note = None
    if dropped := len(state) - len(weights):
        names = {key.split(".")[0] for key in inside.keys() - weights.keys()}
        names |= {".".join(key.split(".")[:2]) for key in state if not key.startswith(prefix)}
        note = f"{dropped} tensors that are not the backbone's are left out ({', '.join(sorted(names)[:5])})"
    if "embeddings.cls_token" in weights:
        weights = _from_huggingface(weights)
    weights = _from_timm({_hub_key(key): array for key, array in weights.items()})
    width = weights["cls_token"].shape[-1]
    if "mask_token" not in weights:
        weights["mask_token"] = np.zeros((1, width), np.float32)
    for index in range(_depth(weights)):
        if f"blocks.{index}.attn.qkv.bias" not in weights:
            weights[f"blocks.{index}.attn.qkv.bias"] = np.zeros(3 * width, np.float32)
        for name in ("ls1", "ls2"):
            weights.setdefault(f"blocks.{index}.{name}.gamma", np.ones(width, np.float32))
    return weights, note


def _hub_key(key: str) -> str:
    # DINOv2's own training puts blocks in chunks but numbers them throughout; iBOT names the mask token differently.
    key = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key)
    key = re.sub(r"^blocks\.(\d+)\.gamma_([12])$", r"blocks.\1.ls\2.gamma", key)
    return {"masked_embed": "mask_token", "reg_token": "register_tokens"}.get(key, key)


def _from_timm(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undo what timm does to DINOv2's tensors: with registers the class token has its position added already, and
    SwiGLU's layers are called as those of an MLP are."""
    positions = state.get("pos_embed")
    count = 0 if positions is None or positions.ndim != 3 else positions.shape[1]
    if positions is not None and count and "register_tokens" in state and math.isqrt(count) ** 2 == count:
        none = np.zeros((1, 1, positions.shape[2]), positions.dtype)
        state["pos_embed"] = np.concatenate([none, positions], axis=1)
    inner, outer = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if inner is not None and outer is not None and inner.shape[0] == 2 * outer.shape[1]:
        return {key.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3."): state[key] for key in state}
    return state


# --- HuggingFace's names: those in files, and those that modules have since transformers 5.23 ---------------------

OUTSIDE_BLOCKS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
IN_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3",
    "mlp.down_proj": "mlp.w3",
}
# Tensors that the hub has stacked, in its order.
STACKED: dict[str, list[tuple[str, ...]]] = {
    "attn.qkv": [
        ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    ],
    "mlp.w12": [("mlp.gate_proj", "mlp.up_proj")],
}


def _from_huggingface(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace HuggingFace's names by hub names. A name in neither table stays, so that the +/- diff shows it."""
    hub: dict[str, np.ndarray] = {}
    blocks: dict[str, dict[str, np.ndarray]] = {}
    for key, array in state.items():
        block = re.match(r"encoder\.layer\.(\d+)\.(.+)", key)
        if block:
            blocks.setdefault(block[1], {})[block[2]] = array
        else:
            hub[OUTSIDE_BLOCKS.get(key, key)] = array
    for index, block_state in blocks.items():
        for stacked, choices in STACKED.items():
            for names in choices:
                for kind in ("weight", "bias"):
                    if all(f"{name}.{kind}" in block_state for name in names):
                        parts = [np.asarray(block_state.pop(f"{name}.{kind}"), np.float32) for name in names]
                        hub[f"blocks.{index}.{stacked}.{kind}"] = np.concatenate(parts)
        for name, array in block_state.items():
            layer, _, kind = name.rpartition(".")
            renamed = IN_BLOCK[name] if name in IN_BLOCK else f"{IN_BLOCK.get(layer, layer)}.{kind}"
            hub[f"blocks.{index}.{renamed}"] = array
    return hub


# --- sizes from weights -------------------------------------------------------------------------------------------


def vit_sizes(
    state: Mapping[str, np.ndarray],
    prefix: str = "",
    *,
    num_heads: int | None = None,
    interpolate_offset: float | None = None,
) -> ViTConfig:
    """The sizes of a ViT from its weights under hub names.

    Weights do not show `num_heads`; by default heads are 64 wide, as in every published model. Register variants
    have the antialiased resize. Raises UserError if the weights are not a ViT's.
    """
    try:
        width, patch = state[f"{prefix}patch_embed.proj.weight"].shape[0::3]
        positions = state[f"{prefix}pos_embed"].shape[1] - 1
        swiglu = f"{prefix}blocks.0.mlp.w3.weight" in state
        hidden = state[f"{prefix}blocks.0.mlp.{'w3' if swiglu else 'fc2'}.weight"].shape[1]
    except (KeyError, IndexError) as error:
        raise UserError(f"the state dict has no {error.args[0]}; it is not that of a DINOv2 backbone") from None
    grid = round(positions**0.5)
    if grid * grid != positions:
        raise UserError(f"its pos_embed has {positions} patches, which is not a square")
    if num_heads is None and width % 64:
        raise UserError(f"the heads of a backbone {width} wide cannot be told from its weights; give model.backbone")
    registers = state[f"{prefix}register_tokens"].shape[1] if f"{prefix}register_tokens" in state else 0
    if interpolate_offset is None:
        interpolate_offset = 0.0 if registers else 0.1
    return ViTConfig(
        embed_dim=width,
        depth=_depth(state, prefix),
        num_heads=num_heads or width // 64,
        patch_size=patch,
        image_size=grid * patch,
        num_register_tokens=registers,
        mlp_ratio=_mlp_ratio(width, hidden, swiglu),
        ffn="swiglu" if swiglu else "mlp",
        interpolate_antialias=registers > 0,
        interpolate_offset=interpolate_offset,
    )


def _mlp_ratio(width: int, hidden: int, swiglu: bool) -> float:
    """The ratio that gives `hidden` by the model's own formula; 4 if that does."""

    def formula(ratio: float) -> int:
        full = int(width * ratio)
        return (int(full * 2 / 3) + 7) // 8 * 8 if swiglu else full

    full = hidden * 3 / 2 if swiglu else hidden
    for ratio in (4.0, full / width, (full + 0.5) / width, (full - 1) / width):
        if formula(ratio) == hidden:
            return ratio
    raise UserError(f"its feed-forward is {hidden} wide, which no mlp_ratio of a {width} wide SwiGLU model gives")


def _depth(state: Mapping[str, np.ndarray], prefix: str = "") -> int:
    pattern = re.compile(rf"{re.escape(prefix)}blocks\.(\d+)\.")
    return max((int(match[1]) for key in state if (match := pattern.match(key))), default=-1) + 1


def _check_name(model: str, named: ViTConfig, sizes: ViTConfig) -> None:
    for field in ("embed_dim", "depth", "patch_size", "num_register_tokens", "ffn"):
        wanted, got = getattr(named, field), getattr(sizes, field)
        if wanted != got:
            raise UserError(f"is not a {model}: its {field} is {got}, not {wanted}; leave the model name out")
