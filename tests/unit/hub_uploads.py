"""A local server that takes commits as the hub does: repositories, LFS objects and one commit at a time."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_token_of_a_test"


class Hub:
    """What the server holds.

    Attributes:
        repositories: by name whether private, and the files with their content.
        sent: bytes of every LFS object that arrived, in order.
        commits: how many there were.
        fails: the path of a request that is answered with the status, once.
    """

    def __init__(self):
        self.repositories, self.objects, self.sent, self.commits = {}, {}, [], 0
        self.fails: dict[str, int] = {}

    def files(self, name):
        return self.repositories[name]["files"]


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve ``hub`` and yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def _body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, value, status=200):
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _refused(self, body):
            failing = next((part for part in hub.fails if part in self.path), None)
            if failing:
                self._answer({"error": "no"}, hub.fails.pop(failing))
            elif "/upload/" not in self.path and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._answer({"error": "who are you?"}, 401)
            else:
                return False
            return True

        def do_GET(self):
            path = self.path.split("?")[0]
            if self._refused(b""):
                return
            if path == "/api/whoami-v2":
                self._answer({"type": "user", "name": "me", "auth": {"accessToken": {"role": "write"}}})
            elif "/tree/" in path:
                name = path.removeprefix("/api/models/").split("/tree/")[0]
                listed = [
                    {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for file, content in hub.files(name).items()
                ]
                self._answer(listed)
            elif path.startswith("/api/models/"):
                name = path.removeprefix("/api/models/").split("/revision/")[0]
                siblings = [{"rfilename": file} for file in hub.files(name)]
                self._answer({"id": name, "modelId": name, "sha": "0" * 40, "siblings": siblings, "tags": []})

        def do_PUT(self):
            content = self._body()
            if self._refused(content):
                return
            hub.objects[hashlib.sha256(content).hexdigest()] = content
            hub.sent.append(len(content))
            self._answer({})

        def do_POST(self):
            body = self._body()
            if self._refused(body):
                return
            if self.path == "/api/repos/create":
                given = json.loads(body)
                name = f"{given.get('organization') or 'me'}/{given['name']}"
                if name in hub.repositories:
                    self._answer({"error": "exists", "url": f"https://huggingface.co/{name}"}, 409)
                else:
                    hub.repositories[name] = {"private": given["visibility"] == "private", "files": {}}
                    self._answer({"url": f"https://huggingface.co/{name}", "id": name})
            elif self.path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                modes = [{"path": file["path"], "uploadMode": _mode(file), "shouldIgnore": False} for file in files]
                self._answer({"files": modes})
            elif self.path.endswith("/objects/batch"):
                host = f"http://{self.headers['Host']}"
                self._answer(
                    {"transfer": "basic", "objects": [_object(hub, one, host) for one in json.loads(body)["objects"]]}
                )
            elif "/commit/" in self.path:
                name = self.path.removeprefix("/api/models/").split("/commit/")[0]
                hub.commits += 1
                for line in body.splitlines():
                    _apply(hub, hub.files(name), json.loads(line))
                self._answer({"commitUrl": f"https://huggingface.co/{name}/commit/{'1' * 40}", "commitOid": "1" * 40})
            else:
                self._answer({})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def _mode(file):
    return "lfs" if file["path"].endswith((".safetensors", ".gguf")) else "regular"


def _object(hub, one, host):
    found = {"oid": one["oid"], "size": one["size"]}
    if one["oid"] in hub.objects:
        return found
    return {**found, "actions": {"upload": {"href": f"{host}/upload/{one['oid']}"}}}


def _apply(hub, files, line):
    value = line["value"]
    if line["key"] == "file":
        files[value["path"]] = base64.b64decode(value["content"])
    elif line["key"] == "lfsFile":
        files[value["path"]] = hub.objects[value["oid"]]
    elif line["key"] == "deletedFile":
        del files[value["path"]]
