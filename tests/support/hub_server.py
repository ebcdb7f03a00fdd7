"""A stand-in for the model hub on 127.0.0.1: repositories of bytes, each at one or more commits."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """Use as a context manager; `requests` lists what was asked as (method, path)."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # name -> {commit: {file: bytes}}, the last is main
        self.requests: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def add(self, name: str, folder: Path) -> str:
        """Commit a folder; returns the commit."""
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        digest = hashlib.sha1(name.encode())
        for file, data in files.items():
            digest.update(file.encode() + data)
        commit = digest.hexdigest()
        self.repos.setdefault(name, {})[commit] = files
        return commit

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, *_: None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) for a path."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        api = parts[:2] in (["api", "models"], ["api", "datasets"])
        parts = parts[2:] if api else parts[1:] if parts[0] == "datasets" else parts
        commits = self.repos.get("/".join(parts[:2]))
        if commits is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        verb, revision = parts[2:4] if len(parts) > 3 else ("revision", "main")
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = commits[commit]
        oid = {file: hashlib.sha1(data).hexdigest() for file, data in files.items()}
        if api and verb == "revision":
            about = {"id": "/".join(parts[:2]), "sha": commit, "siblings": [{"rfilename": file} for file in files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        if api and verb == "tree":
            tree = [{"type": "file", "path": f, "size": len(data), "oid": oid[f]} for f, data in files.items()]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        file = "/".join(parts[4:])
        if file not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        return 200, {"ETag": f'"{oid[file]}"', "X-Repo-Commit": commit}, files[file]

    def _handler(hub: "Hub") -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.requests.append((self.command, self.path))
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
