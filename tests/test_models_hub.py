"""Pushing to a local stand-in of the Hugging Face Hub that speaks the same calls."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Warm

from groundbass.models.published import publish, write_encoder
from groundbass.models.samplecnn import SampleCNNConfig, SampleCNNModel

TOKEN = "hf_secretsecretsecretsecretsecretsecret"


class Hub:
    """Repositories in memory: {name: {"private", "files": {path: bytes}}}; `log` has every call."""

    commands: Warm

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, bytes] = {}  # large files by sha256
        self.log: list[str] = []
        self.breaks = 0  # uploads of large files that break off
        self.deaf = False  # hangs up on everybody
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def handle_one_request(self) -> None:
                if hub.deaf:
                    self.close_connection = True
                else:
                    super().handle_one_request()

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


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    stand_in = Hub()
    told = {"HF_ENDPOINT": stand_in.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": "/nonexistent"}
    told |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": ""}
    stand_in.commands = Warm(["groundbass.cli", "groundbass.models.published"], **told)
    yield stand_in
    stand_in.commands.close()
    stand_in.server.shutdown()


@pytest.fixture
def hub(server: Hub) -> Hub:
    """The stand-in, empty."""
    for kept in (server.repositories, server.stored, server.log):
        kept.clear()
    server.breaks, server.deaf = 0, False
    return server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = SampleCNNConfig(sample_rate=1000, strides=[3, 3, 3, 2], channels=[4, 4, 4, 8, 8, 8])
    model = SampleCNNModel(config).eval()
    write_encoder(model, tmp_path / "run" / "encoder")
    return tmp_path / "run"


# What is uploaded is the point here; that it loads in a clean process is shown in test_models_published.py.
PUBLISH = """
import time
from groundbass.models import published
pause = time.sleep
time.sleep = lambda seconds: pause(min(seconds, 0.05))  # huggingface_hub's patience, not ours
published.verify = lambda *_: 0.0
from groundbass.cli import main
main()
"""


def command(hub: Hub, *words: object, token: str | None = TOKEN) -> tuple[int | str, str]:
    """The code and the words of `groundbass publish WORDS`."""
    line = ["-c", PUBLISH, "publish", *map(str, words)]
    ended = hub.commands(line, ranks=[{"HF_TOKEN": token} if token else {}], seconds=300)
    return ended.codes[0], ended.said[0]


@pytest.mark.slow
def test_a_push_that_breaks_off_goes_on(hub: Hub, run: Path, tmp_path: Path) -> None:
    """The repository is made private; the large file is sent again after a break; a second push sends nothing twice."""
    hub.breaks = 1
    out = tmp_path / "out"
    code, said = command(hub, run, out, "--push", "our-lab/bass", "--private")
    assert code == 0 and f"{hub.url}/our-lab/bass" in said, said
    assert hub.repositories["our-lab/bass"]["private"]
    files = hub.repositories["our-lab/bass"]["files"]
    assert {path: content for path, content in files.items() if path != ".gitattributes"} == {
        path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }
    sent = hub.log.count("PUT")
    assert sent >= 2
    code, again = command(hub, run, out, "--push", "our-lab/bass")
    assert code == 0 and "uploaded as it is" in again, again
    assert hub.log.count("PUT") == sent
    for text in (said, again, *map(str, files.values())):
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
        code, said = command(hub, run, out, "--push", name, token=token)
        assert code == 2 and sentence in said, said
        assert "hf_" not in said and not out.exists()
    hub.deaf = True
    code, said = command(hub, run, out, "--push", "our-lab/bass")
    assert code == 2 and re.search("can't be reached|doesn't answer", said), said
    assert not hub.repositories


@pytest.mark.slow
def test_another_model_is_not_written_over(hub: Hub, run: Path, tmp_path: Path) -> None:
    """Our own earlier upload is; a repository of ours with something else in it only by --force."""
    theirs = {"config.json": b"{}", "pytorch_model.bin": b"1"}
    hub.repositories["our-lab/llama"] = {"private": False, "files": dict(theirs)}
    code, said = command(hub, run, tmp_path / "out", "--push", "our-lab/llama")
    assert code == 2 and "holds another model already (config.json" in said, said
    assert hub.repositories["our-lab/llama"]["files"] == theirs and not (tmp_path / "out").exists()
    assert command(hub, run, tmp_path / "out")[0] == 0
    assert 'from_pretrained("out"' in (tmp_path / "out" / "README.md").read_text()
    hub.repositories["our-lab/bass"] = {"private": False, "files": {"samplecnn.py": b"", "model.safetensors": b""}}
    code, said = command(hub, run, tmp_path / "out", "--push", "our-lab/bass")
    assert code == 0, said
    assert b'from_pretrained("our-lab/bass"' in hub.repositories["our-lab/bass"]["files"]["README.md"]
    code, said = command(hub, run, tmp_path / "secret", "--push", "our-lab/bass", "--private")
    assert code == 2 and "is there and is public" in said, said
    assert command(hub, run, tmp_path / "new", "--push", "our-lab/llama", "--force")[0] == 0


@pytest.mark.slow
def test_an_upload_that_never_ends_keeps_the_folder(hub: Hub, run: Path, tmp_path: Path) -> None:
    hub.breaks = 1000
    code, said = command(hub, run, tmp_path / "out", "--push", "me/bass")
    assert code == 2 and "is complete, but uploading it to me/bass failed" in said, said
    assert (tmp_path / "out" / "config.json").is_file() and TOKEN not in said


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
