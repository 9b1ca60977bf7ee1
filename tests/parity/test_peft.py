"""Adapters against HuggingFace's PEFT: forward pass, gradients, merged weights, and its folders in both directions."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import save_file
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from convert import read_pt, write_pt
from convert.adapters import AdapterTable
from convert.checkpoint import blueprint, load_params, read_checkpoint
from slt_jax.cli.convert import main
from slt_jax.models.families import text_encoders
from slt_jax.models.lora import merged
from slt_jax.models.params import describe
from tests.convert.models import tiny
from tests.parity.torch_weights import quick_compilation, relative_error  # noqa: F401

# What PEFT reads of a transformers model that is younger than itself.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
PREFIX = "decoder.model."
FAMILIES = {
    "t5": ({}, T5Config, T5ForConditionalGeneration, ["SelfAttention.q", "EncDecAttention.v", "wo"]),
    "bart": ({"decoder_kwargs": {"model_type": "bart"}}, BartConfig, BartForConditionalGeneration,
             r"model\.decoder\..*\.(q_proj|out_proj|fc1)"),
}  # fmt: skip
IDS = np.array([[3, 7, 9, 4], [5, 1, 0, 2]])


@dataclasses.dataclass
class Case:
    plan: object
    state: dict
    base: object  # () -> the torch model without adapters
    adapted: torch.nn.Module
    folder: object
    whole: object  # a v9 .pt of the model without adapters


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request, tmp_path_factory) -> Case:
    changes, settings, kind, targets = FAMILIES[request.param]
    plan, state = tiny(**changes)
    tmp_path = tmp_path_factory.mktemp(request.param)

    def base() -> torch.nn.Module:
        model = kind(settings(**plan.decoder))
        own = {key.removeprefix(PREFIX): torch.tensor(array) for key, array in state.items() if key.startswith(PREFIX)}
        model.load_state_dict(own)
        return model.eval()

    torch.manual_seed(0)
    config = peft.LoraConfig(
        task_type="SEQ_2_SEQ_LM", r=3, lora_alpha=5, target_modules=targets, use_rslora=request.param == "t5"
    )
    adapted = peft.get_peft_model(base(), config).eval()
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    write_pt(tmp_path / "whole.pt", {"model_state": state, "config": {"model": dataclasses.asdict(plan.config)}})
    return Case(plan, state, base, adapted, tmp_path / "adapter", tmp_path / "whole.pt")


@pytest.fixture(scope="module")
def imported(case):
    """The whole model with PEFT's adapters, as slt-convert writes it: without those of T5's text encoder."""
    target = case.whole.with_name("adapted.pt")
    assert main(["from-peft", str(case.folder), str(case.whole), str(target)]) == 0
    return target


def frames() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 5, 32)).astype(np.float32)


def torch_logits(model: torch.nn.Module) -> torch.Tensor:
    outputs = BaseModelOutput(last_hidden_state=torch.tensor(frames()))
    return model(encoder_outputs=outputs, decoder_input_ids=torch.tensor(IDS)).logits


def ours(path):
    """The structure with adapters of the model in a `.pt`, its adapters and its other weights."""
    checkpoint = read_checkpoint(path)
    plan = blueprint(checkpoint)
    structure, _ = describe(lambda: plan.build(adapters=True))
    table = AdapterTable.of(plan)
    params = load_params(checkpoint, plan.structure()[1])
    params |= table.params(checkpoint.rest["lora_state"], path)
    return structure, {entry.path: params.pop(entry.path) for entry in table.adapters}, params, plan


def test_forward_and_gradients(case, imported):
    structure, adapters, others, _ = ours(imported)

    def logits(adapters):
        model = structure.merge(others | adapters).decoder.model
        return model(jnp.asarray(frames()), None, jnp.asarray(IDS), None)

    expected = torch_logits(case.adapted)
    probe = torch.linspace(-1, 1, expected.numel()).reshape(expected.shape)
    (expected * probe).sum().backward()
    values, back = jax.vjp(jax.jit(logits), adapters)
    assert relative_error(values, expected.detach()) < 1e-5
    (gradients,) = back(jnp.asarray(probe.numpy()))
    compared = 0
    for name, p in case.adapted.named_parameters():
        if p.requires_grad and ".encoder." not in name:
            path = PREFIX + name.removeprefix("base_model.model.").replace(".default.weight", "").replace(
                "lora_A", "lora_a"
            )
            assert relative_error(gradients[path.replace("lora_B", "lora_b")].T, p.grad) < 1e-5, name
            compared += 1
    assert compared == len(gradients) == len(adapters)


def test_merged_weights(case, imported):
    """Those in the file, those merged here, and PEFT's."""
    _, adapters, others, plan = ours(imported)
    theirs = peft.PeftModel.from_pretrained(case.base(), case.folder).merge_and_unload().state_dict()
    state, moved = read_pt(imported)["model_state"], 0
    plain = merged(others | adapters, plan.lora)
    for key, array in state.items():
        if key.startswith(PREFIX) and not key.startswith(text_encoders()):
            want = theirs[key.removeprefix(PREFIX)].numpy()
            np.testing.assert_allclose(array, want, atol=1e-6, err_msg=key)
            moved += not np.array_equal(array, case.state[key])
        else:
            np.testing.assert_array_equal(array, case.state[key])
    assert moved == len(adapters) // 2
    for path in adapters:
        kernel = path.rpartition(".")[0] + ".kernel"
        key = kernel.removesuffix("kernel") + "weight"
        np.testing.assert_allclose(plain[kernel].T, theirs[key.removeprefix(PREFIX)].numpy(), atol=1e-6)
    assert plain.keys() == others.keys()


