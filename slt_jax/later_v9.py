"""What v9 learned in the days after the version that slt_jax follows: its flags and keys, answered by their name."""

import re

KEYPOINTS = "its branch of keypoints and glosses"
OFFLINE = "use --local-files-only"
# What a name is about, or what to do here instead; the names that begin alike stand once.
FEATURES = {
    r"use_mska|no_mska|lr_mska|mska_\w+|leaky_relu_negative_slope": KEYPOINTS,
    r"keypoints_dir|gloss_csv|(no_)?keypoint_\w+|face_landmark_subset": KEYPOINTS,
    r"ctc_num_beams|report_gloss_wer": KEYPOINTS,
    r"(decoder_)?presets?|metadata": "its presets of decoders; use --decoder-model or --decoder-config",
    r"decoder_prompt_\w+": "its prompts of the decoder",
    r"decoder_hf_\w+|(tokenizer|decoder)_(search_paths?|path_env(_vars)?)": (
        "its search for files; name the folder with --decoder-model or --tokenizer"
    ),
    r"(tokenizer|decoder)_local_files_only": OFFLINE,
    r"pretrained(_checkpoint)?": "start from weights with --init-checkpoint",
    r"max_train_steps": "a run ends after --epochs, or --max-steps",
    r"subset_size": "name fewer clips in --train-index",
    r"teacher_forcing_\w+": "its scheduled sampling",
    r"skip_metrics": "scores are always computed",
}


def later_v9(name: str) -> str | None:
    """What to tell about a flag, key or section that only later v9 knows, such as `--use-mska`; None for any other."""
    key = name.lstrip("-").replace("-", "_").lower()
    for pattern, about in FEATURES.items():
        if re.fullmatch(pattern, key):
            return f"is a later v9's feature, not here ({about}); leave it out"
    return None
