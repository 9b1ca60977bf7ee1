"""The translator's program, made from a configuration."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from convert.adapters import AdapterTable
from convert.checkpoint import Blueprint
from convert.state_dict import Entry
from slt_jax.config import Config, DataConfig, OptimConfig
from slt_jax.config_rules import trains_decoder
from slt_jax.data.augment import prepare as prepare_batch
from slt_jax.data.schema import full_sizes, shapes
from slt_jax.models.freeze import trained_paths
from slt_jax.models.lora import bases
from slt_jax.models.params import Leaf, Params, Structure, describe
from slt_jax.runtime.precision import compute_dtype
from slt_jax.runtime.sharding import Layout
from slt_jax.training.adapters import AdapterDropout
from slt_jax.training.contrastive import CONTRASTIVE, SCALE, text_side
from slt_jax.training.distillation import Teacher
from slt_jax.training.ema import Averaged
from slt_jax.training.gloss_ctc import BIAS, GLOSS_CTC
from slt_jax.training.joined import TRANSLATION, objective_of, weights_of, with_heads
from slt_jax.training.objective import Inputs
from slt_jax.training.optim import Optimizer, Part, build_optimizer
from slt_jax.training.optim_rules import KINDS
from slt_jax.training.parts import translator_parts
from slt_jax.training.program import Program, compiler_options, make_program
from slt_jax.training.step import Arrays, StepFunctions


@dataclass(frozen=True)
class Prepare:
    """Turns loaded batches into model inputs. Equal settings are equal, so that runs of one process share programs."""

    mix_streams: tuple[tuple[str, float], ...]
    augmentation: tuple[tuple[str, Any], ...] = ()

    def __call__(self, batch: Arrays, key: Array | None) -> Inputs:
        """Model inputs of a loaded batch; a key in training, None in evaluation."""
        changes = {"mix_streams": dict(self.mix_streams), "augmentation": dict(self.augmentation)}
        return prepare_batch(batch, key, **changes, raw=True)


def prepare_of(data: DataConfig) -> Prepare:
    """What section `data` asks of a batch."""
    changes = ((key, tuple(value) if isinstance(value, list) else value) for key, value in data.augmentation.items())
    return Prepare(tuple(data.mix_streams.items()), tuple(changes))


def translation_program(
    config: Config,
    plan: Blueprint,
    structure: Structure | None = None,
    *,
    prepare: Callable[[Arrays, Array | None], Inputs] | None = None,
    mesh: Mesh | None = None,
    glosses: int = 0,
    teacher: Teacher | None = None,
) -> Program:
    """The program that trains the model of `plan` as `config` says.

    `structure` is that of the plan in the configuration's precision, where the caller has it. `prepare` takes the
    place of the configuration's for batches that are model inputs already. `glosses` are the ids of the glosses that
    are learned too (`Glosses.size`); without any, none are. `teacher` is that of a distillation.
    """
    dtype, lora = compute_dtype(config.data.precision), plan.lora
    weights = weights_of(config, glosses)
    build: Callable[..., nnx.Module] = functools.partial(plan.build, adapters=True)
    if weights.keys() != {TRANSLATION}:
        build = functools.partial(with_heads, build, config.model.d_model, weights, glosses)
    leaves: Sequence[Leaf] = ()
    if lora is not None or weights.keys() != {TRANSLATION}:
        structure, leaves = describe(lambda: build(dtype=dtype))
    elif structure is None:
        structure, _ = plan.structure(dtype=dtype)
    names = [name for name, *_ in structure.variables]
    trained = trained_paths(config.model, names, structure.buffers, text_encoder=CONTRASTIVE in weights)
    if not trains_decoder(weights):  # what only the decoder reads stands still
        reached = text_side(leaves) if CONTRASTIVE in weights else set()
        trained = [path for path in trained if not path.startswith("decoder.") or path in reached]
    objective = objective_of(config, weights, teacher)
    if lora is not None:
        if lora.frozen_dtype == "bfloat16":
            structure = dataclasses.replace(structure, narrow=frozenset(bases(names)) - structure.buffers)
        if lora.dropout:
            objective = AdapterDropout(objective)
    if config.training.ema is not None:
        objective = Averaged(objective, config.training.ema, tuple(trained))
    optimizer = translation_optimizer(config.optim, lambda: [*plan.structure()[1], *AdapterTable.of(plan).adapters])
    steady = [SCALE] if CONTRASTIVE in weights else []  # a temperature that decays is no longer learned
    if GLOSS_CTC in weights and config.optim.decay_only_matrices:
        steady.append(BIAS)
    if steady:
        parts = (*optimizer.parts, *((path, Part(decay=0.0)) for path in steady))
        optimizer = dataclasses.replace(optimizer, parts=parts)
    return make_program(
        build,
        objective,
        optim=config.optim,
        training=config.training,
        precision=config.data.precision,
        seed=config.data.seed,
        prepare=prepare or prepare_of(config.data),
        structure=structure,
        trained=trained,
        optimizer=optimizer,
        mesh=mesh,
    )


def translation_optimizer(optim: OptimConfig, entries: Callable[[], Sequence[Entry]]) -> Optimizer:
    """The optimiser of a translator, with the rates of its parts where `optim` has some.

    `entries` are those of the model and of its adapters, which are asked for only where they matter.
    """
    own = (optim.lr_backbone, optim.lr_encoder, optim.lr_decoder)
    by_part = any(rate is not None for rate in own) or optim.layer_decay != 1 or optim.decay_only_matrices
    factored = KINDS[optim.optimizer].factored
    if not by_part and not factored:
        return build_optimizer(optim)
    known = {entry.path: entry for entry in entries()}
    parts = translator_parts(optim, {path: entry.shape for path, entry in known.items()}) if by_part else ()
    optimizer = build_optimizer(optim, parts)
    if not factored:
        return optimizer
    axes = ((path, entry.axes) for path, entry in sorted(known.items()))
    return dataclasses.replace(optimizer, axes=tuple((path, it) for path, it in axes if it != (*range(len(it)),)))


def abstract_batch(config: Config, layout: Layout, clips: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and places of a loaded batch with clips of full length."""
    rows = NamedSharding(layout.mesh, PartitionSpec("data"))
    arrays = shapes(full_sizes(config, clips))
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows) for name, (shape, dtype) in arrays.items()}


def encode(functions: StepFunctions, params: Params, batch: Arrays) -> tuple[Array, Array]:
    """Encoded frames (B, T, d_model) of a loaded batch, and which of them are real (B, T)."""
    return _encode_program(functions)(params, batch)


@functools.lru_cache(maxsize=4)
def _encode_program(functions: StepFunctions) -> jax.stages.Wrapped:
    structure, layout, prepare = functions.structure, functions.layout, functions.prepare

    def encode(params: Params, batch: Arrays) -> tuple[Array, Array]:
        inputs = prepare(batch, None)
        encoder = structure.merge(layout.gather(params)).encoder
        return layout.rows(encoder(inputs)), layout.rows(inputs["pad_mask"])

    return jax.jit(encode, compiler_options=compiler_options(layout.mesh))
