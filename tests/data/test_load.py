"""Sources and their downloads, against a real server on this machine."""

import hashlib
import http.server
import json
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import constants

from nbutils import ROOT, data
from nbutils.core.errors import InputError
from nbutils.data import __main__, catalogue, load

CONTENT = "".join(f'{{"instruction": "Go on.", "output": "line {i}"}}\n' for i in range(20_000)).encode()
HALF = len(CONTENT) // 2
CHUNK = 1 << 14
READ = data.sources.__wrapped__  # without its cache


# --- the list ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", data.sources().values(), ids=lambda entry: entry.name)
def test_a_source_is_complete(entry):
    assert entry.rows > 0 and entry.licence and entry.title
    if entry.path:
        assert (ROOT / entry.path).is_file()
        return
    if entry.kind == "wheel":
        assert list(entry.downloads().values()) == [f"{entry.package}=={entry.version}"]
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in (entry.sha256, entry.file_sha256))
        return
    assert re.fullmatch("[0-9a-f]{40}", entry.revision), "a pinned commit, not a branch"
    assert entry.url.startswith("https://") and "{revision}" in entry.url
    assert ("{member}" in entry.url) == bool(entry.members)
    assert all(entry.revision in url and "{" not in url for url in entry.downloads().values())
    assert entry.sha256 == "unverified" or re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert entry.git_blob is None or re.fullmatch("[0-9a-f]{40}", entry.git_blob)
    assert (entry.mirror is None) == (entry.mirror_sha256 is None)
    assert len(set(entry.members)) == len(entry.members)


def test_everything_that_the_project_reads_has_a_source():
    wanted = {
        "rows": ["alpaca-52k", "alpaca-1k-score", "lima-1k", "alpaca-1k-longest-refined", "evol-70k", "evol-1k-score"],
        "prompts": ["koala", "lima", "sinstruct", "vicuna", "wizardlm", "alpaca-eval", "mt-bench"],
        "table": ["alpaca-eval-preferences", "mt-bench-answers", "cherry-reviews"],
        "tokenizer": ["llama2-tokenizer"],
        "nltk": ["punkt"],
        "wheel": ["smollm2-135m-instruct"],
    }
    wanted["rows"] += ["evol-1k-longest-published", "openhermes-2.5", "sample"]
    for kind, names in wanted.items():
        assert set(names) <= set(data.sources_of(kind))


def test_an_unknown_key_is_refused_by_name(tmp_path):
    (tmp_path / "s.toml").write_text('[x]\ntitle="t"\nkind="rows"\nform="alpaca"\nlicence="l"\nrows=1\nshasum="0"\n')
    with pytest.raises(InputError, match=r"s\.toml: .*shasum"):
        data.sources(tmp_path / "s.toml")


def test_unknown_names_and_wrong_kinds(no_data):
    with pytest.raises(InputError, match="unknown source 'alpacca': choose one of alpaca-52k, "):
        data.source("alpacca")
    with pytest.raises(InputError, match="source 'koala' holds prompts, not rows: choose one of alpaca-52k"):
        data.load_rows("koala")
    with pytest.raises(InputError, match="'sample' is part of the repository: there is nothing to fetch"):
        data.fetch("sample")


def test_offline_without_data(no_data):
    assert data.locate("alpaca-52k") is None
    assert not data.can_obtain("alpaca-52k")
    with pytest.raises(InputError, match=r"not at hand: run `python -m nbutils.data fetch alpaca-52k` with a network"):
        data.load_rows("alpaca-52k")


def test_the_list_as_it_is_printed(no_data, capsys):
    __main__.main([])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(data.sources()) < set(lines)
    assert re.search(r"rows +52,002 +22\.8 MB +known +no +CC BY-NC 4\.0", lines["alpaca-52k"])
    assert re.search(r"1,030 +3\.0 MB +unverified +gated +CC BY-NC-SA", lines["lima-hub"])
    assert "in the repository" in lines["sample"]


def test_a_wrong_mirror_file_is_refused_by_name(tmp_path, monkeypatch, no_data, capsys):
    monkeypatch.setenv("LIM_DATA_MIRROR", str(tmp_path))
    path = tmp_path / data.source("koala").mirror
    path.parent.mkdir(parents=True)
    path.write_text('{"id": "koala_0", "prompt": "planted"}\n')
    with pytest.raises(InputError, match=f"{path}: not the bytes of source 'koala'"):
        data.load_prompts("koala")
    __main__.main(["list"])
    assert f"refused: {path}" in capsys.readouterr().out


