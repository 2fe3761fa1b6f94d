"""The way to a chat endpoint: one POST at a time on a connection, and connections that are used again where it is safe.

A connection is used again only while the endpoint gives every answer an id of its own. On such a connection an answer
whose id was seen before is a copy of an earlier one, and not taken for the answer to the next question. After any
error, time-out or cancelled call, and where bytes are left unread, the connection is closed.
"""

import asyncio
import json
import re
import ssl
import urllib.request
from typing import Any
from urllib.parse import urljoin, urlsplit

from pydantic import SecretStr

from nbutils.core.judge_settings import JudgeModel, is_loopback
from nbutils.llm.protocol import LostAnswerError, UnreachableError, read_refusal

PROVED = 2  # answers with ids of their own before a connection is used again
LONGEST_HEADER = 65_536  # bytes of one line of an answer's head: some proxies send policies of 10 kB and more
_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{1,200})"')


class CopyError(LostAnswerError):
    """An answer came that had come before: what was asked has not been answered."""


class Transport:
    """Connections to one endpoint, for one event loop. Close it at the end."""

    def __init__(self, judge: JudgeModel, key: SecretStr) -> None:
        import aiohttp

        base = (judge.base_url or "https://api.openai.com/v1").rstrip("/")
        self._url, self._timeout = f"{base}/chat/completions", judge.timeout
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._key = key
        self._ids, self._reuses = set[bytes](), True
        tls: Any = _tls_context() if base.startswith("https") else True

        def open_session(**reuse: Any) -> aiohttp.ClientSession:
            connector = aiohttp.TCPConnector(limit=0, ssl=tls, ttl_dns_cache=300, **reuse)
            never = aiohttp.ClientTimeout(total=None)
            head: Any = {"max_line_size": LONGEST_HEADER, "max_field_size": LONGEST_HEADER}
            return aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=never, **head
            )

        self._kept, self._single = open_session(keepalive_timeout=15), open_session(force_close=True)
        self._proxy = None if is_loopback(base) else _proxy_for(base)

    async def close(self) -> None:
        """Close all connections."""
        await self._kept.close()
        await self._single.close()

    async def post(self, body: dict[str, Any]) -> tuple[bytes, str]:
        """The answer's bytes and content type. Raises BadAnswerError for a status that is no success."""
        import aiohttp

        content = json.dumps(body).encode()
        is_reusing = self._reuses and len(self._ids) >= PROVED
        session = self._kept if is_reusing else self._single
        try:
            # A time-out of our own, over everything: an answer may come in drips.
            async with asyncio.timeout(self._timeout):
                answer, kind = await self._exchange(session, self._url, content)
        except TimeoutError:
            raise LostAnswerError(f"no complete answer within {self._timeout:g} seconds") from None
        except aiohttp.ClientConnectorError as error:
            raise UnreachableError(f"no connection: {error}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise LostAnswerError(f"the connection broke: {type(error).__name__} {error}".strip()) from None
        self._check_id(answer, is_reusing)
        return answer, kind

    async def _exchange(self, session: Any, url: str, content: bytes, moved: bool = False) -> tuple[bytes, str]:
        headers = self._headers | {"Authorization": f"Bearer {self._key.get_secret_value()}"}
        options = {"headers": headers, "proxy": self._proxy, "allow_redirects": False}
        async with session.post(url, data=content, **options) as response:
            answer, kind = await response.read(), response.headers.get("content-type", "")
            if 200 <= response.status < 300:
                return answer, kind
            response.close()  # whatever else comes on this connection answers nobody
            there = urljoin(url, response.headers.get("location", ""))
            if moved or response.status not in (307, 308) or not _is_same_host(url, there):
                raise read_refusal(answer, response.status, kind, response.headers)
        return await self._exchange(session, there, content, moved=True)

    def _check_id(self, answer: bytes, is_reusing: bool) -> None:
        """Stop using connections again where an answer's id is missing or was seen before; there, it is a copy."""
        found = _ID.search(answer)
        if found is not None and found[1] not in self._ids:
            self._ids.add(found[1])
            return
        self._reuses = False
        if is_reusing and found is not None:
            raise CopyError("an answer came twice on one connection, in place of the answer to this question")


def _is_same_host(url: str, other: str) -> bool:
    """Whether a key that is sent to the one may be sent to the other: the same host, and no step back from TLS."""
    here, there = urlsplit(url), urlsplit(other)
    return here.hostname == there.hostname and there.scheme in (here.scheme, "https")


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address, as other programs read it."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    known = urllib.request.getproxies()
    return known.get(parts.scheme) or known.get("all")


def _tls_context() -> ssl.SSLContext:
    """The system's certificates, and those that the Python world brings where the system has none."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
