"""Bad input becomes one clear line and exit status 2, for every command of the project."""

import argparse
import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(ValueError):
    """Something the user gave is wrong; the message names the file, row or key, and the mend."""


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser whose complaints are InputErrors: one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would have printed."""
        raise InputError(f"{message} ({self.prog} --help says more)")


def exits_cleanly(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command's `main`: an InputError is printed as one line on stderr and the process exits with 2."""

    @functools.wraps(main)
    def wrapped(*args: object) -> None:
        try:
            main(*args)
        except InputError as error:
            sys.exit(_report(error))
        except BrokenPipeError:
            # `... | head` closed our output: nothing is wrong, and Python must not complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            where = f"{error.filename}: " if error.filename else ""
            sys.exit(_report(InputError(f"{where}{error.strerror}: make room and run the same command to continue")))
        except KeyboardInterrupt:
            print("interrupted; what was finished is kept, run the same command to continue", file=sys.stderr)
            sys.exit(130)

    return wrapped


def _report(error: InputError) -> int:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    return 2
