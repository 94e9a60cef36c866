"""The text files that MCsquare reads, and the image files that it reads and writes. Pure, apart from the reader.

MCsquare: K. Souris, J.A. Lee, E. Sterpin, Med. Phys. 43 (2016) 1700-1712. The formats are those of its readers
(data_beam_model.c, data_mhd.c, as shipped in opentps-core 2.0.0); what they do not say was measured.

MCsquare's frame has its origin in a corner of the image: x as in the patient, y against the patient's (so that a
beam at gantry 0 comes from large y), z as in the patient. Its arrays run against x and along y, which for an array
in patient order means flipping x and y, both ways.

Line ends are LF and there are no comments: with others, a beam model is read wrongly without any message.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..beam_model import BeamModel
from ..geometry import BeamFrame
from ..phantom import Phantom
from ..report import EngineFailed
from ..spots import Spots
from .base import ShifterInBeam

# Weights in the plan count this many protons; the beam model says so at every energy, so that MCsquare's own
# interpolation of protons per MU plays no part.
PROTONS_PER_WEIGHT = 1e6
_ROW_NAMES = (
    "NominalEnergy MeanEnergy EnergySpread ProtonsMU Weight1 SpotSize1x Divergence1x Correlation1x SpotSize1y "
    "Divergence1y Correlation1y Weight2 SpotSize2x Divergence2x Correlation2x SpotSize2y Divergence2y Correlation2y"
)


def beam_model(
    model: BeamModel,
    energies_mev: Sequence[float],
    source_mm: Tuple[float, float],
    shifter: Optional[ShifterInBeam],
    material_labels: Mapping[str, int],
) -> str:
    """The beam data library: one row per energy of the plan, already interpolated.

    MCsquare interpolates between the row of an energy and the next, so one more stands on either side.
    """
    lines = ["--UPenn beam model (double gaussian)--", ""]
    for name, value in (
        ("Nozzle exit to Isocenter distance", model.reference_plane_mm),
        ("SMX to Isocenter distance", source_mm[0]),
        ("SMY to Isocenter distance", source_mm[1]),
    ):
        lines += [name, f"{value:.6f}", ""]
    if shifter is not None:
        lines += [
            "Range Shifter parameters",
            "RS_ID = SHIFTER",
            "RS_type = binary",
            f"RS_material = {material_labels[shifter.shifter.material]}",
            f"RS_density = {shifter.shifter.density_g_cm3:.6f}",
            f"RS_WET = {shifter.wet_mm:.6f}",
            "",
        ]
    wanted = sorted(set(energies_mev))
    rows = [(energy, model.at(energy)) for energy in wanted]
    rows = [(wanted[0] - 1.0, rows[0][1]), *rows, (wanted[-1] + 1.0, rows[-1][1])]
    lines += ["Beam parameters", f"{len(rows)} energies", "", _ROW_NAMES]
    for energy, row in rows:
        spot = (
            row.size_x_mm,
            row.divergence_x_rad,
            row.correlation_x,
            row.size_y_mm,
            row.divergence_y_rad,
            row.correlation_y,
        )
        # MCsquare takes the spread in per cent of the nominal energy.
        values = (
            energy,
            row.mean_mev,
            100.0 * row.sigma_mev / energy,
            PROTONS_PER_WEIGHT,
            1.0,
            *spot,
            0.0,
            *spot,
        )
        lines.append(" ".join(f"{value:.9g}" for value in values))
    return "\n".join(lines) + "\n"


def isocentre(phantom: Phantom, frame: BeamFrame) -> Tuple[float, float, float]:
    """The isocentre in MCsquare's frame, mm from the corner."""
    sizes = [spacing * count for spacing, count in zip(phantom.spacing_mm, phantom.hu.shape[::-1])]
    x, y, z = (
        place - origin + spacing / 2.0
        for place, origin, spacing in zip(frame.isocentre_mm, phantom.origin_mm, phantom.spacing_mm)
    )
    return x, sizes[1] - y, z


