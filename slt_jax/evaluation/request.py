"""What the user asks for, before any checkpoint has been opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slt_jax.base.places import check_file, check_folder
from slt_jax.config import apply_setting, load_config, read_config_file
from slt_jax.config_rules import with_home
from slt_jax.errors import UserError

REPORTS = ("report.json", "report.csv", "report.html")  # written beside the predictions


@dataclass(frozen=True)
class ModelWish:
    """What the configuration file, flags and --set say about the model. All of it must agree with the checkpoints."""

    values: Mapping[str, Any]  # from file and flags
    flags: frozenset[str]  # the keys given as flags
    settings: tuple[str, ...]  # from --set, "model.KEY=VALUE"

    def over(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """All requested settings. A dotted --set changes part of a mapping in `known`."""
        tree = {"model": {key: value for key, value in known.items() if isinstance(value, Mapping)} | dict(self.values)}
        for setting in self.settings:
            apply_setting(tree, setting)
        return tree["model"]

    def name(self, key: str) -> str:
        """The key as the user wrote it."""
        return "--" + key.replace("_", "-") if key in self.flags else f"model.{key}"


@dataclass(frozen=True)
class EvaluationRequest:
    """A requested evaluation. `data` holds the keys of that section that were given, without defaults."""

    checkpoints: tuple[Path, ...]
    eval_index: Path
    output_csv: Path
    data: Mapping[str, Any]
    model: ModelWish
    num_beams: int = 1
    max_new_tokens: int | None = None
    split_by: str | None = None
    bleu_tokenize: str = "auto"
    trust_classes: bool = False
    card: Path | None = None
    compare: Path | None = None

    def __post_init__(self):
        for flag, value in (("--num-beams", self.num_beams), ("--max-new-tokens", self.max_new_tokens)):
            if value is not None and value < 1:
                raise UserError(f"{flag} must be at least 1, not {value}")
        if self.output_csv.name in REPORTS:
            wrong = "this is the name of a report that is written beside it; choose another"
            raise UserError(f"--output-csv {self.output_csv}: {wrong}")
        check_file("--output-csv", self.output_csv)
        if self.card is not None and len(self.checkpoints) > 1:
            raise UserError(f"--card {self.card}: is of one checkpoint, and {len(self.checkpoints)} are given")
        if self.card is None and self.compare is not None:
            raise UserError(f"--compare {self.compare}: stands in a card; give --card too")
        if self.card is not None:
            check_folder("--card", self.card)


def merge_settings(
    file: str | Path | None, flags: Mapping[str, Mapping[str, Any]], settings: Sequence[str]
) -> tuple[dict[str, Any], ModelWish]:
    """Merge and check the data keys from --config, flags and --set; return them with the wishes for the model.

    The model is not checked here, because half of what it needs is in the checkpoint. Raises UserError for an unknown
    section, or for a wrong value outside the section `model`.
    """
    tree = read_config_file(file) if file else {}
    for section, values in flags.items():
        tree.setdefault(section, {}).update(values)
    model = with_home("model", tree.pop("model", {}))
    ours = tuple(setting for setting in settings if setting.startswith("model."))
    wish = ModelWish(model, frozenset(flags.get("model", {})), ours)
    _, merged = load_config(None, tree, [setting for setting in settings if setting not in ours])
    return merged.get("data", {}), wish
