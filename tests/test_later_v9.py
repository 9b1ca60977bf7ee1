"""What only a later v9 knows is answered by its name, and not by a flag or key that happens to look alike."""

import pytest

from slt_jax.cli import evaluate, export, train
from slt_jax.config import SECTIONS, load_config
from slt_jax.errors import UserError
from slt_jax.later_v9 import later_v9

FLAGS = [
    "--use-mska", "--no-mska", "--mska-heads", "--mska-ctc-weight", "--mska-no-sgr", "--lr-mska",
    "--leaky-relu-negative-slope", "--keypoints-dir", "--gloss-csv", "--keypoint-scale-range",
    "--no-keypoint-normalize-center", "--decoder-preset", "--preset", "--decoder-prompt-length", "--decoder-hf-repo",
    "--decoder-search-path", "--tokenizer-path-env", "--tokenizer-search-path", "--tokenizer-local-files-only",
    "--decoder-local-files-only", "--pretrained", "--pretrained-checkpoint",
    "--max-train-steps", "--subset-size", "--teacher-forcing-mode", "--teacher-forcing-min-ratio",
]  # fmt: skip
KEYS = {
    "data": ("keypoints_dir", "gloss_csv", "keypoint_normalize_center", "tokenizer_search_paths"),
    "model": ("use_mska", "mska_sgr_mix", "pretrained", "decoder_path_env_vars", "decoder_prompt_init"),
    "optim": ("lr_mska",),
    "training": ("max_train_steps", "subset_size", "teacher_forcing_ratio"),
}


def told(call, name: str) -> None:
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert name in message
    assert "is a later v9's feature, not here" in message
    assert "did you mean" not in message
    assert "\n" not in message


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag(flag):
    told(lambda: train.parse([flag, "3"]), flag)
    told(lambda: train.parse(["--epochs", "3", "stray", f"{flag}=3"]), flag)


def test_a_flag_of_the_other_commands():
    told(lambda: evaluate.parse(["--ctc-num-beams", "4"]), "--ctc-num-beams")
    told(lambda: export.parse(["--checkpoint", "single_signer", "--pretrained", "none"]), "--pretrained")


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in KEYS.items() for key in keys])
def test_a_key_in_a_file_and_on_the_command_line(section, key, tmp_path):
    file = tmp_path / "c.yml"
    file.write_text(f"{section}: {{{key}: 3}}")
    told(lambda: load_config(file, {}, []), f"{section}.{key}")
    told(lambda: load_config(None, {}, [f"{section}.{key}=3"]), f"{section}.{key}")


@pytest.mark.parametrize("text", ["preset: mska_paper_mbart", "metadata: {decoder_preset: x}", "preset: {a: 1}"])
def test_a_section(text, tmp_path):
    file = tmp_path / "c.yml"
    file.write_text(text)
    told(lambda: load_config(file, {}, []), text.partition(":")[0])
    told(lambda: load_config(None, {}, ["preset=x"]), "preset")
    told(lambda: load_config(None, {}, ["preset.a=x"]), "preset")


def test_nothing_of_ours_is_taken_for_a_later_one():
    assert not [key for section in SECTIONS.values() for key in section.__dataclass_fields__ if later_v9(key)]
