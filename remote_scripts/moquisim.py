"""One beam -> its dose, for the planned and for the delivered spots, by a Monte Carlo engine.

    moquisim.py --beam N --spots DIR --inputs inputs.json --input-dir DIR --files DIR --out DIR
                [--parameters parameters.json]

`--spots` is the folder that interpreter.py wrote, `--files` the folder with the room's machine file
(steplib/beam_model.py). For `planned`, and for `delivered` when the beam has a delivery record, it writes into --out:

    dose_<which>.npz               dose to water and its standard deviation, Gy of one fraction (steplib/dose_grid.py)
    RD_beam_<N>_<which>.dcm        the same as RT Dose, times RBE
    depth_dose_<which>.csv         depth_mm            water-equivalent, along the beam
                                   relative_dose       1 at the maximum
                                   energy_MeV_per_mm   energy deposited per depth in water, all protons of a fraction
                                   dose_Gy_mm2         the same as dose integrated over the plane
    engine/<which>/…               what the engine was told, and what it said in its first batch
    depth_dose.png, summary.json

Parameters, all optional, are explained in config/workflows/default_qa.yaml.

Every dose is checked (steplib/dose_checks.py); one that fails is written all the same, and the step ends with 3.
Exit codes: 0 ok, 2 bad input, 3 a check failed, 4 the engine is missing or failed, 75 temporary, 78 this Python lacks
a package, 1 a defect (steplib/report.py).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Sequence

# Started with -I, Python does not look beside the script. No caches: the deployed folder is named by its
# content.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from steplib.find_plan import find_plan, read_inputs  # noqa: E402
from steplib.parameters import Choice, Number, Text, Whole, read_parameters  # noqa: E402
from steplib.report import Arguments, BadInput, Progress, run_step  # noqa: E402

PARAMETERS = {
    "engine": Choice("mcsquare", ("mcsquare", "moqui")),
    "geometry": Choice("water", ("water", "ct")),
    "gantry": Choice("plan", ("plan", "zero")),
    "grid_mm": Number(3.0, 0.5, 10.0),
    "isocentre_depth_mm": Number(100.0, 0.0, 400.0),
    "primaries": Whole(400_000, 1_000, 10_000_000_000),
    "batches": Whole(10, 8, 100),
    "threads": Whole(0, 0, 1024),
    "seed": Whole(0, 0, 2**31 - 1),
    "rbe": Number(1.0, 0.5, 3.0),
    "range_tolerance_mm": Number(2.0, 0.0, 20.0),
    "energy_tolerance_percent": Number(5.0, 0.0, 50.0),
    "centroid_tolerance_mm": Number(1.0, 0.0, 20.0),
    "outside_limit_percent": Number(5.0, 0.0, 100.0),
    "mcsquare_folder": Text(),
    "moqui_program": Text(),
    "moqui_dialect": Choice("upstream", ("upstream", "clinical")),
    "moqui_gantry_number": Whole(0, 0, 2),
    "moqui_dose_factor": Number(0.0, 0.0, 1e12),
    "moqui_histories_per_s": Number(1e5, 1.0, 1e12),
    "moqui_on_cpu": Choice("no", ("no", "yes")),
}


def main(argv: Sequence[str], progress: Progress) -> None:
    """Computes one beam, checks the doses, writes them."""
    arguments = Arguments(description="One beam -> its dose, for the planned and the delivered spots")
    arguments.add_argument("--beam", type=int, required=True, help="DICOM beam number")
    arguments.add_argument("--spots", type=Path, required=True, help="folder written by interpreter.py")
    arguments.add_argument("--inputs", type=Path, required=True, help="inputs.json")
    arguments.add_argument("--input-dir", type=Path, required=True, help="folder with the files 000001 …")
    arguments.add_argument("--files", type=Path, required=True, help="folder with the machine file")
    arguments.add_argument("--out", type=Path, required=True, help="folder for the results")
    arguments.add_argument("--parameters", type=Path, help="parameters.json")
    given = arguments.parse_args(argv)
    parameters = read_parameters(given.parameters, PARAMETERS)
    inputs = read_inputs(given.inputs)

    def looked(share: float, message: str) -> None:
        progress(0.08 * share, message)

    plan = find_plan(inputs, given.input_dir, looked).dataset

    # numpy from here on: what is wrong with the arguments is said before it is missed.
    from steplib import simulation
    from steplib.beam_model import find_machine
    from steplib.spots import read_beams

    machine = find_machine(given.files)
    beams = read_beams(given.spots, machine.model)
    if given.beam not in [beam.number for beam in beams]:
        known = ", ".join(str(beam.number) for beam in beams)
        raise BadInput(
            f"Beam {given.beam} is not in the interpreter's beams.json (treatment beams there: {known})."
        )
    case = simulation.prepare(given.beam, beams, plan, machine, inputs, given.input_dir, parameters)
    engine = _engine(parameters)
    given.out.mkdir(parents=True, exist_ok=True)
    doses = simulation.simulate(
        case, engine, given.out, lambda share, text: progress(0.1 + 0.8 * share, text)
    )
    progress(0.92, "writing the doses")
    simulation.write(case, engine, doses, given.out)
    simulation.demand(case, doses)
    uncertainty = max(each.dose.uncertainty_percent for each in doses.values())
    print(f"beam {given.beam}: {', '.join(doses)}, uncertainty {uncertainty:.1f} %, all checks passed")
    progress(1.0, f"{', '.join(doses)}: ±{uncertainty:.1f} %")


def _engine(parameters: Any) -> Any:
    if parameters["engine"] == "mcsquare":
        from steplib.engines.mcsquare import MCsquare

        return MCsquare(parameters["mcsquare_folder"])
    from steplib.engines.moqui import Moqui

    return Moqui(parameters)


if __name__ == "__main__":
    sys.exit(run_step(main, sys.argv[1:]))
