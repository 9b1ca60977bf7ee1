"""The benchmark against torch's own export compares files that compute the same."""

from convert import write_pt
from tests.convert.models import settings, tiny
from tools import benchmark_onnx


def test_it_runs_on_a_tiny_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_onnx, "torch_exporters", lambda: {"torch": False})  # the other is not always there
    _, state = tiny()
    write_pt(tmp_path / "last.pt", {"epoch": 1, "model_state": state, "config": {"model": settings()}})
    given = ["--checkpoint", str(tmp_path / "last.pt"), "--frames", "3", "--repeats", "2", "--threads", "1"]
    assert benchmark_onnx.main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["ours", "torch"]
