"""The configuration as people write it: what it means, and one short line for what it cannot mean."""

import argparse
import dataclasses
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.checkpoint import Blueprint
from slt_jax.cli import convert, flags
from slt_jax.config import SECTIONS, apply_setting, build_config, build_section, load_config
from slt_jax.config_rules import AT_MOST
from slt_jax.errors import UserError
from slt_jax.models.backbones import free_vit, parse_backbone
from slt_jax.models.decoders import decoder_settings
from slt_jax.models.vit import VIT_SIZES
from slt_jax.streams import IMAGES


@pytest.fixture
def read(tmp_path):
    """The configuration in a file with this text, after `--set` of the rest."""

    def of(text: str | bytes, *sets: str):
        path = tmp_path / "run.yml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, {}, list(sets))[0]

    return of


def refusal(call, *arguments) -> str:
    """The one short line with which `call` refuses, within bounded time."""
    began = time.process_time()
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert time.process_time() - began < 5
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


# --- what YAML reads otherwise than a person ------------------------------------------------------------------------


def test_what_is_there_twice_is_named_with_its_lines(read):
    twice = "optim:\n  lr: 1e-4\nmodel:\n  image_size: 56\noptim:\n  scheduler: cosine\n"
    assert "run.yml: 'optim' is there twice, in lines 1 and 5" in refusal(read, twice)
    assert "'lr' is there twice, in lines 2 and 3" in refusal(read, "optim:\n  lr: 1e-4\n  lr: 3e-3\n")
    assert "'lr' is there twice, in line 1" in refusal(read, 'optim: {lr: 1, "lr": 2}')
    assert "'depth' is there twice" in refusal(read, "model:\n  backbone: {depth: 1, depth: 2}\n")
    assert read("data: &a {seed: 7}\noptim: {<<: {lr: 1}, lr: 2}\n").optim.lr == 2  # over a merged one it stands once


MISREAD = {
    # name: (text, what the line must name)
    "octal": ("model:\n  image_size: 0224", ["line 2", "0224 as 148", "without the zero"]),
    "sixties": ("data: {batch_size: 1:30}", ["line 1", "1:30 as 90", "quotes"]),
    "sixties with a fraction": ("optim: {lr: 1:30.5}", ["1:30.5 as 90.5"]),
    "octal as text": ("data: {work_dir: 0224}", ["0224 as 148", "quotes"]),
    "off": ("optim: {scheduler: off}", ["optim.scheduler", "str", "off", "quotes"]),
    "no as a key": ("model: {decoder_kwargs: {no: 1}}", ["a key as False", "quotes"]),
    "null as a key": ("data: {~: 1}", ["a key as None", "quotes"]),
    "new octal": ("model: {image_size: 0o340}", ["model.image_size", "0o340"]),
    "date": ("data: {work_dir: 2026-11-28}", ["line 1", "2026-11-28 as a date", "quotes"]),
    "impossible date": ("data:\n  work_dir: 2026-13-45", ["line 2", "2026-13-45 as a date"]),
    "bytes": ("data: {work_dir: !!binary aaaa}", ["line 1", "binary"]),
    "object": ("data: {work_dir: !!python/name:os.system }", ["line 1", "python"]),
    "not a number": ('data: {seed: !!int ""}', ["line 1", "int"]),
    "tab": ("optim:\n\tlr: 1e-4", ["line 2", "is not YAML or JSON"]),
    "two documents": ("optim: {}\n---\noptim: {}", ["line 2", "is not YAML or JSON", "document"]),
    "not text": (b"data: {work_dir: \xff}", ["is not YAML or JSON", "utf-8"]),
    "nothing a file can be named": ('data: {work_dir: "a\\0b"}', ["data.work_dir"]),
    "half a character": ('data: {work_dir: "\\ud800"}', ["data.work_dir"]),
}


@pytest.mark.parametrize("name", MISREAD)
def test_what_would_be_misread_is_refused(read, name):
    text, named = MISREAD[name]
    line = refusal(read, text)
    for part in named:
        assert part in line


