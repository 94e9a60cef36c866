"""`mqi`, and `python -m mqi`."""

import gc
from typing import NoReturn

# A command lives for a second; looking for garbage each time that another module has loaded costs it a tenth.
# Said before anything else is imported.
gc.set_threshold(50_000)


def main() -> NoReturn:
    """The `mqi` program. Ends the process with the exit code."""
    from mqi.cli import main as run

    run()


if __name__ == "__main__":
    main()