def test_folder_and_back(case, imported, tmp_path, capsys):
    """PEFT takes what to-peft writes, for the same model."""
    folder = tmp_path / "adapter"
    assert main(["to-peft", str(imported), str(folder)]) == 0
    assert "layers of the decoder" in capsys.readouterr().out
    again = peft.PeftModel.from_pretrained(case.base(), folder).eval()
    assert relative_error(torch_logits(again).detach(), torch_logits(case.adapted).detach()) < 1e-6
    assert main(["to-peft", str(imported), str(folder)]) == 2
    assert "exists; --overwrite" in capsys.readouterr().err
    assert main(["to-peft", str(imported), str(folder), "--overwrite"]) == 0
    assert main(["to-peft", str(case.whole), str(tmp_path / "none")]) == 2
    assert "has no adapters" in capsys.readouterr().err


def test_folders_that_cannot_be_read_are_one_line(tmp_path, capsys):
    whole, layer = tmp_path / "whole.pt", "base_model.model.decoder.block.0.layer.0.SelfAttention.q"
    write_pt(whole, {"model_state": tiny()[1], "config": {"model": dataclasses.asdict(tiny()[0].config)}})
    config, array = {"peft_type": "LORA", "r": 3, "lora_alpha": 5}, np.ones((3, 32), np.float32)
    name = f"{layer}.lora_A.weight"
    tensors = {name: array, f"{layer}.lora_B.weight": array.T.copy()}
    place = tmp_path / "adapter"
    place.mkdir()
    for changed, held, said in (
        ({"peft_type": "IA3"}, tensors, "only LORA can be read"),
        ({"use_dora": True}, tensors, "use_dora True cannot be read"),
        ({"modules_to_save": ["lm_head"]}, tensors, "modules_to_save ['lm_head'] cannot be read"),
        ({"alpha_pattern": {"q": 3}}, tensors, "alpha_pattern"),
        ({"init_lora_weights": "pissa_niter_4"}, tensors, "init_lora_weights"),
        ({"r": 0}, tensors, "rank must be a whole number"),
        ({"r": 4}, tensors, "does not fit the model"),
        ({}, {name: array}, "no pairs"),
        ({}, tensors | {"base_model.model.lm_head.weight": array}, "is no matrix of LoRA"),
        ({}, tensors | {name: np.full_like(array, np.nan)}, "not finite"),
        ({}, {key.replace("decoder", "decoder.nowhere"): a for key, a in tensors.items()}, "is no linear layer"),
    ):
        (place / "adapter_config.json").write_text(json.dumps(config | changed))
        save_file(held, place / "adapter_model.safetensors")
        assert main(["from-peft", str(place), str(whole), str(tmp_path / "x.pt")]) == 2, said
        errors = capsys.readouterr().err
        assert said in errors.partition(":\n")[0], said
        assert not (tmp_path / "x.pt").exists()
    assert main(["from-peft", str(tmp_path), str(whole), str(tmp_path / "x.pt")]) == 2
    assert "adapter_config.json" in capsys.readouterr().err