def test_plain_values_mean_what_they_say(read):
    config = read(
        b"\xef\xbb\xbfdata: {seed: 0x10, batch_size: 1_000, work_dir: '0224', pin_memory: no, tokenizer: ~}\r\n"
        b"model: {image_size: '0224', freeze_face_backbone: yes}\r\noptim: {lr: 1e-4, label_smoothing: 0}\r\n"
    )
    assert (config.data.seed, config.data.batch_size, config.data.work_dir) == (16, 1000, "0224")
    assert (config.data.pin_memory, config.data.tokenizer) == (False, None)
    assert (config.model.image_size, config.model.freeze_face_backbone) == (224, True)
    assert (config.optim.lr, config.optim.label_smoothing) == (1e-4, 0.0)
    assert read("", "data.seed=0012").data.seed == 12


def test_the_home_folder_stands_for_its_sign(read, monkeypatch):
    monkeypatch.setenv("HOME", "/home/eva")
    config = read("data: {work_dir: ~/runs/a, tokenizer: ~, face_dir: a/~/b}", "training.init_checkpoint=~/last.pt")
    assert (config.data.work_dir, config.data.tokenizer, config.data.face_dir) == ("/home/eva/runs/a", None, "a/~/b")
    assert config.training.init_checkpoint == "/home/eva/last.pt"
    assert build_config({"data": {"pose_dir": "~"}}).data.pose_dir == "/home/eva"
    assert "data.work_dir: '~no-such-user/a'" in refusal(read, "data: {work_dir: ~no-such-user/a}")
    top = flags.command_parser("slt-train", "")
    flags.add_config_flags(top)
    top.add_argument("--output")
    given = flags.parse(top, ["--output=~/a", "--config=~/b.yml", "--decoder-config=a=~/b"])
    assert (given.output, given.config) == ("/home/eva/a", "/home/eva/b.yml")
    assert getattr(given, "model.decoder_config") == "a=~/b"


# --- what has no end ------------------------------------------------------------------------------------------------

LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))
ENDLESS = {
    "digits": (f"data: {{seed: {'9' * 5000}}}", ["line 1", "5000"]),
    "digits in quotes": (f"data: {{seed: '{'9' * 4000}'}}", ["data.seed", "99"]),
    "digits of a fraction": (f"optim: {{lr: 0.{'9' * 5000}}}", ["line 1", "5002"]),
    "more than 63 bits": (f"data: {{seed: {2**63}}}", ["data.seed", "63 bits"]),
    "pixels": ("model: {image_size: 1000000000}", ["model.image_size", "at most"]),
    "clips": ("data: {batch_size: 1000000000000}", ["data.batch_size", "at most"]),
    "lists": (f"model: {'[' * 60_000}", ["line 1", "nested"]),
    "mappings": (f"model: {'{a: ' * 15_000}", ["line 1", "nested"]),
    "lines": ("".join(f"{' ' * i}a:\n" for i in range(300)), ["nested"]),
    "questions": ("? " * 30_000, ["nested"]),
    "aliases": (f"a0: &a0 [lol]\n{LAUGHS}", ["aliases", "line"]),
    "merges": (f"a0: &a0 {{x: 1}}\n{MERGES}", ["aliases", "line"]),
    "long aliases": (f"a: &a {'x' * 30_000}\nb: [{'*a, ' * 5000}]", ["aliases", "line 2"]),
    "itself": ("data: &a {x: *a}", ["line 1", "alias"]),
    "undefined alias": (f"data: *{'a' * 60_000}", ["line 1", "is not YAML or JSON"]),
    "size": ("#" * 10_000_000, ["larger than"]),
    "values": (f"optim: {{a: [{'1, ' * 20_000}]}}", ["optim.a"]),
    "a name": (f"{'x' * 60_000}: 1", ["is not YAML"]),
    "a section": (f"? {'x' * 60_000}\n: {{}}", ["unknown configuration section"]),
    "a key": (f"data:\n  ? {'x' * 60_000}\n  : 1", ["unknown configuration key"]),
    "a word": (f"optim: {{scheduler: {'x' * 60_000}}}", ["optim.scheduler"]),
    "a stream": (f"data: {{mix_streams: {{{'x' * 900}: 1}}}}", ["xxx", "unknown stream"]),
    "infinite": ("optim: {lr: .inf}", ["optim.lr", "finite"]),
    "infinite inside": ("model: {decoder_kwargs: {a: [.nan]}}", ["model.decoder_kwargs", "finite"]),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_refused_in_a_short_line(read, name):
    text, named = ENDLESS[name]
    line = refusal(read, text)
    for part in named:
        assert part in line


SET = {
    "digits": (f"data.seed={'9' * 5000}", ["--set data.seed", "5000 digits"]),
    "fewer digits": (f"data.seed={'9' * 20}", ["data.seed", "63 bits"]),
    "lists": (f"model.backbone={'[' * 100_000}", ["--set model.backbone", "nested"]),
    "closed mappings": ("model.backbone=" + '{"a": ' * 40 + "1" + "}" * 40, ["--set model.backbone", "nested"]),
    "twice": ('model.backbone={"depth": 1, "depth": 2}', ["--set model.backbone", "'depth' is there twice"]),
    "nan": ("optim.lr=NaN", ["optim.lr", "finite"]),
    "overflow": ("optim.lr=1e999", ["optim.lr", "finite"]),
    "nan inside": ('model.decoder_kwargs={"a": [NaN]}', ["model.decoder_kwargs", "finite"]),
    "a key of adapters": ('model.lora={"' + "r" * 5000 + '": 1}', ["model.lora.rrr", "rank"]),
    "parts": ("a." * 50_000 + "b=1", ["--set a.a", "parts"]),
    "no value": ("x" * 100_000, ["--set xxx", "KEY=VALUE"]),
}


@pytest.mark.parametrize("name", SET)
def test_set_is_refused_likewise(name):
    setting, named = SET[name]
    line = refusal(load_config, None, {}, [setting])
    for part in named:
        assert part in line


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ("[" * 100_000, "nested"),
        (f'{{"a": {"9" * 5000}}}', "5000 digits"),
        ("x" * 100_000, "is not a JSON object"),
    ],
    ids=["twice", "nested", "digits", "text"],
)
def test_json_of_flags_is_refused_likewise(text, named):
    top = flags.command_parser("slt-train", "")
    flags.add_config_flags(top)
    line = refusal(flags.parse, top, ["--decoder-kwargs", text])
    assert "--decoder-kwargs" in line
    assert named in line
    line = refusal(convert.model_section, argparse.Namespace(config=None, model=text))
    assert "--model" in line
    assert named in line


def test_json_of_decoders_is_refused_likewise(tmp_path):
    path = tmp_path / "config.json"
    section = build_section("model", {"decoder_config": str(path), "vocab_size": 40})
    for text, named in (
        ('{"d_model": 8, "d_model": 16}', "'d_model' is there twice"),
        ('{"a": ' * 50_000, "nested"),
        ("[1]", "is not a JSON object"),
        (f'{{"d_model": {"9" * 5000}}}', "5000 digits"),
        ("{", "is not JSON"),
    ):
        path.write_text(text)
        line = refusal(decoder_settings, section)
        assert line.startswith(f"--decoder-config {path}")
        assert named in line


def test_flags_quote_little_of_what_they_refuse():
    top = flags.command_parser("slt-train", "")
    flags.add_config_flags(top)
    assert "--seed" in refusal(flags.parse, top, ["--seed", "9" * 5000])
    assert "unknown argument --xxx" in refusal(flags.parse, top, ["--" + "x" * 100_000])


def test_every_whole_number_has_a_bound():
    for name, section in SECTIONS.items():
        for field in dataclasses.fields(section):
            if int in getattr(field.type, "__args__", (field.type,)) and not field.name.startswith("freeze_"):
                most = AT_MOST[name][field.name]
                assert f"{name}.{field.name}" in refusal(build_section, name, {field.name: most + 1})


# --- backbones ------------------------------------------------------------------------------------------------------


