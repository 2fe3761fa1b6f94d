"""A real HTTP server that implements the files and batches of the OpenAI API, as far as a batch of chats needs them."""

import contextlib
import email
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class BatchServer:
    """`batches` by id, `files` by id; a batch is done after `polls` looks at it. `answer` makes a line's response.

    `spoil(lines)` changes the lines of the output before they are given out; `end` is the status that batches end with.
    """

    def __init__(self, answer, polls=2, spoil=list, end="completed", errors=None, refuse=None):
        self.batches, self.files, self.asked, self.keys, self.looks = {}, {}, [], [], 0
        self._answer, self._polls, self._spoil, self._end, self._errors = answer, polls, spoil, end, errors
        self._refuse = refuse or (lambda method, path: None)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads, self._http.fake = True, self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def handle(self, method, path, body, content_type, key):
        """Status and body (bytes, or a value that is sent as JSON)."""
        self.keys.append(key)
        if refused := self._refuse(method, path):
            return refused
        parts = path.partition("?")[0].removeprefix("/v1/").split("/")
        if method == "POST" and parts == ["files"]:
            return 200, self._store(body, content_type)
        if method == "POST" and parts == ["batches"]:
            return 200, self._create(json.loads(body))
        if parts == ["batches"]:
            return 200, self._list(dict(urllib.parse.parse_qsl(path.partition("?")[2])))
        if parts[0] == "batches" and parts[1] in self.batches:
            return 200, self._look(self.batches[parts[1]])
        if parts[0] == "files" and parts[1] in self.files:
            return 200, self.files[parts[1]]
        return 404, {"error": {"message": f"no {path}", "type": "error", "param": None, "code": None}}

    def _list(self, query):
        """A page of batches, the newest first, behind the one that `after` names; at most 100."""
        known = list(self.batches.values())[::-1]
        first = [batch["id"] for batch in known].index(query["after"]) + 1 if "after" in query else 0
        last = first + min(100, int(query.get("limit", 20)))
        page = known[first:last]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return {"object": "list", "data": page, "has_more": last < len(known), **ends}

    def _store(self, body, content_type):
        message = email.message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
        fields = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}
        assert fields["purpose"].get_payload().strip() == "batch"
        return self._add(fields["file"].get_payload(decode=True))

    def _add(self, content):
        name = f"file-{len(self.files)}"
        self.files[name] = content
        about = {"object": "file", "bytes": len(content), "created_at": 1, "filename": "x.jsonl", "purpose": "batch"}
        return {"id": name, "status": "processed"} | about

    def _create(self, wanted):
        lines = [json.loads(line) for line in self.files[wanted["input_file_id"]].splitlines()]
        self.asked += lines
        batch = {"id": f"batch-{len(self.batches)}", "object": "batch", "created_at": 1, "status": "validating"}
        self.batches[batch["id"]] = batch | wanted | {"looks": 0}
        return self.batches[batch["id"]]

    def _look(self, batch):
        self.looks += 1
        batch["looks"] += 1
        batch["status"] = "in_progress" if batch["looks"] < self._polls else self._end
        if batch["looks"] == self._polls and self._end == "failed":
            batch["errors"] = {"object": "list", "data": self._errors}
        elif batch["looks"] == self._polls:
            lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
            made = [self._answer(line) for line in lines]
            good = self._spoil([entry for entry in made if entry and entry["response"]])
            bad = [entry for entry in made if entry and not entry["response"]]
            batch["output_file_id"] = self._add(_jsonl(good))["id"] if good else None
            batch["error_file_id"] = self._add(_jsonl(bad))["id"] if bad else None
        return batch


def _jsonl(entries):
    return b"".join(e if isinstance(e, bytes) else json.dumps(e).encode() + b"\n" for e in entries)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self._serve("POST", self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self):
        self._serve("GET", b"")

    def _serve(self, method, body):
        key, kind = self.headers.get("Authorization"), self.headers.get("Content-Type", "")
        found = self.server.fake.handle(method, self.path, body, kind, key)
        if found == "drop":
            self.close_connection = True
            return
        status, value = found
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(value, bytes) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving_batches(answer, **options):
    """Run a server whose `answer(line)` gives an output entry, an error entry (`response` None), or None."""
    server = BatchServer(answer, **options)
    try:
        yield server
    finally:
        server.stop()
