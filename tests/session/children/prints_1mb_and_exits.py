"""Write a megabyte (or as many bytes as the argument says) of counted lines, then end at once."""

import os
import sys

size = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
text = memoryview(b"".join(b"%09d " % i for i in range(size // 10)))
while text:
    text = text[os.write(1, text) :]
