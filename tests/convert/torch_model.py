"""v9's model in torch, from REFERENCE.md alone: the other side of tests that pass a training state back and forth."""

import json

import torch
import torch.nn.functional as F
import transformers
from torch import nn


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width))


class Scale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(width, 1e-6), Attention(width, heads), Scale(width)
        self.norm2 = nn.LayerNorm(width, 1e-6)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.ls2 = Scale(width)

    def forward(self, x):
        x = x + self.ls1.gamma * self.attn(self.norm1(x))
        return x + self.ls2.gamma * self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class Backbone(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, patch: int = 14, grid: int = 37):
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, images):
        x = self.patch_embed.proj(images)
        rows, width = x.shape[-1], x.shape[1]
        table = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, width).permute(0, 3, 1, 2)
        table = F.interpolate(table, scale_factor=(rows + 0.1) / self.grid, mode="bicubic")
        x = x.flatten(2).transpose(1, 2) + table.permute(0, 2, 3, 1).reshape(1, -1, width)
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class Projector(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(inputs, 1e-6), nn.Linear(inputs, outputs), nn.GELU(), nn.Linear(outputs, outputs)
        )

    def forward(self, x):
        return self.layers(x)


class Encoder(nn.Module):
    def __init__(self, model: dict, vit: dict, projector: str):
        super().__init__()
        d, p, width = model["d_model"], model["projector_dim"], vit["embed"]
        for name in ("face_backbone", "hand_backbone_left", "hand_backbone_right"):
            setattr(self, name, Backbone(width, vit["depth"], vit["heads"]))
        for name in ("face_projector", "hand_left_projector", "hand_right_projector"):
            setattr(self, name, Projector(width, p) if projector == "mlp" else nn.Identity())
        self.pose_projector = Projector(3 * model["pose_landmarks"], p)
        self.fusion = nn.Module()
        self.fusion.norm, self.fusion.proj = nn.LayerNorm(4 * p), nn.Linear(4 * p, d)
        self.positional = nn.Module()
        self.positional.embedding = nn.Embedding(model["sequence_length"], d)
        layer = nn.TransformerEncoderLayer(
            d, model["temporal_nhead"], model["temporal_dim_feedforward"], 0.0, batch_first=True
        )
        self.temporal = nn.Module()
        self.temporal.encoder = nn.TransformerEncoder(layer, model["temporal_layers"], enable_nested_tensor=False)

    def forward(self, batch):
        def frames(backbone, images):
            return backbone(images.flatten(0, 1)).reshape(*images.shape[:2], -1)

        missing_left, missing_right = batch["miss_mask_hl"][..., None], batch["miss_mask_hr"][..., None]
        face = self.face_projector(frames(self.face_backbone, batch["face"]))
        left = frames(self.hand_backbone_left, batch["hand_l"]).masked_fill(missing_left, 0)
        right = frames(self.hand_backbone_right, batch["hand_r"]).masked_fill(missing_right, 0)
        either = missing_left | missing_right
        left = self.hand_left_projector(left).masked_fill(either, 0)
        right = self.hand_right_projector(right).masked_fill(either, 0)
        pose = self.pose_projector(batch["pose"] * batch["pose_conf_mask"].repeat_interleave(3, -1))
        x = self.fusion.proj(self.fusion.norm(torch.cat([face, left, right, pose], -1)))
        x = x + self.positional.embedding.weight[: x.shape[1]]
        return self.temporal.encoder(x, src_key_padding_mask=~batch["pad_mask"])


class TorchModel(nn.Module):
    """The model of a golden."""

    def __init__(self, golden):
        super().__init__()
        model = golden.case["model"]
        self.encoder = Encoder(model, golden.case["vit"], golden.case["projector"])
        self.decoder = nn.Module()
        self.decoder.model = _decoder(golden, model)

    def forward(self, batch):
        encoded, labels = self.encoder(batch), batch["labels"]
        return self.decoder.model(
            encoder_outputs=transformers.modeling_outputs.BaseModelOutput(encoded), attention_mask=batch["pad_mask"],
            labels=labels, decoder_attention_mask=labels != -100,
        ).logits


def _decoder(golden, model: dict):
    if model["decoder_config"]:
        fields = json.loads((golden.folder / "decoder_config" / "config.json").read_text())
        kind = fields.pop("model_type")
        # transformers 5 writes `tie_word_embeddings: true` into every T5 configuration.
        fields["tie_word_embeddings"] = golden.folder.name != "t5_v1_1"
    else:
        heads, d = model["decoder_heads"], model["d_model"]
        kind, fields = "t5", {
            "vocab_size": golden.case["vocab_size"], "d_model": d, "d_kv": d // heads, "d_ff": 4 * d,
            "num_layers": model["decoder_layers"], "num_heads": heads, "dropout_rate": 0.0, "pad_token_id": 0,
            "eos_token_id": 1, "decoder_start_token_id": 0,
        }  # fmt: skip
    if kind == "bart":
        return transformers.BartForConditionalGeneration(transformers.BartConfig(**fields))
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**fields))


def batches(golden) -> list[dict[str, torch.Tensor]]:
    found = []
    for name in ("b0", "b1"):
        batch = {key: torch.tensor(value) for key, value in golden.batch(name).items()}
        found.append({key: value.bool() if "_mask" in key else value for key, value in batch.items()})
    return found


def optimizer_of(golden, parameters) -> torch.optim.Optimizer:
    settings = dict(golden.case["optim"]["opt"])
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    return kinds[settings.pop("type")](parameters, **settings)


def train(golden, model, optimizer, first: int) -> list[float]:
    """The losses of v9's optimiser steps from number `first` on, at v9's learning rates."""
    data, optim, losses = batches(golden), golden.case["optim"], []
    model.train()
    for i in range(first, golden.case["train_steps"]):
        for group in optimizer.param_groups:
            group["lr"] = float(golden.expected["train_lrs"][i])
        batch = data[i % 2]
        logits, labels = model(batch).flatten(0, 1), batch["labels"].flatten()
        loss = F.cross_entropy(logits, labels, label_smoothing=optim["label_smoothing"])
        optimizer.zero_grad()
        loss.backward()
        if optim["clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), optim["clip"])
        optimizer.step()
        losses.append(loss.item())
    return losses
