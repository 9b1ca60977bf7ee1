"""Two processes train like one; when one of them stops, fails or is killed, the other one ends too."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from slt_jax.cli.train import main
from slt_jax.training.workdir import state_folder
from tests.cli.conftest import metrics, start
from tests.cli.test_parallel import COMMON as WITHOUT_FACE
from tests.cli.test_parallel import SCORED, assert_same_losses
from tests.cli.test_resume import SAVES_EVERY_STEP, wait_for

COMMAND = ("-m", "slt_jax.cli.train")
COMMON = WITHOUT_FACE | {"streams": None}  # all streams
TWO_EPOCHS = COMMON | {"epochs": 2}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def start_both(arguments: list[str], program=COMMAND, *, more: tuple[str, ...] = (), devices: int = 1) -> list:
    """Both processes; `more` are arguments of the second alone."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    meeting = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--process-id"]
    return [
        start(program, [*arguments, *meeting, str(index), *(more if index else ())],
              env=os.environ | {"XLA_FLAGS": flags})
        for index in range(2)
    ]  # fmt: skip


def ends(processes: list[subprocess.Popen], seconds: float = 150) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each."""
    try:
        found = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *said) for process, said in zip(processes, found, strict=True)]


def own_lines(said: str) -> list[str]:
    """The lines that are not Gloo's, whose threads write theirs in pieces, one into another's."""
    pieces = r"\[Gloo\] Rank | is connected to | peer ranks\. Expected number of connected peer ranks is : "
    return [line for line in said.splitlines() if re.sub(pieces, "", line).strip(" 0123456789")]


@pytest.fixture(scope="module")
def one(corpus, tmp_path_factory) -> Path:
    """Two epochs in one process."""
    work_dir = tmp_path_factory.mktemp("one") / "run"
    assert main(corpus.flags(work_dir, *SCORED, **TWO_EPOCHS)) == 0
    return work_dir


@pytest.mark.slow
def test_two_processes_train_like_one(corpus, one, tmp_path):
    """Of two devices each, all parameters split: the losses, and the scores of all clips' translations."""
    work_dir = tmp_path / "run"
    arguments = corpus.flags(work_dir, *SCORED, **TWO_EPOCHS, sharding="fsdp", model_parallel=2)
    (code, said, errors), other = ends(start_both(arguments, devices=2))
    assert (code, other[0]) == (0, 0), (errors, other)
    assert_same_losses(metrics(work_dir), metrics(one))
    assert [record["compilations"] for record in metrics(work_dir, without=())] == [2, 2]
    host = socket.gethostname()
    assert own_lines(said)[:2] == [f"process {index} of 2 on {host}: 2 x cpu" for index in range(2)]
    assert "11 training and 3 validation clips on 4 x cpu" in said
    assert "GiB are free" in said  # of the process that has least, and more than an int32 can tell
    assert own_lines(other[1]) == []


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_both_resume(corpus, one, tmp_path):
    work_dir = tmp_path / "run"
    first, second = start_both(corpus.flags(work_dir, **TWO_EPOCHS), ("-c", SAVES_EVERY_STEP))
    try:
        wait_for((work_dir / "checkpoints" / "1").exists, second)
    finally:
        second.kill()
    (code, _, errors), _ = ends([first, second], 60)
    assert code == 1
    last = errors.splitlines()[-1]
    assert last.startswith(f"slt-train: process 1 ({socket.gethostname()}) has ended early"), errors
    again = ends(start_both(corpus.flags(work_dir, "--resume", **TWO_EPOCHS)))
    assert [code for code, *_ in again] == [0, 0], again
    assert_same_losses(metrics(work_dir), metrics(one))


