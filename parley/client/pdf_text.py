"""A program: reads a PDF from stdin and writes the texts of its pages to stdout as JSON, or a line that says why not.

It runs in a process of its own with bounded memory and time: a PDF may be made to exhaust both. It imports nothing of
Parley's.
"""

import json
import sys
from contextlib import suppress

MEMORY_BYTES, CPU_SECONDS = 2 << 30, 120


def main() -> int:
    with suppress(ImportError, ValueError, OSError):  # not on this system
        import resource  # noqa: PLC0415

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    import io  # noqa: PLC0415
    import logging  # noqa: PLC0415

    import pypdf  # noqa: PLC0415

    logging.disable()
    most_pages = int(sys.argv[1])
    try:
        reader = pypdf.PdfReader(io.BytesIO(sys.stdin.buffer.read()))
        if reader.is_encrypted and not reader.decrypt(""):
            return _refuse("is encrypted: remove its password")
        count = len(reader.pages)
        if count > most_pages:
            return _refuse(f"has {count:,} pages; at most {most_pages:,} are allowed: split it")
        texts = [page.extract_text() for page in reader.pages]
    except MemoryError:
        return _refuse("takes too much memory to read")
    except Exception as error:  # noqa: BLE001 - a broken file may raise anything
        return _refuse(f"cannot be read: {type(error).__name__}")
    json.dump(texts, sys.stdout)
    return 0


def _refuse(problem: str) -> int:
    sys.stderr.write(problem)
    return 1


if __name__ == "__main__":
    sys.exit(main())
