"""Pushing to a local stand-in of the Hugging Face Hub that speaks the same calls."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from groundbass.models.published import publish, write_encoder
from groundbass.models.samplecnn import SampleCNNConfig, SampleCNNModel

TOKEN = "hf_secretsecretsecretsecretsecretsecret"


class Hub:
    """Repositories in memory: {name: {"private", "files": {path: bytes}}}; `log` has every call."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, bytes] = {}  # large files by sha256
        self.log: list[str] = []
        self.breaks = 0  # uploads of large files that break off
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    parts = []
                    while size := int(self.rfile.readline(), 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def do_GET(self) -> None:
                hub.log.append(f"GET {self.path}")
                if self.path.startswith("/api/whoami"):
                    if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                        self.answer({"error": "Invalid credentials"}, 401)
                    else:
                        self.answer({"type": "user", "name": "me", "orgs": [{"name": "our-lab"}]})
                elif (name := re.sub("^/api/models/", "", self.path.split("?")[0])) in hub.repositories:
                    siblings = [{"rfilename": path} for path in hub.repositories[name]["files"]]
                    private = hub.repositories[name]["private"]
                    self.answer({"id": name, "private": private, "siblings": siblings, "sha": "0" * 40})
                else:
                    self.answer({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})

            def do_POST(self) -> None:
                hub.log.append(f"POST {self.path}")
                body = self.body()
                if self.path == "/api/repos/create":
                    asked = json.loads(body)
                    name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                    private = asked.get("private") or asked.get("visibility") == "private"
                    hub.repositories[name] = {"private": bool(private), "files": {}}
                    self.answer({"url": f"http://{self.headers['Host']}/{name}", "name": name})
                elif self.path.startswith("/api/validate-yaml"):
                    self.answer({"errors": [], "warnings": []})
                elif "/preupload/" in self.path:
                    files = json.loads(body)["files"]
                    kinds = [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular",
                            "shouldIgnore": False,
                        }
                        for file in files
                    ]
                    self.answer({"files": kinds})
                elif self.path.endswith("/info/lfs/objects/batch"):
                    objects = []
                    for asked in json.loads(body)["objects"]:
                        target = {"href": f"http://{self.headers['Host']}/lfs/{asked['oid']}", "header": {}}
                        actions = {} if asked["oid"] in hub.stored else {"actions": {"upload": target}}
                        objects.append({"oid": asked["oid"], "size": asked["size"], **actions})
                    self.answer({"transfer": "basic", "objects": objects})
                elif "/commit/" in self.path:
                    name = "/".join(self.path.split("/")[3:5])
                    for line in body.splitlines():
                        entry = json.loads(line)
                        value = entry["value"]
                        if entry["key"] == "file":
                            hub.repositories[name]["files"][value["path"]] = base64.b64decode(value["content"])
                        elif entry["key"] == "lfsFile":
                            hub.repositories[name]["files"][value["path"]] = hub.stored[value["oid"]]
                    self.answer(
                        {
                            "commitUrl": f"http://{self.headers['Host']}/{name}/commit/1",
                            "commitOid": "1" * 40,
                            "success": True,
                        }
                    )
                else:
                    self.answer({"error": f"unknown call {self.path}"}, 400)

            def do_PUT(self) -> None:
                hub.log.append("PUT")
                if hub.breaks:
                    hub.breaks -= 1
                    self.connection.close()
                    return
                content = self.body()
                hub.stored[hashlib.sha256(content).hexdigest()] = content
                self.answer({})

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub() -> Iterator[Hub]:
    stand_in = Hub()
    yield stand_in
    stand_in.server.shutdown()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = SampleCNNConfig(sample_rate=1000, strides=[3, 3, 3, 2], channels=[4, 4, 4, 8, 8, 8])
    model = SampleCNNModel(config).eval()
    write_encoder(model, tmp_path / "run" / "encoder")
    return tmp_path / "run"


