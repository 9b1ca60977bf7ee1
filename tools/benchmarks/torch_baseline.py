"""The same model in torch, put together from transformers' and torch's own parts: what others would train with.

Three Dinov2Model with SDPA, projectors, fusion, torch.nn.TransformerEncoder and a HuggingFace decoder; label smoothing
and AdamW are torch's, mixed precision is autocast's. Nothing here is used by the library or its tests.
"""

import functools
import operator
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.config import Config
from slt_jax.errors import UserError
from slt_jax.streams import IMAGES, STREAMS, Stream
from tools.benchmarks.problem import raw_batch
from tools.benchmarks.processes import resident
from tools.benchmarks.timing import Seconds, timed

# --- the model ----------------------------------------------------------------------------------------------------


def build(config: Config, architecture: Mapping[str, Any], weights: Mapping[str, Any]):
    """The model as a tree of torch modules, with our weights; `architecture` is what `ours.Training.save` returned."""
    from torch import nn
    from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM

    model = config.model

    def projector(name: str, width: int) -> nn.Module:
        if f"encoder.{name}.layers.1.weight" not in weights:
            return nn.ModuleDict({"layers": nn.Identity()})
        rate = model.projector_dropout
        layers = [nn.LayerNorm(width, eps=1e-6), nn.Linear(width, model.projector_dim), nn.GELU()]
        layers += [nn.Dropout(rate)] if rate > 0 else []
        return nn.ModuleDict({"layers": nn.Sequential(*layers, nn.Linear(model.projector_dim, model.projector_dim))})

    parts = {}
    for stream, sizes in zip(IMAGES, architecture["backbones"], strict=True):
        parts[stream.backbone] = dinov2(sizes)
        parts[stream.projector] = projector(stream.projector, sizes["embed_dim"])
    layer = nn.TransformerEncoderLayer(
        model.d_model, model.temporal_nhead, model.temporal_dim_feedforward, model.temporal_dropout, batch_first=True
    )
    encoder = nn.ModuleDict(parts | {
        "pose_projector": projector("pose_projector", 3 * model.pose_landmarks),
        "fusion": nn.ModuleDict({
            "norm": nn.LayerNorm(len(STREAMS) * model.projector_dim), "dropout": nn.Dropout(model.fusion_dropout),
            "proj": nn.Linear(len(STREAMS) * model.projector_dim, model.d_model),
        }),
        "positional": nn.ModuleDict({"embedding": nn.Embedding(model.sequence_length, model.d_model)}),
        "temporal": nn.ModuleDict({
            "encoder": nn.TransformerEncoder(layer, model.temporal_layers, enable_nested_tensor=False)
        }),
    })  # fmt: skip
    settings = dict(architecture["decoder"])
    decoder = AutoModelForSeq2SeqLM.from_config(CONFIG_MAPPING[settings.pop("model_type")](**settings))
    net = nn.ModuleDict({"encoder": encoder, "decoder": nn.ModuleDict({"model": decoder})})

    known, frozen = set(net.state_dict()), set(architecture["frozen"])
    state: dict[str, Any] = {}
    still: set[str] = set()
    for key, tensor in weights.items():
        parts = dict(renamed(key, tensor, known))
        state |= parts
        still |= parts.keys() if key in frozen else set()
    net.load_state_dict(state)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in still)
    return net


