"""A fake chat endpoint in a process of its own: every answer takes a fixed time and costs next to no CPU.

python benchmarks/fake_endpoint.py LATENCY    prints its base URL, then serves until it is killed

POST is answered with a completion after LATENCY seconds; GET at once with the number of POSTs so far.
"""

import asyncio
import json
import sys

_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "8 7\nBoth are fine."}, "finish_reason": "stop"}
_USAGE = {"prompt_tokens": 400, "completion_tokens": 100, "total_tokens": 500}
_COMPLETION = {
    "id": "chatcmpl-%d",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [_CHOICE],
    "usage": _USAGE,
}


def _http(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class Endpoint(asyncio.Protocol):
    """One connection, which holds one request after the other; every answer has an id of its own."""

    latency = 1.0
    asked = 0
    answer = json.dumps(_COMPLETION)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._received = transport, b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if not end or len(body) < int(fields.get(b"content-length", 0)):
            return
        self._received = b""
        if head.startswith(b"GET"):
            return self._send(_http(str(Endpoint.asked).encode()))
        Endpoint.asked += 1
        answer = _http((self.answer % Endpoint.asked).encode())
        asyncio.get_running_loop().call_later(self.latency, self._send, answer)

    def _send(self, answer: bytes) -> None:
        self._transport.write(answer)


async def serve(latency: float) -> None:
    Endpoint.latency = latency
    server = await asyncio.get_running_loop().create_server(Endpoint, "127.0.0.1", 0, backlog=512)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
