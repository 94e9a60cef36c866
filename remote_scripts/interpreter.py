"""RT Ion Plan -> what is to be delivered: one table of spots per treatment beam.

    interpreter.py --inputs inputs.json --input-dir DIR --out DIR [--parameters parameters.json]

Reads the one RT Ion Plan among the inputs (steplib/find_plan.py, steplib/plan.py) and writes, into --out,
`beams.json` and `beam_<number>.csv` per treatment beam; both are described in steplib/tables.py.

Parameters, all optional:

    range_shifter_wet_mm   {"RS_5CM": 57.0}: water equivalent thickness by range shifter ID, for plans that do
                           not tell it (300A,0366); a thickness in the plan goes first. Default: none.
    energy_min_MeV         the machine's lowest energy; default 50, which is also the least allowed
    energy_max_MeV         the machine's highest energy; default 300, which is also the most allowed

Exit codes: 0 ok, 2 bad input, 75 temporary, 78 this Python lacks a package, 1 a defect (steplib/report.py).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Sequence

# Started with -I, Python does not look beside the script. No caches: the deployed folder is named by its
# content.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from steplib.find_plan import find_plan, read_inputs  # noqa: E402
from steplib.parameters import Number, Numbers, read_parameters  # noqa: E402
from steplib.plan import ENERGY_HIGH_MEV, ENERGY_LOW_MEV, read_plan  # noqa: E402
from steplib.report import Arguments, BadInput, Progress, run_step  # noqa: E402
from steplib.tables import write_tables  # noqa: E402

PARAMETERS = {
    "range_shifter_wet_mm": Numbers(0.0, 500.0),
    "energy_min_MeV": Number(ENERGY_LOW_MEV, ENERGY_LOW_MEV, ENERGY_HIGH_MEV),
    "energy_max_MeV": Number(ENERGY_HIGH_MEV, ENERGY_LOW_MEV, ENERGY_HIGH_MEV),
}


def main(argv: Sequence[str], progress: Progress) -> None:
    """Reads the plan and writes the tables."""
    arguments = Arguments(description="RT Ion Plan -> one table of spots per treatment beam")
    arguments.add_argument("--inputs", type=Path, required=True, help="inputs.json")
    arguments.add_argument("--input-dir", type=Path, required=True, help="folder with the files 000001 …")
    arguments.add_argument("--out", type=Path, required=True, help="folder for the results")
    arguments.add_argument("--parameters", type=Path, help="parameters.json")
    given = arguments.parse_args(argv)
    parameters = read_parameters(given.parameters, PARAMETERS)
    energies_mev = (parameters["energy_min_MeV"], parameters["energy_max_MeV"])
    if energies_mev[0] >= energies_mev[1]:
        raise BadInput("Parameter energy_min_MeV must be below energy_max_MeV.")
    found = find_plan(read_inputs(given.inputs), given.input_dir, progress)
    progress(0.6, "reading the RT Ion Plan")
    plan = read_plan(found.dataset, parameters["range_shifter_wet_mm"], energies_mev)
    progress(0.8, "writing the spots")
    given.out.mkdir(parents=True, exist_ok=True)
    write_tables(given.out, plan, {"input": found.source.number, "sha256": found.source.sha256})
    for beam in plan.beams:
        spots = sum(len(layer.spots) for layer in beam.layers)
        print(f"beam {beam.number}: {len(beam.layers)} layers, {spots} spots, {beam.mu:.3f} MU")
    progress(1.0, f"{len(plan.beams)} treatment beams")


if __name__ == "__main__":
    sys.exit(run_step(main, sys.argv[1:]))
