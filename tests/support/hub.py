"""The Hugging Face hub: a local server with what data sets use of it, and a filled cache."""

import http.server
import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40
FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)")
API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(\w[\w-]*)/([^/]+)(?:/(.*))?)?")


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves the data sets in ``folder/ORGANISATION/NAME/``."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer()

    def answer(self, body: bool = True) -> None:
        path = unquote(urlsplit(self.path).path)
        file, question = FILE.fullmatch(path), API.fullmatch(path)
        if file and (self.folder / file[1] / file[2]).is_file():
            self.send_part((self.folder / file[1] / file[2]).read_bytes(), body)
        elif question and self.holds(question[1], question[4] or ""):
            facts = self.facts(self.folder / question[1], question[2], question[4] or "")
            self.send(200, json.dumps(facts).encode())
        else:
            missing = "EntryNotFound" if file or question else "RepoNotFound"
            self.send(404, b"", **{"X-Error-Code": missing})

    def holds(self, dataset: str, below: str) -> bool:
        return (self.folder / dataset / below).is_dir()

    def facts(self, data: Path, asked: str | None, below: str) -> Any:
        """Return the hub's description of a data set, or of a folder in it."""
        if asked == "tree":
            return [
                {
                    "type": "directory" if path.is_dir() else "file",
                    "oid": COMMIT,
                    "size": path.stat().st_size,
                    "path": path.relative_to(data).as_posix(),
                }
                for path in (data / below).iterdir()
            ]
        files = [path for path in data.rglob("*") if path.is_file()]
        siblings = [{"rfilename": file.relative_to(data).as_posix()} for file in files]
        return {"id": "/".join(data.parts[-2:]), "sha": COMMIT, "siblings": siblings}

    def send_part(self, content: bytes, body: bool) -> None:
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(part[1]), int(part[2] or len(content) - 1)) if part else (0, len(content))
        headers = {"ETag": f'"{len(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if part:
            end = min(end, len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.send(206 if part else 200, content[start : end + 1], body, **headers)

    def send(self, code: int, content: bytes, body: bool = True, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def put_in_cache(cache: Path, repo: str, files: dict[str, Path]) -> None:
    """Lay files out as the hub's client keeps those of a model."""
    commit = "0" * 40
    snapshot = cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    for name, file in files.items():
        shutil.copy(file, snapshot / name)