@pytest.mark.slow
def test_the_end_of_process_0_ends_the_other_with_one_line(corpus, tmp_path):
    """It holds JAX's own service, whose client would abort with pages of its log."""
    work_dir = tmp_path / "run"
    first, second = start_both(corpus.flags(work_dir, **COMMON | {"epochs": 200}))
    try:
        wait_for((work_dir / "last.pt").exists, second)
    finally:
        first.kill()
    _, (code, _, errors) = ends([first, second], 60)
    assert code == 1
    assert errors == "slt-train: process 0 (127.0.0.1) has ended early, so this process ends too; go on with --resume\n"


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_saving(corpus, tmp_path):
    work_dir = tmp_path / "run"
    first, second = start_both(corpus.flags(work_dir, **COMMON | {"epochs": 200}))
    try:
        wait_for((work_dir / "last.pt").exists, first)
    finally:
        second.terminate()
    for code, _, errors in ends([first, second], 120):
        assert code == 128 + signal.SIGTERM, errors
        assert errors.splitlines()[-1].startswith("slt-train: SIGTERM: the state is saved")
    assert state_folder(work_dir)


@pytest.mark.slow
def test_a_mistake_on_one_host_ends_both(corpus, tmp_path):
    arguments = corpus.flags(tmp_path / "run", **COMMON)
    (code, _, errors), (other, _, mistake) = ends(start_both(arguments, more=("--face-dir", "nowhere")), 120)
    assert (code, other) == (1, 2)
    assert mistake.startswith("slt-train: error: --face-dir nowhere")
    assert errors.splitlines()[-1].startswith("slt-train: process 1 ")


@pytest.mark.parametrize(
    ("index", "message"), [(0, "process 1, 2 did not answer within 1 s"), (1, "process 0 did not answer within 1 s")]
)
def test_processes_that_do_not_answer_are_named(corpus, tmp_path, index, message):
    meeting = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "3", "--process-id", str(index)]
    arguments = corpus.flags(tmp_path / "run", *meeting, "--distributed-timeout", "1", **COMMON)
    ((code, _, errors),) = ends([start(COMMAND, arguments)], 60)
    assert code == 2
    assert errors.startswith("slt-train: error: --coordinator 127.0.0.1:")
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({}, "--distributed: neither SLURM, GKE, Open MPI nor a TPU slice tells who takes part"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_PROCID": "0",
          "SLURM_LOCALID": "0"}, "--distributed: not all processes answered within 1 s; this one, on "),
    ],
    ids=["none", "slurm"],
)  # fmt: skip
def test_a_cluster_that_is_not_there_or_not_whole_is_said(corpus, tmp_path, cluster, message):
    arguments = corpus.flags(tmp_path / "run", "--distributed", "--distributed-timeout", "1", **COMMON)
    ((code, _, errors),) = ends([start(COMMAND, arguments, env=os.environ | cluster)], 60)
    assert code == 2
    assert errors.startswith(f"slt-train: error: {message}")
    assert errors.count("\n") == 1


def test_processes_must_agree_on_their_number(corpus, tmp_path):
    arguments = corpus.flags(tmp_path / "run", **COMMON)
    found = ends(start_both(arguments, more=("--num-processes", "3")), 60)
    for code, _, errors in found:
        assert code == 2
        assert "process 1 was given --num-processes 3, process 0 2" in errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--coordinator a:1", "--coordinator needs --num-processes and --process-id"),
        ("--num-processes 2", "--num-processes needs --coordinator and --process-id"),
        ("--coordinator a --num-processes 2 --process-id 0", "--coordinator a: expected HOST:PORT"),
        ("--coordinator a:1 --num-processes 2 --process-id 2", "--process-id 2: must be one of 0 to"),
        ("--distributed --process-id 1", "--distributed finds out by itself what --process-id says"),
        ("--distributed-timeout 5", "--distributed-timeout is for several processes"),
        ("--distributed --distributed-timeout 0", "--distributed-timeout 0: must be above 0"),
    ],
)
def test_flags_that_contradict_each_other(corpus, tmp_path, capsys, flags, message):
    assert main(corpus.flags(tmp_path / "run", *flags.split())) == 2
    assert capsys.readouterr().err.startswith(f"slt-train: error: {message}")
