"""Entry points of the agent. It is started often, so it imports little: not even argparse.

    request --work W                    serve framed requests on stdin, answer each on stdout
    environment --work W                build the steps' Python environment from the wheels in the store
    run JOBKEY --work W [OPTION…]       run one job, at most once ever; --slot: bounded by its group's slots;
                                        --wait: for its slot and GPU; --gpu UUID: on this GPU of the group's
    runner GROUP --work W               the local queue's runner for one group
"""

from __future__ import annotations

import gc
import os
import sys
from typing import List

# It lives for a moment: looking for garbage each time that another module has loaded takes longer than it helps.
gc.set_threshold(50_000)

# A folder given to the interpreter is put on sys.path itself; its parent is what makes `agent` a package
# (and what keeps a module here from shadowing one of the standard library).
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [os.path.dirname(_HERE)] + [entry for entry in sys.path if os.path.abspath(entry) != _HERE]

_USAGE = (
    "usage: agent request --work W | environment --work W | runner GROUP --work W"
    " | run JOBKEY --work W [--slot] [--wait] [--gpu UUID]"
)


def main(words: List[str]) -> int:
    """Exit code of the entry that `words` name; 2 for words that name none."""
    # Inputs are patients' data: nobody else on the host may read what we create.
    os.umask(0o077)
    if len(words) == 3 and words[0] == "request" and words[1] == "--work":
        from agent.dispatch import serve

        return serve(words[2])
    if len(words) == 3 and words[0] == "environment" and words[1] == "--work":
        from agent.dispatch import serve_environment

        return serve_environment(words[2])
    if len(words) >= 4 and words[0] == "run" and words[2] == "--work":
        options, gpu = words[4:], ""
        if options[-2:-1] == ["--gpu"]:
            options, gpu = options[:-2], options[-1]
        if set(options) <= {"--slot", "--wait"}:
            from agent.execute import run_once

            return run_once(words[3], words[1], slot="--slot" in options, wait="--wait" in options, gpu=gpu)
    if len(words) == 4 and words[0] == "runner" and words[2] == "--work":
        from agent.queues.runner import run_group

        return run_group(words[3], words[1])
    sys.stderr.write(_USAGE + "\n")
    return 2


if __name__ == "__main__":
    code = main(sys.argv[1:])
    gc.freeze()  # the interpreter would look for garbage once more when it ends
    sys.exit(code)