def test_registers_resize_positions_as_dinov2_does():
    sizes = {"embed_dim": 384, "depth": 12, "num_heads": 6, "patch_size": 14, "image_size": 518}
    assert free_vit(sizes) == VIT_SIZES["vits14"]
    assert free_vit(sizes | {"num_register_tokens": 4}) == VIT_SIZES["vits14_reg"]
    plain = {"interpolate_antialias": False, "interpolate_offset": 0.1}
    told = free_vit(sizes | {"num_register_tokens": 4} | plain)
    assert dataclasses.asdict(told) == dataclasses.asdict(VIT_SIZES["vits14"]) | {"num_register_tokens": 4}


def test_a_run_goes_on_with_the_resize_it_began_with():
    sizes = {"embed_dim": 24, "depth": 1, "num_heads": 2, "num_register_tokens": 2}

    def plan(**told) -> Blueprint:
        config = build_section("model", {"backbone": sizes | told})
        return Blueprint(config, {stream.name: free_vit(config.backbone) for stream in IMAGES}, None)

    before = {"interpolate_antialias": False, "interpolate_offset": 0.1}
    saved = json.loads(json.dumps(plan(**before).record()))
    plan(**before).check_resize(saved, "--resume run")
    plan().check_resize(plan().record(), "--resume run")
    plan().check_resize(None, "--resume v9.pt")
    line = refusal(plan().check_resize, saved, "--resume run")
    advised = re.findall("--set ([^ ]*)", line)
    assert line.startswith("--resume run: ")
    tree = {"model": {"backbone": sizes}}
    for setting in advised:
        apply_setting(tree, setting)
    assert free_vit(tree["model"]["backbone"]) == free_vit(sizes | before)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("embed_dim", 10**9),
        ("depth", 10**9),
        ("num_heads", 10**9),
        ("patch_size", 0),
        ("image_size", "wide"),
        ("num_register_tokens", "many"),
        ("num_register_tokens", -1),
        ("mlp_ratio", "1e1"),
        ("mlp_ratio", 10**9),
        ("ffn", "x" * 900),
        ("interpolate_antialias", "yes"),
        ("interpolate_offset", "none"),
    ],
)
def test_wrong_sizes_of_a_backbone_are_named(key, value):
    assert re.match(f"model.backbone: .*{key}", refusal(free_vit, {key: value}))


@pytest.mark.parametrize(
    "spec", [{"type": "file", "path": 3}, {"type": ["x"] * 9999}, {"type": "class", "model": "a:B", "kwargs": 3}]
)
def test_wrong_kinds_in_a_mapping_of_a_backbone_are_named(spec):
    assert refusal(parse_backbone, spec, "model.face_backbone").startswith("model.face_backbone: ")


# --- any text -------------------------------------------------------------------------------------------------------

KEYS = [f"{name}.{field.name}" for name, section in SECTIONS.items() for field in dataclasses.fields(section)]
PIECES = [
    *"?:-{}[],&*!|>'\"%@#~019_.e\\\t\ufeff\0é \n",
    "data",
    "optim",
    "lr",
    "seed",
    ": ",
    "\n  ",
    "- ",
    "? ",
    "&a ",
    "*a",
]
PIECES += ["<<", "!!int ", "!!str ", "null", "yes", "2026-11-28", ".nan", "---\n"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=60)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def refused_briefly(*arguments) -> bool:
    """Whether `load_config` refuses, which it does in a short line; anything else it raises is raised."""
    try:
        load_config(*arguments)
    except UserError as error:
        return len(str(error)) < 600
    return True


@given(text=TEXTS | st.builds(lambda key, text: key.replace(".", ":\n  ") + f": {text}", st.sampled_from(KEYS), TEXTS))
@settings(max_examples=300, deadline=5000)
def test_no_text_is_a_traceback(text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert refused_briefly(path, {}, [])


@given(key=st.sampled_from(KEYS), value=TEXTS | VALUES.map(json.dumps))
@settings(max_examples=300, deadline=5000)
def test_no_setting_is_a_traceback(key, value):
    assert refused_briefly(None, {}, [f"{key}={value}"])
