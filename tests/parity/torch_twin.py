"""A v9-shaped model in plain torch, written from v9's modules and independent of the library.

It stands for the code that must load our files: names, order and arithmetic are torch's own.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width))


class LayerScale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.ls2 = LayerScale(width)

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class DinoV2(nn.Module):
    """The hub's ViT; images (N, 3, H, W) to the normalised CLS token (N, width)."""

    def __init__(self, width: int, depth: int, heads: int, patch: int = 14, grid: int = 37):
        super().__init__()
        self.patch, self.grid = patch, grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Identity()

    def positions(self, rows: int, columns: int):
        if rows == columns == self.grid:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        factor = ((rows + 0.1) / self.grid, (columns + 0.1) / self.grid)
        grid = F.interpolate(grid, scale_factor=factor, mode="bicubic")
        assert grid.shape[-2:] == (rows, columns)
        return torch.cat([self.pos_embed[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)

    def forward(self, images):
        rows, columns = (side // self.patch for side in images.shape[-2:])
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), self.patch_embed(images)], dim=1)
        tokens = tokens + self.positions(rows, columns)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


class StreamProjector(nn.Module):
    def __init__(self, width: int, out: int, rate: float):
        super().__init__()
        inner = [nn.Dropout(rate)] if rate > 0 else []
        self.layers = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), nn.Linear(width, out), nn.GELU(), *inner, nn.Linear(out, out)
        )

    def forward(self, x):
        return self.layers(x)


class Fusion(nn.Module):
    def __init__(self, width: int, out: int, rate: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(rate)
        self.proj = nn.Linear(width, out)

    def forward(self, streams):
        return self.proj(self.dropout(self.norm(torch.cat(streams, dim=-1))))


class Positional(nn.Module):
    def __init__(self, length: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(length, width)

    def forward(self, x):
        return x + self.embedding(torch.arange(x.shape[1]))


class Temporal(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, hidden: int, rate: float):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, hidden, rate, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x, pad_mask):
        return self.encoder(x, src_key_padding_mask=None if pad_mask is None else ~pad_mask)


class Encoder(nn.Module):
    def __init__(self, model: dict, vit: dict, identity: bool):
        super().__init__()
        width, out, rate = vit["embed"], model["projector_dim"], model.get("projector_dropout", 0.0)
        grid = vit.get("grid", vit.get("image_size", 518) // 14)

        def backbone():
            return DinoV2(width, vit["depth"], vit["heads"], grid=grid)

        def projector():
            return nn.Identity() if identity else StreamProjector(width, out, rate)

        self.face_backbone, self.hand_backbone_left, self.hand_backbone_right = backbone(), backbone(), backbone()
        self.face_projector, self.hand_left_projector, self.hand_right_projector = projector(), projector(), projector()
        self.pose_projector = StreamProjector(3 * model["pose_landmarks"], out, rate)
        self.fusion = Fusion(4 * out, model["d_model"], model.get("fusion_dropout", 0.0))
        self.positional = Positional(model["sequence_length"], model["d_model"])
        self.temporal = Temporal(
            model["d_model"],
            model["temporal_nhead"],
            model["temporal_layers"],
            model["temporal_dim_feedforward"],
            model["temporal_dropout"],
        )

    def forward(self, batch):
        def features(backbone, frames):
            b, t = frames.shape[:2]
            return backbone(frames.flatten(0, 1)).reshape(b, t, -1)

        missing_l, missing_r = batch["miss_mask_hl"][..., None], batch["miss_mask_hr"][..., None]
        face = self.face_projector(features(self.face_backbone, batch["face"]))
        left = features(self.hand_backbone_left, batch["hand_l"]).masked_fill(missing_l, 0)
        right = features(self.hand_backbone_right, batch["hand_r"]).masked_fill(missing_r, 0)
        pose = self.pose_projector(batch["pose"] * batch["pose_conf_mask"].repeat_interleave(3, dim=-1))
        either = missing_l | missing_r
        left = self.hand_left_projector(left).masked_fill(either, 0)
        right = self.hand_right_projector(right).masked_fill(either, 0)
        frames = self.positional(self.fusion([face, left, right, pose]))
        return self.temporal(frames, batch["pad_mask"])


class Decoder(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


class TorchTwin(nn.Module):
    """`model`: v9's flags; `vit`: embed, depth, heads, [grid]; `decoder`: a HuggingFace seq2seq model."""

    def __init__(self, model: dict, vit: dict, decoder: nn.Module, *, identity: bool):
        super().__init__()
        self.encoder = Encoder(model, vit, identity)
        self.decoder = Decoder(decoder)

    def forward(self, batch):
        """Teacher-forced logits (B, S, vocab)."""
        labels = batch["labels"]
        output = self.decoder.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoder(batch)),
            attention_mask=batch["pad_mask"],
            labels=labels,
            decoder_attention_mask=labels != -100,
        )
        return output.logits

    def loss(self, batch, smoothing: float = 0.1):
        return F.cross_entropy(
            self(batch).flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, label_smoothing=smoothing
        )


def t5_from_flags(model: dict, vocab_size: int, pad: int = 0, eos: int = 1) -> nn.Module:
    heads, width = model["decoder_heads"], model["d_model"]
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocab_size,
            d_model=width,
            d_kv=width // heads,
            d_ff=4 * width,
            num_heads=heads,
            num_layers=model["decoder_layers"],
            num_decoder_layers=model["decoder_layers"],
            dropout_rate=model["decoder_dropout"],
            pad_token_id=pad,
            eos_token_id=eos,
            decoder_start_token_id=pad,
        )
    )


def decoder_from_folder(folder: Path) -> nn.Module:
    """The model of a HuggingFace configuration, which says all there is to say."""
    return AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(folder))


def golden_twin(golden) -> TorchTwin:
    """The model of a golden, at torch's initial weights."""
    model = golden.case["model"]
    if model["decoder_config"]:
        decoder = decoder_from_folder(golden.folder / "decoder_config")
    else:
        decoder = t5_from_flags(model, golden.case["vocab_size"])
    return TorchTwin(model, golden.case["vit"], decoder, identity=golden.case["projector"] == "identity")


def tensors(batch: dict) -> dict[str, torch.Tensor]:
    """A batch of arrays named as in the goldens, as torch takes it."""
    return {name: torch.from_numpy(array) for name, array in batch.items()}
