"""The flags of app.py: a slip ends with a sentence and exit code 2, and quickly."""

import shutil
import socket

import app


def refused(capsys, *flags):
    assert app.main(flags) == 2, f"{flags} should end with exit code 2"
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_port_in_use_is_named_with_the_remedy(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(capsys, "--port", str(port))
    assert f"Port {port} on 127.0.0.1 is in use" in said
    assert "--port" in said


def test_ports_and_hosts_that_cannot_be(capsys):
    assert "99999" in refused(capsys, "--port", "99999")
    assert "--host 127.0.0.1" in refused(capsys, "--host", "203.0.113.7")


def test_an_unknown_profile_names_those_there_are(capsys):
    said = refused(capsys, "--profile", "teddy", "--port", free())
    assert "teddy" in said
    assert "plush" in said


def test_missing_weights_are_named(capsys, tmp_path):
    assert str(tmp_path / "nowhere") in refused(capsys, "--weights", str(tmp_path / "nowhere"), "--port", free())


def test_damaged_weights_are_named(capsys, tmp_path, folder):
    weights = shutil.copytree(folder, tmp_path / "damaged")
    (weights / "mllm" / "model.safetensors").write_bytes(b"cut short")
    said = refused(capsys, "--weights", str(weights), "--port", free())
    assert str(weights / "mllm") in said
    assert "damaged" in said


def test_a_device_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--device cpu" in refused(capsys, "--device", "cuda", "--port", free())


def free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