def plan(
    spots: Spots,
    frame: BeamFrame,
    isocentre_mm: Tuple[float, float, float],
    shifter: Optional[ShifterInBeam],
) -> str:
    """The treatment plan with one field; a weight counts PROTONS_PER_WEIGHT protons."""
    weights = spots.protons / PROTONS_PER_WEIGHT
    layers = [layer for layer in np.unique(spots.layer) if weights[spots.layer == layer].sum() > 0.0]
    total = f"{weights.sum():.9g}"
    lines = [
        "#TREATMENT-PLAN-DESCRIPTION",
        "#PlanName",
        "mqi",
        "#NumberOfFractions",
        "1",
        "##FractionID",
        "1",
    ]
    lines += ["##NumberOfFields", "1", "###FieldsID", "1", "#TotalMetersetWeightOfAllFields", total, ""]
    lines += ["#FIELD-DESCRIPTION", "###FieldID", "1", "###FinalCumulativeMeterSetWeight", total]
    lines += ["###GantryAngle", f"{frame.gantry_deg:.6f}", "###PatientSupportAngle", f"{frame.couch_deg:.6f}"]
    lines += ["###IsocenterPosition", " ".join(f"{value:.6f}" for value in isocentre_mm)]
    if shifter is not None:
        lines += ["###RangeShifterID", "SHIFTER", "###RangeShifterType", "binary"]
    lines += ["###NumberOfControlPoints", str(len(layers)), "", "#SPOTS-DESCRIPTION"]
    cumulative = 0.0
    for number, layer in enumerate(layers, 1):
        chosen = np.flatnonzero((spots.layer == layer) & (weights > 0.0))
        cumulative += float(weights[chosen].sum())
        lines += ["####ControlPointIndex", str(number), "####SpotTunnedID", "1"]
        lines += ["####CumulativeMetersetWeight", f"{cumulative:.9g}"]
        lines += ["####Energy (MeV)", f"{spots.energy_mev[chosen[0]]:.9g}"]
        if shifter is not None:
            inside = spots.wet_mm[chosen[0]] > 0.0
            lines += ["####RangeShifterSetting", "IN" if inside else "OUT"]
            lines += ["####IsocenterToRangeShifterDistance", f"{shifter.isocentre_distance_mm:.6f}"]
            lines += ["####RangeShifterWaterEquivalentThickness", f"{shifter.wet_mm if inside else 0.0:.6f}"]
        lines += ["####NbOfScannedSpots", str(len(chosen)), "####X Y Weight"]
        columns = zip(spots.x_mm[chosen], spots.y_mm[chosen], weights[chosen])
        lines += [f"{x:.6f} {y:.6f} {weight:.9g}" for x, y, weight in columns]
    return "\n".join(lines) + "\n"


def density_table(phantom: Phantom) -> str:
    """HU and density, ascending."""
    return "".join(f"{hu:.6f} {density:.9g}\n" for hu, density in phantom.density_table)


def material_table(phantom: Phantom, material_labels: Mapping[str, int]) -> str:
    """HU and material label, ascending."""
    return "".join(f"{hu:.6f} {material_labels[name]}\n" for hu, name in phantom.material_table)


def config(*, primaries: int, seed: int, output: str) -> str:
    """config.txt of one batch. One thread: only so does a seed give the same dose again."""
    values = {
        "Num_Threads": 1,
        "RNG_Seed": seed,
        "Num_Primaries": primaries,
        "CT_File": "CT.mhd",
        "HU_Density_Conversion_File": "density.txt",
        "HU_Material_Conversion_File": "material.txt",
        "BDL_Machine_Parameter_File": "machine.txt",
        "BDL_Plan_File": "plan.txt",
        "Output_Directory": output,
        "Dose_MHD_Output": "True",
        "Compute_stat_uncertainty": "True",
        "Dose_to_Water_conversion": "OnlineSPR",
    }
    return "".join(f"{key} {value}\n" for key, value in values.items())


def image_header(phantom: Phantom, data_file: str) -> str:
    """The MetaImage header of the phantom's Hounsfield units."""
    nz, ny, nx = phantom.hu.shape
    dx, dy, dz = phantom.spacing_mm
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        f"DimSize = {nx} {ny} {nz}",
        f"ElementSpacing = {dx:.6f} {dy:.6f} {dz:.6f}",
    ]
    lines += ["Offset = 0 0 0", "ElementType = MET_FLOAT", f"ElementDataFile = {data_file}"]
    return "\n".join(lines) + "\n"


def flipped(values: Any) -> Any:
    """An array (nz, ny, nx) in patient order in MCsquare's, or back."""
    return values[:, ::-1, ::-1]


def material_labels(folder: Path) -> Dict[str, int]:
    """Label by name, from Materials/list.dat."""
    labels: Dict[str, int] = {}
    for line in (folder / "list.dat").read_text(encoding="ascii").splitlines():
        words = line.split("#")[0].split()
        if len(words) == 2 and words[0].isdigit():
            labels[words[1]] = int(words[0])
    return labels


def read_dose(folder: Path, shape: Tuple[int, int, int]) -> Any:
    """Dose.mhd and Dose.raw of one batch in patient order, float32 (nz, ny, nx), eV/g per proton.

    EngineFailed when the files are not what MCsquare writes for this grid.
    """
    problem = EngineFailed("MCsquare ended well and left no dose of the grid's size.")
    try:
        header = (folder / "Dose.mhd").read_text(encoding="ascii", errors="replace")
        raw = (folder / "Dose.raw").read_bytes()
    except FileNotFoundError:
        raise problem from None
    fields: Dict[str, List[str]] = {}
    for line in header.splitlines():
        key, _, value = line.partition("=")
        fields[key.strip()] = value.split()
    nz, ny, nx = shape
    if fields.get("DimSize") != [str(nx), str(ny), str(nz)] or fields.get("ElementType") != ["MET_FLOAT"]:
        raise problem
    if len(raw) != 4 * nx * ny * nz:
        raise problem
    return flipped(np.frombuffer(raw, dtype="<f4").reshape(shape))