def dinov2(sizes: Mapping[str, Any]):
    """transformers' model of a ViT of these sizes (slt_jax.models.vit.ViTConfig)."""
    from transformers import Dinov2Config, Dinov2Model

    if "embed_dim" not in sizes or sizes["num_register_tokens"] or sizes["mlp_ratio"] % 1:
        raise UserError("--against torch: its backbones are Dinov2Models, without register tokens; leave it out")
    config = Dinov2Config(
        hidden_size=sizes["embed_dim"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=sizes["num_heads"],
        patch_size=sizes["patch_size"],
        image_size=sizes["image_size"],
        mlp_ratio=int(sizes["mlp_ratio"]),
        use_swiglu_ffn=sizes["ffn"] == "swiglu",
        use_mask_token=False,
    )
    return Dinov2Model._from_config(config, attn_implementation="sdpa")


# Names of the DINOv2 hub, and transformers'.
NAMES = {
    "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.", "norm.": "layernorm.", "blocks.": "encoder.layer.",
}  # fmt: skip
IN_BLOCK = {
    ".ls1.gamma": ".layer_scale1.lambda1", ".ls2.gamma": ".layer_scale2.lambda1", ".attn.proj.": ".attention.o_proj.",
    ".mlp.w3.": ".mlp.down_proj.",
}  # fmt: skip
STACKED = {
    ".attn.qkv.": (".attention.q_proj.", ".attention.k_proj.", ".attention.v_proj."),
    ".mlp.w12.": (".mlp.gate_proj.", ".mlp.up_proj."),
}  # fmt: skip
BEFORE_5_23 = {  # modules of transformers
    ".q_proj.": ".attention.query.", ".k_proj.": ".attention.key.", ".v_proj.": ".attention.value.",
    ".o_proj.": ".output.dense.", ".down_proj.": ".weights_out.",
}  # fmt: skip


def renamed(key: str, tensor, known: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Our key's names among `known`, each with its part of the tensor; none for a mask token, which nothing uses."""
    match = re.fullmatch(r"(encoder\.\w*backbone\w*\.)(.+)", key)
    if match is None:
        yield key, tensor
        return
    prefix, name = match.groups()
    if name == "mask_token":
        return
    start = next(start for start in NAMES if name.startswith(start))
    name = NAMES[start] + name.removeprefix(start)
    for ours, theirs in IN_BLOCK.items():
        name = name.replace(ours, theirs)
    stacked = next((stacked for stacked in STACKED if stacked in name), None)
    names = [name.replace(stacked, apart) for apart in STACKED[stacked]] if stacked else [name]
    for name, part in zip(names, tensor.chunk(len(names)), strict=True):
        for new, old in BEFORE_5_23.items():
            if prefix + name not in known:
                name = name.replace(new, old)
        yield prefix + name, part


def encode(net, batch: Mapping[str, Any]):
    """Encoded frames (B, T, d_model)."""
    import torch

    encoder = net["encoder"]

    def features(stream: Stream):
        if not stream.images:
            return batch[stream.name] * batch[stream.mask].repeat_interleave(3, dim=-1)
        frames = batch[stream.name]
        tokens = encoder[stream.backbone](frames.flatten(0, 1)).last_hidden_state
        rows = tokens[:, 0].reshape(*frames.shape[:2], -1)
        return rows.masked_fill(batch[stream.mask][..., None], 0) if stream.mask else rows

    def shown(stream: Stream):
        rows = encoder[stream.projector]["layers"](features(stream))
        masks = [batch[mask][..., None] for mask in stream.hiding_masks]
        return rows.masked_fill(functools.reduce(operator.or_, masks), 0) if masks else rows

    fusion = encoder["fusion"]
    fused = fusion["proj"](fusion["dropout"](fusion["norm"](torch.cat([shown(stream) for stream in STREAMS], dim=-1))))
    places = torch.arange(fused.shape[1], device=fused.device)
    frames = fused + encoder["positional"]["embedding"](places)
    return encoder["temporal"]["encoder"](frames, src_key_padding_mask=~batch["pad_mask"])


def token_loss(net, batch: Mapping[str, Any], smoothing: float):
    """Mean cross entropy of the teacher-forced tokens."""
    from torch.nn import functional as F
    from transformers.modeling_outputs import BaseModelOutput

    labels, decoder = batch["labels"], net["decoder"]["model"]
    logits = decoder(
        encoder_outputs=BaseModelOutput(last_hidden_state=encode(net, batch)),
        attention_mask=batch["pad_mask"],
        decoder_input_ids=decoder.prepare_decoder_input_ids_from_labels(labels=labels),
        decoder_attention_mask=labels != -100,
        use_cache=False,
    ).logits
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=smoothing)


# --- what is timed ------------------------------------------------------------------------------------------------


def device_of(config: Config):
    import torch

    return torch.device("cuda" if config.data.device != "cpu" and torch.cuda.is_available() else "cpu")


def device_facts(device) -> dict[str, Any]:
    import torch
    import transformers

    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return {"device": name, "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}


class Training:
    """Steps of training on the batch that ours takes, already normalised and on the device."""

    def __init__(self, config: Config, architecture: Mapping[str, Any], weights: str, *, compiled: bool = False):
        import torch

        self.config = config
        self.device = device_of(config)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        torch.backends.cudnn.allow_tf32 = False  # float32 is float32, of the patch convolution too, as it is of ours
        self.net = build(config, architecture, torch.load(weights, weights_only=True)).to(self.device)
        self.batch = {
            name: self._tensor(name, array)
            for name, array in raw_batch(config, architecture["vocabulary"], config.data.batch_size).items()
        }
        self.dtype = {"amp": torch.bfloat16, "fp16": torch.float16}.get(config.data.precision)
        self.trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        self.optimizer = self._optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.loss_function = torch.compile(token_loss, dynamic=False) if compiled else token_loss
        self.warm = False

    def _tensor(self, name: str, array):
        import torch

        tensor = torch.from_numpy(array).to(self.device)
        if name == "labels":
            return tensor.long()
        if name not in {stream.name for stream in IMAGES}:
            return tensor
        mean, std = (torch.tensor(v, device=self.device) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return ((tensor / 255 - mean) / std).permute(0, 1, 4, 2, 3).contiguous()

    def _optimizer(self):
        import torch

        optim = self.config.optim
        if optim.optimizer != "adamw":
            raise UserError(f"--optimizer {optim.optimizer}: --against torch trains with adamw")
        fused = self.device.type == "cuda"
        return torch.optim.AdamW(self.trained, lr=optim.lr, weight_decay=optim.weight_decay, fused=fused)

    def facts(self) -> dict[str, Any]:
        return device_facts(self.device)

    def loss(self, rows: int) -> float:
        """The loss of the first rows in float32, without dropout."""
        import torch

        self.net.eval()
        with torch.no_grad():
            batch = {name: tensor[:rows] for name, tensor in self.batch.items()}
            return float(token_loss(self.net, batch, self.config.optim.label_smoothing))

    def bytes_in_use(self) -> dict[str, int]:
        """Bytes now and at most: of tensors on a GPU, or on a CPU this process's."""
        import torch

        if self.device.type == "cpu":
            return resident()
        return {"now": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()}

    def turn(self, steps: int, warm_up: int) -> dict[str, Any]:
        """`steps` optimiser steps: time a step, and all losses. Untimed before: `warm_up` the first time, then one."""
        losses = []

        def run(count: int) -> None:
            for _ in range(count):
                losses.extend(self._step())
            if self.device.type == "cuda":
                import torch

                torch.cuda.synchronize()

        self.net.train()
        run(1 if self.warm else warm_up)
        self.warm = True
        return {"seconds": timed(lambda: run(steps)) / steps, "losses": [float(loss) for loss in losses]}

    def _step(self) -> list:
        import torch

        losses, accumulated = [], self.config.training.grad_accum_steps
        for _ in range(accumulated):
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
                loss = self.loss_function(self.net, self.batch, self.config.optim.label_smoothing)
            self.scaler.scale(loss / accumulated).backward()
            losses.append(loss.detach())
        if self.config.optim.grad_clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.trained, self.config.optim.grad_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return losses


class Generation:
    """Texts by HuggingFace's search, from the weights and encoded frames that ours has written."""

    def __init__(self, config: Config, architecture: Mapping[str, Any], folder: str):
        import torch

        self.config = config
        self.device = device_of(config)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        net = build(config, architecture, torch.load(Path(folder, "weights.pt"), weights_only=True))
        self.decoder = net["decoder"]["model"].to(self.device).eval()
        self.encoded, self.mask = (
            torch.from_numpy(np.load(Path(folder, name))).to(self.device) for name in ("encoded.npy", "mask.npy")
        )

    def facts(self) -> dict[str, Any]:
        return device_facts(self.device)

    def tokens(self, beams: int):
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        with torch.no_grad():
            return (
                self.decoder.generate(
                    encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded),
                    attention_mask=self.mask,
                    num_beams=beams,
                    max_length=self.config.data.max_target_length,
                    do_sample=False,
                )
                .cpu()
                .numpy()
            )

    def turn(self, beams: int) -> Seconds:
        return timed(lambda: self.tokens(beams))
