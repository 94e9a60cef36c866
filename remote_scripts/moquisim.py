"""One beam -> its depth dose in water, by an analytic model. A try-out engine: not for clinical use.

    moquisim.py --beam N --spots DIR --out DIR [--parameters parameters.json]

`--spots` is the folder that interpreter.py wrote; the beam must be in its beams.json and its table must have
the SHA-256 given there. Each layer is a Bragg curve (steplib/bragg.py: Bortfeld 1997, ranges from NIST
PSTAR), moved towards the surface by the water equivalent thickness of the range shifters in the beam, and
weighted by its protons. Writes into --out:

    depth_dose.csv   depth_mm            below the surface of the water, behind the range shifters
                     relative_dose       1 at the maximum
                     energy_MeV_per_mm   energy deposited per depth, laterally integrated, all protons of one
                                         fraction; its integral over depth is what the water takes up
                     dose_Gy_mm2         the same as dose in water of 1 g/cm³, integrated over the plane
    summary.json     R80, R90, peak, energies, MU, protons, energy balance, parameters, checks
    depth_dose.png   the picture

Parameters, all optional:

    protons_per_mu             protons per monitor unit at 150 MeV; other energies follow as 1 / stopping
                               power (steplib/result.py). Default 3.52e6, the DCPT beam model at 150 MeV;
                               absolute values mean nothing until a machine's own number stands here.
    energy_spread_MeV          Gaussian sigma of the beam's energy. Default 0.73 (the same model, 150 MeV).
    depth_step_mm              default 0.5
    range_tolerance_mm         how far R80 may be off PSTAR. Default 1.
    energy_tolerance_percent   how far the energy balance may be off. Default 1.

Exit codes: 0 ok, 2 bad input, 3 a check of the result failed (the files are written all the same),
75 temporary, 78 this Python lacks a package, 1 a defect (steplib/report.py).
"""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence

# Started with -I, Python does not look beside the script. No caches: the deployed folder is named by its
# content.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from steplib.parameters import Number, read_parameters  # noqa: E402
from steplib.plan import ENERGY_HIGH_MEV, ENERGY_LOW_MEV  # noqa: E402
from steplib.report import Arguments, BadInput, Progress, run_step  # noqa: E402
from steplib.tables import BeamTable, read_beam  # noqa: E402

NOTICE = "Research tool, not a medical device. Analytic try-out model in water, not for clinical use."

PARAMETERS = {
    "protons_per_mu": Number(3.52e6, 1.0, 1e15),
    "energy_spread_MeV": Number(0.73, 0.0, 5.0),
    "depth_step_mm": Number(0.5, 0.05, 1.0),
    "range_tolerance_mm": Number(1.0, 0.0, 10.0),
    "energy_tolerance_percent": Number(1.0, 0.0, 10.0),
}


def main(argv: Sequence[str], progress: Progress) -> None:
    """Computes one beam and checks the result."""
    arguments = Arguments(
        description="One beam -> its depth dose in water (analytic model, not for clinical use)"
    )
    arguments.add_argument("--beam", type=int, required=True, help="DICOM beam number")
    arguments.add_argument("--spots", type=Path, required=True, help="folder written by interpreter.py")
    arguments.add_argument("--out", type=Path, required=True, help="folder for the results")
    arguments.add_argument("--parameters", type=Path, help="parameters.json")
    given = arguments.parse_args(argv)
    parameters = read_parameters(given.parameters, PARAMETERS)
    table = read_beam(given.spots, given.beam)
    if not all(ENERGY_LOW_MEV <= layer.energy_mev <= ENERGY_HIGH_MEV for layer in table.layers):
        raise BadInput(
            f"Beam {given.beam} has energies outside {ENERGY_LOW_MEV:g} to {ENERGY_HIGH_MEV:g} MeV."
        )
    if sum(layer.mu for layer in table.layers) <= 0.0:
        raise BadInput(f"Beam {given.beam} delivers no monitor units.")
    progress(0.05, "computing the dose")

    from steplib import picture, result

    settings = result.Settings(
        protons_per_mu=parameters["protons_per_mu"],
        spread_mev=parameters["energy_spread_MeV"],
        step_mm=parameters["depth_step_mm"],
        range_tolerance_mm=parameters["range_tolerance_mm"],
        energy_tolerance=parameters["energy_tolerance_percent"] / 100.0,
    )
    layers = len(table.layers)
    dose = result.compute(
        table.layers,
        settings,
        lambda share: progress(0.05 + 0.7 * share, f"layer {round(share * layers)} of {layers}"),
    )
    checks = result.check(dose, table.layers, settings)
    summary = _summary(given.beam, table, parameters, dose, checks)
    progress(0.8, "writing the results")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "depth_dose.csv").write_bytes(_csv(dose))
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    (given.out / "summary.json").write_bytes((text + "\n").encode("utf-8", "replace"))
    progress(0.85, "drawing")
    picture.draw(given.out / "depth_dose.png", dose, summary)
    result.demand(checks, given.beam)
    print(f"beam {given.beam}: R80 {summary['r80_mm']:.2f} mm, {len(checks)} checks passed")
    progress(1.0, f"R80 {summary['r80_mm']:.1f} mm")


def _csv(dose: Any) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("depth_mm", "relative_dose", "energy_MeV_per_mm", "dose_Gy_mm2"))
    highest = float(dose.energy_mev_per_mm.max()) or 1.0
    columns = (dose.depth_mm, dose.energy_mev_per_mm, dose.dose_gy_mm2)
    for depth, energy, gray in zip(*columns):
        writer.writerow((f"{depth:.3f}", f"{energy / highest:.6e}", f"{energy:.9e}", f"{gray:.9e}"))
    return text.getvalue().encode("ascii")


def _summary(
    beam: int, table: BeamTable, parameters: Mapping[str, Any], dose: Any, checks: Sequence[Any]
) -> Dict[str, Any]:
    from steplib import result

    energies = [layer.energy_mev for layer in table.layers]
    return {
        "format": 1,
        "notice": NOTICE,
        "engine": {"name": "analytic depth dose", "model": "Bortfeld 1997", "ranges": "NIST PSTAR (ICRU 49)"},
        "beam": beam,
        "beam_name": table.entry.get("name"),
        "plan_sop_instance_uid": table.plan_uid,
        "spots_sha256": table.entry.get("sha256"),
        "layers": len(energies),
        "spots": table.spots,
        "min_energy_MeV": min(energies),
        "max_energy_MeV": max(energies),
        "total_mu": sum(layer.mu for layer in table.layers),
        "range_shifter_wet_mm": max(layer.wet_mm for layer in table.layers),
        **result.characteristics(dose),
        "protons": dose.protons,
        "incident_MeV": dose.incident_mev,
        "phantom_MeV": dose.deposited_mev,
        "range_shifter_MeV": dose.shifter_mev,
        "neutral_MeV": dose.neutral_mev,
        "parameters": parameters,
        "checks": [asdict(each) for each in checks],
        "passed": all(each.passed for each in checks),
    }


if __name__ == "__main__":
    sys.exit(run_step(main, sys.argv[1:]))
