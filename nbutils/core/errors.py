"""Bad input becomes one clear line and exit status 2, Ctrl-C one line and 130, for every command of the project."""

import argparse
import contextlib
import errno
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn


class InputError(ValueError):
    """Something the user gave is wrong; the message names the file, row or key, and the mend."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it, by IPython's rule: one line as everywhere, without a traceback."""
        return [f"{type(self).__name__}: {self}"]


class WrongBytesError(InputError):
    """A file that is not the one that it should be: nothing stands in for it silently."""


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser whose complaints are InputErrors: one line, without the usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it, but no argument may be empty: as a path it would mean the working directory."""
        given = sys.argv[1:] if args is None else list(args)
        if "" in given:
            self.error("an argument is empty: is a shell variable unset?")
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would have printed."""
        raise InputError(f"{message} ({self.prog} --help says more)")


def exits_cleanly(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command's `main`: an InputError is printed as one line on stderr and the process exits with 2.

    Ctrl-C is one line as well, and the status is 130.
    """

    @functools.wraps(main)
    def wrapped(*args: object) -> None:
        try:
            main(*args)
        except BrokenPipeError:
            # `... | head` closed our output: nothing is wrong, and Python must not complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (InputError, OSError) as error:
            said = _explain(error) if isinstance(error, OSError) else str(error)
            print("error: " + " ".join(said.split()), file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            _end_interrupted()

    return wrapped


def catch_interrupts() -> None:
    """Let Ctrl-C be one line from here on, before a command's `main` as well: its imports take seconds."""
    sys.excepthook = _show


def _show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(INTERRUPTED, file=sys.stderr, flush=True)
        os._exit(130)  # of an interrupt that reaches this place, Python itself makes a death by the signal
    sys.__excepthook__(kind, error, trace)


INTERRUPTED = "interrupted; what was finished is kept, run the same command to continue"


def _end_interrupted() -> NoReturn:
    is_command = sys.excepthook is _show
    if is_command:  # whoever presses again does not wait for what is being closed
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    print(INTERRUPTED, file=sys.stderr, flush=True)
    waiting = any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())
    if is_command and waiting:  # Python would wait for threads that wait for a server
        os._exit(130)
    sys.exit(130)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _explain(error: OSError) -> str:
    """What the machine refused; raises the error anew where it names no file and the disk is not full."""
    where = error.filename2 or error.filename
    place = f"{where}: " if where else ""
    if error.errno in _FULL:
        return f"{place}{error.strerror}: make room and run the same command to continue"
    if not where:
        raise error
    return f"{place}{error.strerror}: choose another place, or mend this one"


# What torch and safetensors say where the system has refused: their errors carry no number.
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
_NO_ROOM = (
    "PytorchStreamWriter failed",
    "file write failed",
    "No space left",
    "os error 28",
    "File too large",
    "quota",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library says that it got no memory, of a GPU or of the machine."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY)


def is_out_of_room(error: BaseException) -> bool:
    """Whether a library says that a file could not be written for want of room on its disk."""
    is_told = isinstance(error, OSError) and error.errno in _FULL
    return is_told or any(sign in str(error) for sign in _NO_ROOM)


@contextlib.contextmanager
def writing_into(folder: Path, variable: str) -> Iterator[None]:
    """Make a folder, and raise InputError, naming it and the variable that chooses it, for what the system refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except InputError:
        raise
    except Exception as error:
        other = f"name another folder by {variable}"
        if is_out_of_room(error):
            raise InputError(f"{folder}: no room on its disk: make room, or {other}, and run it again") from None
        if not isinstance(error, OSError):
            raise
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}): mend it, or {other}") from None


def check_k(k: int, n: int, what: str) -> None:
    """Raise InputError unless 1 <= k <= n."""
    if k < 1:
        raise InputError(f"{what}: k = {k}: at least one row must be asked for")
    if k > n:
        raise InputError(f"{what}: k = {k} is more than the {n:,} rows there are: ask for fewer")
