"""Bytes of files, packed (gzip, bzip2, xz, zstandard, zip) or not: opened, written atomically, and told apart.

A file is unpacked by its ending. What a file begins with says what it is, so that one under another ending is refused
by its name and not read as something else.
"""

import bz2
import contextlib
import gzip
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbutils.core.disk import atomic_path
from nbutils.core.errors import InputError

PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
BEGINNING = 65536
"""Bytes that are looked at to tell what a file is."""

_PACKINGS = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz", b"\x28\xb5\x2f\xfd": ".zst", b"PK\3\4": ".zip"}
_BINARIES = {
    b"PAR1": "Parquet",
    b"ARROW1": "an Arrow or Feather file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"FEA1": "a Feather file of version 1",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "HDF5",
    b"ORC": "ORC",
    b"Obj\1": "Avro",
    b"GGUF": "model weights",
    b"\xd0\xcf\x11\xe0": "an Office document",
    b"\xff\xfe": "not UTF-8 but UTF-16 or UTF-32 text",
    b"\xfe\xff": "not UTF-8 but UTF-16 text",
    b"\0\0\xfe\xff": "not UTF-8 but UTF-32 text",
    **{bytes([0x80, protocol]): "a Python pickle, which is never opened" for protocol in range(2, 6)},
}


def form_suffix(path: Path) -> str:
    """The suffix that tells a file's form, whether it is packed or not."""
    return Path(path.stem).suffix if path.suffix in PACKED_SUFFIXES else path.suffix


def suffix_of(path: Path) -> str:
    """The ending that a file without a name of its own should have: of its packing, of Arrow or of CSV; else none."""
    with open(path, "rb") as file:
        start = file.read(BEGINNING)
    if packing := next((suffix for magic, suffix in _PACKINGS.items() if start.startswith(magic)), ""):
        inner = path.rename(path.with_name(path.name + packing))
        try:
            return _text_suffix(beginning(inner)) + packing
        finally:
            inner.rename(path)
    return ".arrow" if is_arrow(start) else _text_suffix(start)


def is_arrow(start: bytes) -> bool:
    """Whether a file begins as one of Arrow's own format does, a file (Feather, too) or a stream."""
    return start.startswith((b"ARROW1", b"\xff\xff\xff\xff"))


def _text_suffix(start: bytes) -> str:
    head = start.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0]
    is_table = not head.startswith((b"{", b"[", b"PAR1")) and b"\0" not in head
    return (".tsv" if b"\t" in head else ".csv" if b"," in head or b";" in head else "") if is_table else ""


def open_packed(path: Path) -> Any:
    """A binary file for reading, unpacked by its name's ending. Raises InputError where it cannot be opened."""
    with _unpacking(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: not a regular file: pipe its content in, and give - as the name")
        match path.suffix:
            case ".gz":
                return gzip.open(path, "rb")
            case ".bz2":
                return bz2.open(path, "rb")
            case ".xz":
                return lzma.open(path, "rb")
            case ".zst":
                return _open_zst(path)
            case ".zip":
                return _open_zip(path)
        return open(path, "rb")


def _open_zst(path: Path) -> Any:
    import io

    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd"), BEGINNING)


def _open_zip(path: Path) -> Any:
    packed = zipfile.ZipFile(path)
    members = [name for name in packed.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if len(members) != 1:
        packed.close()
        shown = ", ".join(members[:8])
        raise InputError(f"{path}: holds {len(members)} files ({shown}), not one: unpack it, and give them by name")
    return packed.open(members[0])


@contextlib.contextmanager
def _unpacking(path: Path) -> Iterator[None]:
    """What reading may raise, as one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read: give yourself the right to (chmod u+r)") from None
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        said = "cannot be unpacked" if path.suffix in PACKED_SUFFIXES else "cannot be read"
        raise InputError(f"{path}: {said} to its end ({why}): fetch or copy it again") from None


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, each with its line end, unpacked; a byte-order mark is left out."""
    with open_packed(path) as file, _unpacking(path):
        for number, line in enumerate(file):
            yield line if number else line.removeprefix(b"\xef\xbb\xbf")


def read_blocks(path: Path, size: int) -> Iterator[bytes]:
    """A file's bytes in blocks of whole lines of about `size` bytes, unpacked; a byte-order mark is left out."""
    rest, is_first = b"", True
    with open_packed(path) as file, _unpacking(path):
        while block := file.read(size):
            block = rest + (block.removeprefix(b"\xef\xbb\xbf") if is_first else block)
            cut, is_first = block.rfind(b"\n") + 1, False
            if cut:
                yield block[:cut]
            rest = block[cut:]
    if rest:
        yield rest


def read_text(path: Path, size: int) -> Iterator[str]:
    """A file's text in pieces of about `size` bytes, unpacked. Raises InputError naming the byte that is not UTF-8."""
    import codecs

    decoder, done = codecs.getincrementaldecoder("utf-8-sig")(), 0
    with open_packed(path) as file, _unpacking(path):
        while True:
            block = file.read(size)
            held = len(decoder.getstate()[0])
            try:
                yield decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                where = f"not UTF-8 (byte {done - held + error.start})"
                raise InputError(f"{path}: {where}: convert the file to UTF-8") from None
            if not block:
                return
            done += len(block)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked."""
    with open_packed(path) as file, _unpacking(path):
        return bytes(file.read())


def beginning(path: Path, size: int = BEGINNING) -> bytes:
    """The first bytes of a file, unpacked. Raises InputError where it cannot be read."""
    with open_packed(path) as file, _unpacking(path):
        return bytes(file.read(size))


def refuse_binary(path: Path, start: bytes) -> None:
    """Raise InputError for a file whose beginning is no UTF-8 text; start: `beginning(path)`."""
    convert = "convert it to JSON lines, CSV or Parquet"
    for magic, suffix in _PACKINGS.items():
        if start.startswith(magic):
            what, mend = f"packed by {suffix[1:]}", f"let its name end in {suffix}"
            if path.suffix in PACKED_SUFFIXES:
                what, mend = f"{what} once more", "unpack it first"
            elif suffix == ".zip":
                what, mend = "a zip archive (a workbook, model weights and others are such, too)", convert
            raise InputError(f"{path}: {what}, which its name does not say: {mend}")
    if known := next((what for magic, what in _BINARIES.items() if start.startswith(magic)), None):
        is_text = "text" in known
        raise InputError(f"{path}: {known}: {'convert the file to UTF-8' if is_text else convert}")
    if b"\0" in start[:1024]:
        raise InputError(f"{path}: not text in UTF-8 but binary, UTF-16 or UTF-32: convert it to UTF-8, or unpack it")


@contextlib.contextmanager
def atomic_binary(path: Path) -> Iterator[Any]:
    """An atomic binary file, packed by its name's ending and without time stamps: equal content gives equal bytes."""
    with atomic_path(path) as temporary, open(temporary, "wb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                yield packed
        elif path.suffix in (".bz2", ".xz"):
            with bz2.open(raw, "wb") if path.suffix == ".bz2" else lzma.open(raw, "wb") as packed:
                yield packed
        elif path.suffix == ".zst":
            import pyarrow as pa

            with pa.CompressedOutputStream(pa.PythonFile(raw, "w"), "zstd") as packed:
                yield packed
        elif path.suffix == ".zip":
            member = zipfile.ZipInfo(path.stem)
            member.compress_type = zipfile.ZIP_DEFLATED
            with zipfile.ZipFile(raw, "w") as archive, archive.open(member, "w", force_zip64=True) as packed:
                yield packed
        else:
            yield raw
