"""A real HTTP server that speaks the OpenAI chat API, for tests: it answers by a script and keeps what it was asked."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Answer(NamedTuple):
    """What the server sends; a `body` that is not bytes is sent as JSON, and None closes the connection unanswered.

    drip: seconds between one byte and the next. copies: how often the whole answer is written, `pause` seconds apart.
    """

    body: object
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    kind: str = "application/json"
    drip: float = 0.0
    copies: int = 1
    pause: float = 0.0


def completion(text, **changed):
    """A chat completion that says `text`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "choices": [choice],
        "usage": usage,
    } | changed


def refusal(status, message, code=None, **options):
    """An error in the form of the OpenAI API."""
    return Answer({"error": {"message": message, "type": "error", "param": None, "code": code}}, status, **options)


class ChatServer:
    """`asked` holds the bodies in the order of their arrival, `keys` the Authorization headers, `ports`
    the clients' ends of connections, `finished` counts."""

    def __init__(self, script):
        self.asked, self.keys, self.finished, self.ports = [], [], 0, set()
        self._lock, self._script = threading.Lock(), script
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.chat = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def questions(self):
        """Text of the last message of every request."""
        return [body["messages"][-1]["content"] for body in self.asked]

    def answer(self, body, key):
        with self._lock:
            self.asked.append(body)
            self.keys.append(key)
            number = len(self.asked) - 1
        answer = self._script(number, body["messages"][-1]["content"])
        return answer if isinstance(answer, Answer) else Answer(completion(answer, model=body["model"]))

    def done(self):
        with self._lock:
            self.finished += 1

    def stop(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that was killed closes its connections: that is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.chat.ports.add(self.client_address[1])
        answer = self.server.chat.answer(body, self.headers.get("Authorization"))
        if answer.body is None:
            self.close_connection = True
            return
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        for copy in range(answer.copies):
            time.sleep(answer.pause if copy else 0)
            self._send(answer, content)
        self.server.chat.done()

    def _send(self, answer, content):
        self.send_response(answer.status)
        for name, value in (("Content-Type", answer.kind), ("Content-Length", str(len(content))), *answer.headers):
            self.send_header(name, value)
        self.end_headers()
        if not answer.drip:
            self.wfile.write(content)
            return
        for byte in content:
            self.wfile.write(bytes([byte]))
            time.sleep(answer.drip)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(script):
    """Run a server whose `script(number, question)` gives an answer's text, or an Answer."""
    server = ChatServer(script)
    try:
        yield server
    finally:
        server.stop()