def test_rows_are_read_once_while_their_file_stays_as_it_is(tmp_path, monkeypatch):
    path, read = tmp_path / "rows.jsonl", []
    entry = catalogue.Source(name="x", title="x", kind="rows", form="alpaca", licence="CC0", rows=1, path=str(path))
    monkeypatch.setattr(catalogue, "sources", lambda: {"x": entry})
    reading = load.read_records
    monkeypatch.setattr(load, "read_records", lambda path: read.append(path) or reading(path))
    for response, times in (("one", 1), ("three", 2)):
        path.write_text(json.dumps({"instruction": "Go on.", "output": response}) + "\n")
        for _ in range(2):
            rows = data.load_rows("x")
            assert [row.response for row in rows] == [response]
            rows.clear()
        assert read == [path] * times
    monkeypatch.setattr(load, "MOST_REMEMBERED", 0)
    assert len(data.load_rows("x")) == 1 and len(read) == 3, "a large source is not kept"


def test_the_mirror_is_verified(mirror):
    at_hand = [entry.name for entry in data.sources().values() if entry.mirror and data.is_at_hand(entry.name)]
    assert len(at_hand) >= 20
    assert data.load_rows("alpaca-52k")[52_001].id == 52_001


def test_git_blob_id(tmp_path):
    (tmp_path / "file").write_bytes(b"hello\n")  # echo hello | git hash-object --stdin
    assert catalogue.git_blob_id(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"


# --- a server ------------------------------------------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request by the next of the server's steps; the last one stays."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(200, {}, b"")

    def do_GET(self):
        steps = self.server.steps
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and step != "whole" else 0
        if isinstance(step, int):
            return self._answer(step, self.server.headers, b"no")
        content = step if isinstance(step, bytes) else CONTENT
        if start >= len(content):
            return self._answer(416, {}, b"")
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        rest = content[start:]
        self.server.sent.append(len(rest))
        self._answer(206 if start else 200, headers, rest, len(rest) // 2 if step in ("cut", "hang") else None)
        if step == "hang":
            time.sleep(30)

    def _answer(self, status, headers, body, stop=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:stop])
        self.wfile.flush()
        self.close_connection = stop is not None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server, and the source `thing` that names a file on it."""
    monkeypatch.setenv("LIM_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIM_DATA_MIRROR", raising=False)
    monkeypatch.delenv("LIM_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    made.daemon_threads = True
    made.steps, made.asked, made.sent, made.headers = [CONTENT], [], [], {}
    made.toml, made.file = tmp_path / "sources.toml", tmp_path / "cache" / "thing" / "thing.jsonl"
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    made.source = lambda **keys: _use(made, monkeypatch, keys)
    made.source(sha256=hashlib.sha256(CONTENT).hexdigest())
    yield made
    made.shutdown()
    made.server_close()


def _use(server, monkeypatch, keys):
    url = f"http://127.0.0.1:{server.server_port}/{{revision}}/thing.jsonl"
    table = {"title": "t", "kind": "rows", "form": "alpaca", "licence": "CC0", "rows": 20_000, "url": url, **keys}
    lines = [f"{key} = {value!r}" if isinstance(value, int) else f'{key} = "{value}"' for key, value in table.items()]
    server.toml.write_text("\n".join(["[thing]", *lines, 'revision = "abc"']))
    known = READ(server.toml)
    monkeypatch.setattr(catalogue, "sources", lambda: known)


def _files(server):
    folder = server.file.parent
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock") if folder.is_dir() else []


def _refused(server, message):
    with pytest.raises(InputError, match=message) as refused:
        data.fetch("thing")
    assert "\n" not in str(refused.value)
    assert not server.file.exists()
    assert data.locate("thing") is None
    return str(refused.value)


# --- downloads -----------------------------------------------------------------------------------------------------


def test_right_bytes_are_kept(server, capsys):
    assert data.fetch("thing") == [server.file]
    assert server.file.read_bytes() == CONTENT
    assert _files(server) == ["downloaded.json", "thing.jsonl"]
    assert "fetching http://127.0.0.1" in capsys.readouterr().out
    assert data.load_rows("thing")[19_999].response == "line 19999"
    data.fetch("thing")
    assert len(server.asked) == 1, "what is there is not fetched again"


def test_the_command(server, capsys):
    __main__.main(["fetch", "thing"])
    assert capsys.readouterr().out.splitlines()[-1] == f"thing: {server.file}"
    with pytest.raises(SystemExit) as left:
        __main__.main(["fetch", "nothing"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: unknown source 'nothing': choose one of thing\n"
    with pytest.raises(SystemExit) as left:
        __main__.main(["fetsh", "thing"])
    assert left.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("keys", "content", "message"),
    [
        ({"sha256": "0" * 64}, CONTENT, "its sha256 differs"),
        ({"sha256": hashlib.sha256(CONTENT).hexdigest()}, CONTENT[:-1] + b" ", "its sha256 differs"),
        ({"git_blob": "0" * 40}, CONTENT, "its git blob id differs"),
        ({}, b"<!DOCTYPE html><html>sign in</html>", "it is a web page"),
        ({}, b"\n <html>", "it is a web page"),
    ],
)
def test_wrong_bytes_are_refused_and_not_kept(server, keys, content, message):
    server.source(**keys)
    server.steps = [content]
    refused = _refused(server, message)
    assert str(server.file) in refused and "source 'thing'" in refused
    assert _files(server) == []


def test_a_wrong_size_is_refused(server):
    server.source(bytes=len(CONTENT) + 1)
    _refused(server, f"should be of size {len(CONTENT) + 1} but has size {len(CONTENT)}")
    server.source(bytes=len(CONTENT))
    data.fetch("thing")
    assert server.file.read_bytes() == CONTENT


def test_the_right_git_blob_is_accepted(server):
    server.source(git_blob=hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT, usedforsecurity=False).hexdigest())
    assert data.fetch("thing")[0].read_bytes() == CONTENT


def test_a_broken_transfer_is_continued_by_the_next_call(server):
    server.steps = ["cut", 503, CONTENT]
    _refused(server, "the server answered 503: run the same command later to continue")
    assert _files(server) == ["thing.jsonl.part"]
    kept = server.file.with_name("thing.jsonl.part").stat().st_size
    assert HALF - CHUNK <= kept <= HALF
    data.fetch("thing")
    assert server.asked == [None, f"bytes={kept}-", f"bytes={kept}-"]
    assert server.sent == [len(CONTENT), len(CONTENT) - kept], "only the rest came"
    assert server.file.read_bytes() == CONTENT
    assert _files(server) == ["downloaded.json", "thing.jsonl"]


@pytest.mark.parametrize("known", [True, False])
def test_a_server_that_ignores_ranges(server, known):
    server.source(**({"sha256": hashlib.sha256(CONTENT).hexdigest()} if known else {}))
    server.file.parent.mkdir(parents=True)
    server.file.with_name("thing.jsonl.part").write_bytes(CONTENT[:1000])
    server.steps = ["whole"]
    assert data.fetch("thing")[0].read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"])
@pytest.mark.parametrize("size", [{}, {"bytes": len(CONTENT)}])
def test_a_part_that_is_whole_or_too_long(server, left, size):
    """Killed between the last byte and the renaming, or left over from another file."""
    server.source(sha256=hashlib.sha256(CONTENT).hexdigest(), **size)
    server.file.parent.mkdir(parents=True)
    server.file.with_name("thing.jsonl.part").write_bytes(left)
    assert data.fetch("thing")[0].read_bytes() == CONTENT
    assert _files(server) == ["downloaded.json", "thing.jsonl"]


def test_a_part_of_another_file_is_given_up(server):
    server.file.parent.mkdir(parents=True)
    server.file.with_name("thing.jsonl.part").write_bytes(b"x" * 1000)
    _refused(server, "its sha256 differs")
    assert _files(server) == []
    assert data.fetch("thing")[0].read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "the server answered 404: check the address in data/sources.toml"),
        (403, "the server answered 403: check the address"),
        (500, "the server answered 500: run the same command later"),
    ],
)
def test_a_server_that_refuses(server, status, message):
    server.steps = [status]
    assert "127.0.0.1" in _refused(server, message)
    assert _files(server) == []


@pytest.mark.parametrize(("status", "headers"), [(401, {}), (403, {}), (403, {"X-Error-Code": "GatedRepo"})])
def test_a_gated_source_says_how_to_get_access(server, status, headers):
    server.source(gated="accept the terms at https://example.org, then set HF_TOKEN")
    server.steps, server.headers = [status], headers
    assert _refused(server, "gated") == (
        "source 'thing' is gated: accept the terms at https://example.org, then set HF_TOKEN"
    )


def test_no_server(server, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    server.shutdown()
    server.server_close()
    assert not data.can_obtain("thing", seconds=1)
    _refused(server, "ConnectError.*run the same command to continue")
    assert _files(server) == []


def test_the_network_is_asked_only_when_it_may_be(server, monkeypatch):
    monkeypatch.setenv("LIM_OFFLINE", "1")
    assert not data.can_obtain("thing")
    with pytest.raises(InputError, match="source 'thing' is not at hand"):
        data.obtain("thing")
    assert server.asked == []
    monkeypatch.setenv("LIM_OFFLINE", "0")
    assert data.can_obtain("thing")
    assert data.obtain("thing") == [server.file]


# --- what is kept --------------------------------------------------------------------------------------------------


def test_the_first_download_of_an_unverified_source_is_the_record(server):
    server.source()
    data.fetch("thing")
    assert data.locate("thing") == [server.file]
    server.file.write_bytes(CONTENT.replace(b"line 7", b"line 8", 1))
    with pytest.raises(InputError, match=rf"{server.file}: refused.*its sha256 differs.*nbutils.data fetch thing"):
        data.load_rows("thing")


def test_a_download_that_differs_from_the_record_is_refused(server):
    server.source()
    data.fetch("thing")
    server.file.unlink()
    server.steps = [CONTENT.replace(b"line 7", b"line 8", 1)]
    with pytest.raises(InputError, match="its sha256 differs"):
        data.fetch("thing")
    assert _files(server) == ["downloaded.json"]


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-5], lambda content: b"X" + content[1:], lambda content: b""]
)
def test_a_damaged_file_is_refused_by_name_and_mended_by_fetching(server, damage):
    data.fetch("thing")
    server.file.write_bytes(damage(CONTENT))
    with pytest.raises(InputError, match=rf"{server.file}: refused, not the file that source 'thing' names"):
        data.locate("thing")
    with pytest.raises(InputError, match=r"run `python -m nbutils.data fetch thing`"):
        data.load_rows("thing")
    data.fetch("thing")
    assert data.load_rows("thing")[0].response == "line 0"


def test_punkt_is_unpacked_and_mended(server, tmp_path, monkeypatch):
    packed = tmp_path / "punkt.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("punkt_tab/english/abbrev_types.txt", "dr\nmr\n")
        archive.writestr("punkt_tab/german/abbrev_types.txt", "usw\n")
    server.source(kind="nltk", form="punkt")
    server.steps = [packed.read_bytes()]
    (folder,) = data.fetch("thing")
    assert [path.name for path in folder.iterdir()] == ["abbrev_types.txt"]
    (folder / "abbrev_types.txt").write_text("planted")
    assert (data.locate("thing")[0] / "abbrev_types.txt").read_text() == "dr\nmr\n"


FETCH = """
import sys
from pathlib import Path
from huggingface_hub import constants
from nbutils.data import catalogue
constants.DOWNLOAD_CHUNK_SIZE = int(sys.argv[2])
known = catalogue.sources(Path(sys.argv[1]))
catalogue.sources = lambda: known
catalogue.fetch("thing")
"""


def test_a_killed_download_leaves_nothing_that_counts(server):
    server.steps = ["hang", CONTENT]
    part = server.file.with_name("thing.jsonl.part")
    process = subprocess.Popen([sys.executable, "-c", FETCH, str(server.toml), str(CHUNK)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size >= HALF - CHUNK) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT)
    assert not server.file.exists() and data.locate("thing") is None
    assert data.fetch("thing")[0].read_bytes() == CONTENT
    assert server.sent[-1] == len(CONTENT) - kept


def test_two_processes_fetch_once(server):
    commands = [[sys.executable, "-c", FETCH, str(server.toml), str(CHUNK)]] * 2
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert server.file.read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert Path(server.file.parent / "downloaded.json").is_file()


@pytest.mark.parametrize("key", ["instruction", "input", "output"])
def test_half_a_character_in_ones_own_file_is_named_before_anything_is_computed(tmp_path, key):
    rows = [{"instruction": f"say {n}", "input": "", "output": f"word {n}"} for n in range(5)]
    rows[3][key] = "half \ud83d of it"
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(InputError, match=r"own\.jsonl: row 3: it holds a lone surrogate, .* or take the row out$"):
        data.load_pool(str(path))
    if key != "output":
        with pytest.raises(InputError, match=r"own\.jsonl: row 3: it holds a lone surrogate"):
            data.load_prompts(str(path))
