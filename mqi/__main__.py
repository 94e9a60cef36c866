"""`mqi`, and `python -m mqi`."""

import gc
from typing import NoReturn

# A command lives for a second; looking for garbage each time that another module has loaded costs it a tenth.
# Said before anything else is imported.
gc.set_threshold(50_000)


def main() -> NoReturn:
    """The `mqi` program. Ends the process with the exit code."""
    from mqi.cli import main as run

    try:
        run()
    finally:
        # The interpreter looks for garbage once more when it ends: a tenth of a second for nothing.
        gc.freeze()


if __name__ == "__main__":
    main()