def command(hub: Hub, *words: object, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", "HF_HOME": "/nonexistent", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment.pop("HF_TOKEN", None)
    environment |= {"HF_TOKEN": token} if token else {}
    line = [sys.executable, "-m", "groundbass.cli", "publish", *map(str, words)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_push_that_breaks_off_goes_on(hub: Hub, run: Path, tmp_path: Path) -> None:
    """The repository is made private; the large file is sent again after a break; a second push sends nothing twice."""
    hub.breaks = 1
    out = tmp_path / "out"
    done = command(hub, run, out, "--push", "our-lab/bass", "--private")
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/our-lab/bass" in done.stdout
    assert hub.repositories["our-lab/bass"]["private"]
    files = hub.repositories["our-lab/bass"]["files"]
    assert {path: content for path, content in files.items() if path != ".gitattributes"} == {
        path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }
    sent = hub.log.count("PUT")
    assert sent >= 2
    again = command(hub, run, out, "--push", "our-lab/bass")
    assert again.returncode == 0 and "uploaded as it is" in again.stdout, again.stderr
    assert hub.log.count("PUT") == sent
    for text in (done.stdout, done.stderr, again.stdout, again.stderr, *map(str, files.values())):
        assert TOKEN not in text


@pytest.mark.slow
def test_what_cannot_be_pushed_is_said_before_anything_is_made(hub: Hub, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, token, sentence in (
        ("our-lab/bass", None, "There is no Hugging Face token: run `hf auth login`"),
        ("our-lab/bass", "hf_wrong", "The Hub refuses the Hugging Face token"),
        ("google/bass", TOKEN, "me may write to me, our-lab, and google is someone else's"),
        ("bass", TOKEN, "a name on the Hub is ORG/NAME"),
    ):
        done = command(hub, run, out, "--push", name, token=token)
        assert done.returncode == 2 and sentence in done.stderr, done.stderr
        assert "hf_" not in done.stderr and not out.exists()
    hub.server.shutdown()
    hub.server.server_close()
    done = command(hub, run, out, "--push", "our-lab/bass")
    assert done.returncode == 2 and re.search("can't be reached|doesn't answer", done.stderr), done.stderr
    assert not hub.repositories


@pytest.mark.slow
def test_another_model_is_not_written_over(hub: Hub, run: Path, tmp_path: Path) -> None:
    """Our own earlier upload is; a repository of ours with something else in it only by --force."""
    theirs = {"config.json": b"{}", "pytorch_model.bin": b"1"}
    hub.repositories["our-lab/llama"] = {"private": False, "files": dict(theirs)}
    done = command(hub, run, tmp_path / "out", "--push", "our-lab/llama")
    assert done.returncode == 2 and "holds another model already (config.json" in done.stderr, done.stderr
    assert hub.repositories["our-lab/llama"]["files"] == theirs and not (tmp_path / "out").exists()
    assert command(hub, run, tmp_path / "out").returncode == 0
    assert 'from_pretrained("out"' in (tmp_path / "out" / "README.md").read_text()
    hub.repositories["our-lab/bass"] = {"private": False, "files": {"samplecnn.py": b"", "model.safetensors": b""}}
    done = command(hub, run, tmp_path / "out", "--push", "our-lab/bass")
    assert done.returncode == 0, done.stderr
    assert b'from_pretrained("our-lab/bass"' in hub.repositories["our-lab/bass"]["files"]["README.md"]
    done = command(hub, run, tmp_path / "secret", "--push", "our-lab/bass", "--private")
    assert done.returncode == 2 and "is there and is public" in done.stderr, done.stderr
    assert command(hub, run, tmp_path / "new", "--push", "our-lab/llama", "--force").returncode == 0


@pytest.mark.slow
def test_an_upload_that_never_ends_keeps_the_folder(hub: Hub, run: Path, tmp_path: Path) -> None:
    hub.breaks = 1000
    done = command(hub, run, tmp_path / "out", "--push", "me/bass")
    assert done.returncode == 2 and "is complete, but uploading it to me/bass failed" in done.stderr, done.stderr
    assert (tmp_path / "out" / "config.json").is_file() and TOKEN not in done.stderr


def test_a_dry_run_lists_and_writes_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(run, tmp_path / "out", push="me/bass", private=True, dry_run=True)
    listed = capsys.readouterr().out
    size = (run / "encoder" / "model.safetensors").stat().st_size
    assert re.search(rf"{size:,} bytes  model\.safetensors", listed)
    assert "private repository me/bass; nothing was written" in listed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.slow
def test_large_weights_are_split_and_load(run: Path, tmp_path: Path) -> None:
    publish(run, tmp_path / "out", shard_size="2KB")
    names = {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert len(names) > 1 and "model.safetensors" not in names
    from groundbass import load_encoder

    x = torch.randn(1, 1000)
    assert torch.equal(load_encoder(tmp_path / "out").hidden_states(x), load_encoder(run).hidden_states(x))
