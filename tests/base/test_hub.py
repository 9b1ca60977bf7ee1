"""What is not in a cache, on a machine whose network does not answer: one line, soon."""

import socket
import time

import huggingface_hub.constants as constants
import pytest

from slt_jax.base.hub import huggingface_file, huggingface_folder, torchhub_file
from slt_jax.errors import UserError


def never(*_, **__):
    time.sleep(60)
    raise OSError("nothing was found")


@pytest.fixture
def no_answer(tmp_path, monkeypatch):
    """Empty caches, and a network in which names are looked up for ever."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", never)


@pytest.mark.parametrize(
    ("find", "host"),
    [
        (lambda: huggingface_folder("me/mine", "--decoder-model"), "huggingface.co"),
        (lambda: huggingface_file("me/mine", "w.pth", "model.backbone"), "huggingface.co"),
        (lambda: torchhub_file("dinov2_vits14", "model.backbone"), "dl.fbaipublicfiles.com"),
    ],
    ids=["folder", "file", "torchhub"],
)
def test_a_network_that_does_not_answer_is_said_within_5_seconds(find, host, no_answer):
    start = time.monotonic()
    with pytest.raises(UserError, match=f"cannot be downloaded.*no connection to {host} in 4 s.*; put ") as error:
        find()
    assert time.monotonic() - start < 10  # 4 s, and what a busy machine adds
    assert "\n" not in str(error.value)


def test_a_proxy_that_does_not_answer_is_named(no_answer, monkeypatch):
    monkeypatch.undo()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=r"no connection to 127\.0\.0\.1: Connection refused"):
        huggingface_file("me/mine", "w.pth", "model.backbone")
