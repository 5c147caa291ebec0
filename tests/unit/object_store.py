"""An S3 server in this process, and a line to it that breaks: what the tests of object storage share."""

import contextlib
import os
import socket
import threading
import urllib.request

import pytest

BUCKET = "data"
# More than the head of an answer has.
HEAD_BYTES = 4096


def start_server():
    """Start moto's server, empty; return it and its endpoint. Skips where the packages are missing."""
    os.environ["S3_UPLOAD_PART_MIN_SIZE"] = "1"  # parts of a few kilobytes will do
    pytest.importorskip("botocore", reason="object storage needs envs/extras/storage.txt")
    server = pytest.importorskip("moto.server", reason="the tests of object storage need moto[server]")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    # All servers of one process share their buckets, and another module's tests may have left theirs.
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST"), timeout=30).close()
    return running, endpoint


def environment(endpoint, folder):
    """Return the AWS variables for a server, with nothing of the user's own files."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
    }


class Line:
    """A proxy to a server that hangs up after some bytes of an answer, or changes them on the way.

    Attributes:
        cuts: how many connections are still to be cut, each after ``after`` bytes of the server's answer.
        damage: how many pieces of answers are still to have a byte changed behind ``after``, each in another way.
        spoil, drop: how many requests are still to have a byte changed, or to be cut, behind ``after``.
        dies_after: bytes of answers after which nothing passes any more; None for never.
        requests: the beginnings of all requests that passed.
    """

    def __init__(self, endpoint, cuts=0, after=300_000):
        self._target = endpoint.removeprefix("http://").rpartition(":")
        self.cuts, self.after, self.damage = cuts, after, 0
        self.spoil, self.drop = 0, 0
        self.dies_after, self.sent = None, 0
        self.requests, self.on_cut = [], None
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._socket.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                inside, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(inside,), daemon=True).start()

    def _serve(self, inside):
        with inside, socket.create_connection((self._target[0], int(self._target[2]))) as outside:
            back = threading.Thread(target=self._answer, args=(outside, inside), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                size = 0
                while content := inside.recv(65536):
                    size += len(content)
                    self.requests.append(content[:2000])
                    if size > self.after and self._take("spoil"):
                        content = content[:-1] + bytes([content[-1] ^ 1])
                    if size > self.after and self._take("drop"):
                        inside.shutdown(socket.SHUT_RDWR)
                        break
                    outside.sendall(content)
                outside.shutdown(socket.SHUT_WR)
            back.join(10)

    def _answer(self, outside, inside):
        size = 0
        with contextlib.suppress(OSError):
            while content := outside.recv(65536):
                size += len(content)
                self.sent += len(content)
                if self.dies_after is not None and self.sent > self.dies_after:
                    inside.shutdown(socket.SHUT_RDWR)
                    return
                # Never the head of an answer, which may follow another on this connection.
                if size > self.after and len(content) > HEAD_BYTES and (left := self._take("damage")):
                    # Never the same twice: that would be the object as the server has it.
                    content = content[:-1] + bytes([content[-1] ^ (1 + left % 255)])
                if size > self.after and self._take("cuts"):
                    if self.on_cut:
                        self.on_cut()
                    inside.shutdown(socket.SHUT_RDWR)
                    return
                inside.sendall(content)
            inside.shutdown(socket.SHUT_WR)

    def _take(self, name):
        with self._lock:
            left = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return left


@pytest.fixture(scope="module")
def server():
    """The endpoint of a server."""
    running, endpoint = start_server()
    yield endpoint
    running.stop()


@pytest.fixture
def storage(server, tmp_path, monkeypatch):
    """A client of an empty bucket."""
    from snaketune.storage.object_storage import connect

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(server, tmp_path).items():
        monkeypatch.setenv(name, value)
    client = connect()
    client.create_bucket(Bucket=BUCKET)
    yield client
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def line(server, monkeypatch):
    """A line that the clients made from now on go through."""
    made = Line(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    yield made
    made.close()
