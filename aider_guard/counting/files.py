"""Counts the tokens of files and texts for the guard's advice, in a process that is started when it is needed."""

from __future__ import annotations

import hashlib
import os
import queue
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Final, NoReturn

from aider_guard.core.actions import CountFiles, CountTexts
from aider_guard.core.codec import WireError
from aider_guard.core.events import FilesCounted, TextsCounted
from aider_guard.core.readings import Unavailable
from aider_guard.core.wire import decode, encode
from aider_guard.line_process import LineProcess, OnDemandProcess, serve_lines

IDLE_SECONDS: Final = 10.0
COUNT_SECONDS: Final = 30.0

Counted = FilesCounted | TextsCounted


class FileCounter:
    """Answers counting requests one after the other, by a process that it starts and ends. For one thread."""

    def __init__(self, tokenizers: str, count_seconds: float = COUNT_SECONDS) -> None:
        self._count_seconds = count_seconds
        self._process = OnDemandProcess(
            lambda: start_counter(tokenizers), "the counter", "counting"
        )

    def run(
        self,
        requests: queue.SimpleQueue[CountFiles | CountTexts],
        emit: Callable[[Counted], None],
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Serve requests for ever; end the counter after ``idle_seconds`` without one."""
        while True:
            request = None
            with suppress(queue.Empty):
                request = requests.get(timeout=idle_seconds if self._process.is_running else None)
            if request is None:
                self.close()
            else:
                emit(self.count(request))

    def count(self, request: CountFiles | CountTexts) -> Counted:
        """Return the answer to one request; Unavailable when the counter takes too long, dies or cannot start."""
        line = self._process.ask(encode(request), self._count_seconds)
        if isinstance(line, Unavailable):
            return uncounted(request, line)
        try:
            event = decode(line)
        except WireError as error:
            return uncounted(request, Unavailable(str(error)))
        assert isinstance(event, FilesCounted | TextsCounted)
        return event

    def close(self) -> None:
        """End the counter."""
        self._process.close()


def start_counter(tokenizers: str) -> LineProcess:
    """Start the counter's process."""
    environment = {**os.environ, "TIKTOKEN_CACHE_DIR": tokenizers}
    return LineProcess("aider_guard.counting.files", tokenizers, environment=environment)


def uncounted(request: CountFiles | CountTexts, why: Unavailable) -> Counted:
    """Return the answer to a request that could not be served."""
    if isinstance(request, CountFiles):
        return FilesCounted(dict.fromkeys(request.paths, why))
    return TextsCounted(request.request, why)


# The counter's process: estimates tokens with cl100k_base, offline.
#
# Aider's own litellm counts with cl100k_base for every Ollama model and carries the encoding's file.
# It takes about 60 MB, so it is loaded in a process of its own, which ``FileCounter`` starts and ends.
# Local models need 1.1 to 2 times more tokens than this, so the number is called an estimate.

# The name under which tiktoken caches cl100k_base: the SHA-1 of the address it would be downloaded
# from.
ENCODING_FILE: Final = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
# tiktoken deletes a cached file with another hash than this (tiktoken_ext/openai_public.py) and
# downloads it again. It must neither harm Aider's installation nor leave the machine, so the file
# is checked before.
ENCODING_SHA256: Final = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
MAX_FILE_BYTES: Final = 5 * 1000 * 1000

Count = int | Unavailable


def encoding_problem(tokenizers: str) -> Unavailable | None:
    """Return why tokens cannot be counted with the files in this folder; None when they can."""
    if not tokenizers:
        return Unavailable("Aider's token encodings were not found")
    try:
        content = (Path(tokenizers) / ENCODING_FILE).read_bytes()
    except OSError as error:
        return Unavailable(f"Aider's token encodings cannot be read ({error.strerror})")
    if hashlib.sha256(content).hexdigest() != ENCODING_SHA256:
        return Unavailable("Aider's token encoding is damaged")
    return None


@cache
def load_counter(tokenizers: str) -> Callable[[str], int] | Unavailable:
    """Return a function that counts the tokens of a text, or why there is none. It is loaded once."""
    problem = encoding_problem(tokenizers)
    if problem is not None:
        return problem
    os.environ["TIKTOKEN_CACHE_DIR"] = tokenizers
    import tiktoken

    encoding = tiktoken.get_encoding("cl100k_base")
    return lambda text: len(encoding.encode_ordinary(text))


def count_text(counter: Callable[[str], int], text: str) -> Count:
    """Count the tokens of a text. Text that the encoding's pattern cannot take is Unavailable."""
    try:
        return counter(text.encode("utf-8", "replace").decode("utf-8"))
    except (ValueError, RuntimeError) as error:
        return Unavailable(f"the text cannot be counted ({type(error).__name__})")


def count_file(counter: Callable[[str], int], path: str) -> Count:
    """Count the tokens of a file as it is now. Bytes that are no UTF-8 count as U+FFFD."""
    content = read_regular_file(path)
    if isinstance(content, Unavailable):
        return content
    return count_text(counter, content.decode("utf-8", "replace"))


def read_regular_file(path: str) -> bytes | Unavailable:
    """Return a file's content. Pipes and devices are not read: they may have no end, or block."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:  # a descriptor, not a path
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return Unavailable("not a file")
            if status.st_size > MAX_FILE_BYTES:
                return Unavailable(f"larger than {MAX_FILE_BYTES // 1_000_000} MB")
            return file.read(MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        return Unavailable(getattr(error, "strerror", None) or "not a path")


def answer(tokenizers: str, line: bytes) -> bytes:
    """Return the event line for a request line. Raises ``WireError`` for any other, to end the process."""
    request, counter = decode(line), load_counter(tokenizers)
    if not isinstance(request, CountFiles | CountTexts):
        raise WireError(f"{type(request).__name__} is nothing to count")
    if isinstance(counter, Unavailable):
        return encode(uncounted(request, counter))
    if isinstance(request, CountFiles):
        places = {path: os.path.join(request.root, path) for path in request.paths}
        return encode(FilesCounted({path: count_file(counter, places[path]) for path in places}))
    counts = [count_text(counter, text) for text in request.texts]
    known = tuple(count for count in counts if isinstance(count, int))
    if len(known) < len(counts):
        return encode(uncounted(request, Unavailable("a text cannot be counted")))
    return encode(TextsCounted(request.request, known))


def main() -> NoReturn:
    """Answer questions until stdin closes."""
    serve_lines(partial(answer, sys.argv[1]))


if __name__ == "__main__":
    main()
