"""onnxruntime on our ONNX encoder and on torch's own export of the same encoder: `python -m tools.benchmark_onnx`.

Both files hold the same weights. Their runs alternate in one process, so that what else the machine does meets both
alike; CPU time hardly feels it. torch exports at the very shape that is measured. Its newer exporter takes part
where `onnxscript` is installed.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
import torch
from torch import nn

from convert.checkpoint import Blueprint, blueprint, load_params, plan_model, read_checkpoint
from convert.state_dict import to_state
from slt_jax.cli.command import run
from slt_jax.cli.flags import add_trust_flag
from slt_jax.config import ModelConfig
from slt_jax.export.encoder import encoder_graph, encoder_inputs, encoder_outputs
from slt_jax.export.store import save_graphs
from slt_jax.models.params import split_model
from slt_jax.models.vit import ViTConfig
from slt_jax.streams import IMAGES
from tests.parity.torch_twin import Encoder
from tools.benchmarks.timing import alternate, as_text, ratios, summary, timed

RANDOM = "torchhub::dinov2_vits14:random"


class Exported(nn.Module):
    """The torch encoder with the inputs and outputs of the ONNX file."""

    def __init__(self, encoder: Encoder, image_size: int):
        super().__init__()
        self.encoder = encoder
        for backbone in (encoder.face_backbone, encoder.hand_backbone_left, encoder.hand_backbone_right):
            side = image_size // backbone.patch
            # Resized once, as in our file; torch's older exporter cannot trace the resize.
            backbone.positions = partial(lambda table, *_: table, backbone.positions(side, side).detach())

    def forward(self, face, hand_l, hand_r, pose, pad_mask, miss_mask_hl, miss_mask_hr):
        e = self.encoder

        def features(backbone, frames):
            return backbone(frames.flatten(0, 1)).reshape(*frames.shape[:2], -1)

        left = features(e.hand_backbone_left, hand_l).masked_fill(miss_mask_hl[..., None], 0)
        right = features(e.hand_backbone_right, hand_r).masked_fill(miss_mask_hr[..., None], 0)
        heads = [
            e.face_projector(features(e.face_backbone, face)),
            e.hand_left_projector(left),
            e.hand_right_projector(right),
            e.pose_projector(pose),
        ]
        either = (miss_mask_hl | miss_mask_hr)[..., None]
        streams = [heads[0], heads[1].masked_fill(either, 0), heads[2].masked_fill(either, 0), heads[3]]
        encoded = e.temporal(e.positional(e.fusion(streams)), pad_mask)
        return encoded, *heads, either[..., 0].float(), (~pad_mask).float()


def full_size() -> tuple[Blueprint, dict[str, np.ndarray]]:
    """v9's default model with random weights: three ViT-S/14 at 224 px."""
    backbones: dict[str, Any] = {stream.backbone_key: RANDOM for stream in IMAGES}
    plan = plan_model(ModelConfig(vocab_size=100, **backbones))
    return plan, jax.device_get(split_model(plan.build(seed=1))[1])


def torch_encoder(plan: Blueprint, state: dict[str, np.ndarray]) -> nn.Module:
    config, vit = plan.config, plan.backbones["face"]
    assert isinstance(vit, ViTConfig)
    sizes = {"embed": vit.embed_dim, "depth": vit.depth, "heads": vit.num_heads, "grid": vit.grid}
    identity = "encoder.face_projector.layers.0.weight" not in state
    encoder = Encoder({name: getattr(config, name) for name in ModelConfig.__dataclass_fields__}, sizes, identity)
    encoder_state = {
        key.removeprefix("encoder."): torch.from_numpy(array.copy())
        for key, array in state.items()
        if key.startswith("encoder.")
    }
    encoder.load_state_dict(encoder_state)
    return Exported(encoder, config.image_size).eval()


def inputs(plan: Blueprint, frames: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = {}
    for name, (dtype, shape) in encoder_inputs(plan).items():
        values = rng.standard_normal((1, frames, *shape[2:]), np.float32)
        batch[name] = (values > -9 if name == "pad_mask" else values > 1) if dtype is np.bool_ else values
    return batch


def torch_exporters() -> dict[str, bool]:
    """{name: whether it is the newer one}."""
    return {"torch": False} | ({"torch (dynamo)": True} if importlib.util.find_spec("onnxscript") else {})


def export_with_torch(model: nn.Module, batch: dict[str, np.ndarray], plan: Blueprint, path: Path, new: bool) -> None:
    names = {"input_names": list(batch), "output_names": list(encoder_outputs(plan))}
    tensors = tuple(torch.from_numpy(array) for array in batch.values())
    torch.backends.mha.set_fastpath_enabled(False)  # it has no ONNX counterpart
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tensors,
            path,
            dynamo=new,
            opset_version=18 if new else 17,
            **names,
            **({"external_data": False, "verbose": False} if new else {}),
        )


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread uses no CPU time
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def compare(sessions: dict[str, onnxruntime.InferenceSession], batch: dict, repeats: int) -> dict[str, dict]:
    """The times of each session, after a run that is not counted."""
    expected = sessions["ours"].run(["encoded"], batch)[0]
    for name, other in sessions.items():
        difference = np.abs(other.run(["encoded"], batch)[0] - expected).max()
        if difference > 1e-4:
            raise SystemExit(f"{name} computes something else: {difference:.1e}")
    turns = {name: partial(timed, partial(one.run, None, batch)) for name, one in sessions.items()}
    return {name: summary(seconds) for name, seconds in alternate(turns, repeats).items()}


def main(argv: Sequence[str] | None = None) -> int:
    return run("benchmark_onnx", measure, argv)


def measure(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="a .pt (default: v9's default sizes with random weights)")
    add_trust_flag(parser)
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    if arguments.checkpoint:
        checkpoint = read_checkpoint(arguments.checkpoint)
        plan = blueprint(checkpoint, trust=arguments.trust_classes)
        params = load_params(checkpoint, plan.structure()[1])
    else:
        plan, params = full_size()
    state = to_state(params, plan.structure()[1])
    model = torch_encoder(plan, state)
    exporters = torch_exporters()
    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, {arguments.threads} threads", flush=True)
    for frames in arguments.frames:
        batch = inputs(plan, frames)
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(["ours", *exporters])}
            save_graphs({paths["ours"].name: encoder_graph(plan, state, opset=17, half=False)}, Path(folder))
            for name, new in exporters.items():
                export_with_torch(model, batch, plan, paths[name], new)
            sessions = {name: session(path, arguments.threads) for name, path in paths.items()}
        times = compare(sessions, batch, arguments.repeats)
        for name, its in times.items():
            ratio = ", ".join(f"{what} {value:.3f}" for what, value in ratios(its, times["ours"]).items())
            load = os.getloadavg()[0]
            print(f"T {frames:3d}  {name:15s} {as_text(its)}; ours / this: {ratio}; load {load:.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
