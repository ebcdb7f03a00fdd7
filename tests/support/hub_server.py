"""A stand-in for the model hub on 127.0.0.1: repositories of bytes, each at one or more commits.

It lists, serves and takes commits as the hub's HTTP API does, and fails on request (`Hub.fail`).
"""

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""
CUT: Answer = (0, {"how": "cut"}, b"")
"""Stands for an answer that ends after half of its body."""
RESET: Answer = (0, {"how": "reset"}, b"")
"""Stands for an answer whose connection is reset (RST) after half of its body."""
LISTED = ("id", "sha", "downloads", "tags", "gated", "private", "siblings")


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()


class Hub:
    """Use as a context manager; `requests` lists what was asked as (method, path)."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # name -> {commit: {file: bytes}}, the last is main
        self.about: dict[str, dict[str, Any]] = {}  # name -> downloads, tags, gated, private
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []  # what was asked for by a Range header
        self.commits: list[dict[str, Any]] = []  # the headers of commits taken
        self.token = "hf_theRightToken"
        self.page = 100  # models on a page of a list
        self.faults: list[tuple[str, Answer]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def add(self, name: str, folder: Path) -> str:
        """Commit a folder; returns the commit."""
        return self.commit(name, {path.name: path.read_bytes() for path in sorted(folder.iterdir())})

    def commit(self, name: str, files: dict[str, bytes], **about: Any) -> str:
        """Commit files; returns the commit. `about`: downloads, tags, gated, private."""
        digest = hashlib.sha1(name.encode())
        for file, data in files.items():
            digest.update(file.encode() + data)
        commit = digest.hexdigest()
        self.repos.setdefault(name, {})[commit] = files
        self.about.setdefault(name, {"downloads": 0, "tags": [], "gated": False, "private": False}).update(about)
        return commit

    def fail(self, path: str, *answers: Answer) -> None:
        """Answer the next requests whose path holds a text with these, one each."""
        self.faults += [(path, answer) for answer in answers]

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

    def fault(self, path: str) -> Answer | None:
        """The failure that was asked for a path, once."""
        for number, (part, answer) in enumerate(self.faults):
            if part in path:
                del self.faults[number]
                return answer
        return None

    def answer(self, path: str, known: bool = False) -> Answer:
        """What a GET of a path gives; `known`: with the right token."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        if parts == ["api", "models"]:
            return self._list(parse_qs(urlsplit(path).query))
        api = parts[:2] in (["api", "models"], ["api", "datasets"])
        parts = parts[2:] if api else parts[1:] if parts[0] == "datasets" else parts
        name = "/".join(parts[:2])
        commits = self.repos.get(name)
        if commits is None or (self.about.get(name, {}).get("private") and not known):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        verb, revision = parts[2:4] if len(parts) > 3 else (parts[2] if len(parts) > 2 else "revision", "main")
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if verb != "revision" and self.about.get(name, {}).get("gated") and not known:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        return self._of_repo(name, commit, verb if api else "", "/".join(parts[4:]))

    def _of_repo(self, name: str, commit: str, verb: str, file: str) -> Answer:
        files = self.repos[name][commit]
        oid = {file: hashlib.sha1(data).hexdigest() for file, data in files.items()}
        if verb == "revision":
            return as_json(self._about(name, commit))
        if verb == "auth-check":
            return 200, {}, b""
        if verb == "tree":
            return as_json([{"type": "file", "path": f, "size": len(data), "oid": oid[f]} for f, data in files.items()])
        if file not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        return 200, {"ETag": f'"{oid[file]}"', "X-Repo-Commit": commit}, files[file]

    def _about(self, name: str, commit: str) -> dict[str, Any]:
        siblings = [{"rfilename": file} for file in self.repos[name][commit]]
        return {"id": name, "sha": commit, "siblings": siblings, **self.about.get(name, {})}

    def _list(self, query: dict[str, list[str]]) -> Answer:
        """A page of the models that have all tags asked for, by falling downloads where that is asked for."""
        names = [n for n in self.repos if set(query.get("filter", [])) <= set(self.about.get(n, {}).get("tags", []))]
        if query.get("sort") == ["downloads"]:
            names.sort(key=lambda name: -self.about[name]["downloads"])
        start, size = int(query.get("cursor", ["0"])[0]), min(self.page, int(query.get("limit", ["1000"])[0]))
        page = [self._about(name, list(self.repos[name])[-1]) for name in names[start : start + size]]
        headers = {}
        if start + size < len(names):
            rest = "&".join(f"{key}={value}" for key, values in query.items() if key != "cursor" for value in values)
            headers["Link"] = f'<{self.url}/api/models?{rest}&cursor={start + size}>; rel="next"'
        return as_json([{key: item[key] for key in LISTED if key in item} for item in page], headers=headers)

    def take(self, path: str, body: bytes, known: bool) -> Answer:
        """What a POST of a path gives."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        if parts[:2] == ["api", "validate-yaml"]:
            return as_json({"errors": [], "warnings": []})
        if not known:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.repos:
                return as_json({"error": "You already created this model repo", "url": f"{self.url}/{name}"}, 409)
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.commit(name, {".gitattributes": b""}, private=private)
            return as_json({"url": f"{self.url}/{name}"})
        name, verb = "/".join(parts[2:4]), parts[4]
        if verb == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return as_json({"files": files})
        if verb == "commit":
            return self._committed(name, [json.loads(line) for line in body.splitlines()])
        return 404, {}, b""

    def _committed(self, name: str, lines: list[dict[str, Any]]) -> Answer:
        files = dict(list(self.repos[name].values())[-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                self.commits.append(value)
        commit = self.commit(name, files)
        return as_json({"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit})

    def _handler(hub: "Hub") -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.requests.append((self.command, self.path))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
                known = self.headers.get("Authorization") == f"Bearer {hub.token}"
                fault = hub.fault(self.path) if self.command != "HEAD" else None
                if self.command == "POST":
                    status, headers, data = fault or hub.take(self.path, body, known)
                else:
                    status, headers, data = fault or hub.answer(self.path, known)
                broken = fault if fault in (CUT, RESET) else None
                if broken:
                    status, headers, data = hub.answer(self.path, known)
                self._send(status, headers, data, broken)

            do_HEAD = do_POST = do_GET

            def _chunks(self) -> bytes:
                """The body of a request that is sent in chunks, as that of a commit is."""
                parts = []
                while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                return b"".join(parts)

            def _send(self, status: int, headers: dict[str, str], data: bytes, broken: Answer | None) -> None:
                asked = self.headers.get("Range")
                if asked and status == 200:
                    hub.ranges.append(asked)
                    start = int(asked.removeprefix("bytes=").partition("-")[0])
                    status = 206
                    headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
                    data = data[start:]
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                self.wfile.write(data[: len(data) // 2] if broken else data)
                if broken is RESET:  # as a router does that forgets a connection
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
