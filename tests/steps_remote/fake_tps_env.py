"""A stand-in for moqui's tps_env: reads what the real one reads, in the way it reads it, and fails as it fails.

Its physics is an analytic pencil beam from above (gantry 0), enough to pass the checks of a dose. It keeps the
documented contract: keys split at the first space, a blank line aborts, RBE and fractions multiply, histories are
weight x ratio / ParticlesPerHistory cut off, every odd control point is discarded, the CT must be signed and no
deeper than wide, the output is float64 with x fastest. FAKE_TPS names the way to fail, FAKE_TPS_ONCE a file that
makes it fail only until that file exists.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SIGMA_MM = 6.0


def main() -> int:
    from steplib.bragg import Protons

    wish = os.environ.get("FAKE_TPS", "")
    once = os.environ.get("FAKE_TPS_ONCE", "")
    if once and Path(once).exists():
        wish = ""
    elif once:
        Path(once).write_text("x", encoding="ascii")
    if wish == "cuda driver":
        print("CUDA error: (setup world) CUDA driver version is insufficient")
        return 255
    if wish == "cuda check":
        print("CUDA error: (run) an illegal memory access was encountered")
        return 255
    if wish == "out of memory":
        return 2
    if wish == "bad direction":
        return 1
    if wish == "abort":
        end(signal.SIGABRT)
    if wish == "hang":
        time.sleep(600)
    keys = read_keys(Path(sys.argv[1]))
    if "," in keys["scorer"]:
        print("two quantities double the dose")
        end(signal.SIGABRT)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get("FAKE_TPS_CPU"), "no GPU"
    assert keys["gpuid"] == "0"
    clinical = "gantrynum" in keys
    if clinical:
        spots, axes, surface, corner, step, shape = read_clinical(keys)
    else:
        spots, axes, surface, corner, step, shape = read_upstream(keys)
    total = sum(count for *_, count in spots)
    print(f"cum vertex {total} total histories {total}")
    print(f"Number of particles tracked {total // 2 if wish == 'half of the histories' else total}")
    # Depth from above; x and the patient's z across.
    x, depth, z = axes
    dose = np.zeros((len(z), len(depth), len(x)))
    wet = depth - surface
    for energy, spread, px, py, count in spots:
        line = np.where(wet > 0.0, Protons(energy, spread, 1.0).dose(np.maximum(wet, 0.0) / 10.0) / 10.0, 0.0)
        gauss = [np.exp(-0.5 * ((axis - at) / SIGMA_MM) ** 2) for axis, at in ((x, px), (z, py))]
        gauss = [each / each.sum() for each in gauss]
        dose += count * gauss[1][:, None, None] * line[None, :, None] * gauss[0][None, None, :]
    # MeV/mm per voxel area to Gy; water of density 1 (the grid is of cubes).
    dose *= 1.602176634e-13 / (step**2 * 1e-6)
    dose *= np.random.default_rng(int(keys["randomseed"])).normal(1.0, 0.01, dose.shape).clip(0.9, 1.1)
    if not clinical:
        dose *= float(keys["rbe"]) * int(keys["numberoffraction"])
    else:
        # Gantry system: z against depth, y is the patient's z.
        dose = dose.transpose(1, 0, 2)[::-1]
    write(Path(keys["outputdir"]), dose, wish, clinical, corner, step, shape)
    print("Time taken by MC engine 12 milli-seconds" if clinical else "Time taken 12 milli-seconds")
    if wish == "crash after a good run":
        end(signal.SIGSEGV)
    if wish == "complains":
        print("out-of-bound")
    if wish == "cannot write":
        print("Cannot write the file")
    return 0


def read_keys(path: Path) -> dict[str, str]:
    """Case does not matter, the first occurrence wins, a blank line aborts."""
    keys: dict[str, str] = {}
    content = path.read_bytes().decode("ascii")
    if "\r" in content or "#" in content or "\t" in content:
        end(signal.SIGABRT)
    for line in content.removesuffix("\n").split("\n"):
        if not line.strip():
            end(signal.SIGABRT)
        key, _, value = line.partition(" ")
        keys.setdefault(key.lower(), value)
    return keys


def read_upstream(keys: dict[str, str]) -> Any:
    import pydicom

    assert keys["useabsolutepath"] == "true"
    files = [pydicom.dcmread(path) for path in sorted(Path(keys["dicomdir"]).iterdir())]
    plans = [one for one in files if one.Modality == "RTPLAN"]
    images = sorted((one for one in files if one.Modality == "CT"), key=lambda one: float(one.ImagePositionPatient[2]))
    assert len(plans) == 1
    first = images[0]
    if first.PixelRepresentation != 1 or first.Rows > first.Columns:
        end(signal.SIGSEGV)
    assert float(first.SliceThickness) == float(first.PixelSpacing[0]) == float(first.PixelSpacing[1])
    step = float(first.SliceThickness)
    origin = [float(value) for value in first.ImagePositionPatient]
    hu = np.stack([one.pixel_array for one in images])
    nz, ny, nx = hu.shape
    rows = read_rows(Path(keys["machine"].removeprefix("PBS:")))
    (beam,) = plans[0].IonBeamSequence
    assert beam.BeamNumber == 1
    assert float(beam.IonControlPointSequence[0].GantryAngle) == 0.0, "this stand-in knows gantry 0 only"
    iso = [float(value) for value in beam.IonControlPointSequence[0].IsocenterPosition]
    assert beam.IonControlPointSequence[0].SnoutPosition is not None
    spots = []
    for point in beam.IonControlPointSequence[::2]:  # every odd one is discarded
        energy = float(point.NominalBeamEnergy)
        place = next(index for index, row in enumerate(rows) if row[0] >= energy - 1e-6)
        if place == 0:
            print("out-of-bound")
        weights = np.atleast_1d(point.ScanSpotMetersetWeights)
        for number, weight in enumerate(weights):
            px, py = point.ScanSpotPositionMap[2 * number : 2 * number + 2]
            count = int(float(weight) * rows[place][7] / float(keys["particlesperhistory"]))
            spots.append((rows[place][1], rows[place][2], px + iso[0], py + iso[2], count))
    axes = tuple(at + step * np.arange(size) for at, size in zip(origin, (nx, ny, nz), strict=True))
    # The water's surface in front of the middle of the beam.
    column = hu[nz // 2, :, np.abs(axes[0] - iso[0]).argmin()]
    surface = axes[1][column > -500][0] - 0.5 * step
    return spots, axes, surface, origin, step, (nx, ny, nz)


def read_rows(path: Path) -> list[list[float]]:
    text = path.read_text(encoding="ascii")
    heads = [line for line in text.splitlines() if line.startswith("[")]
    assert heads[0] == "[geometry]"
    assert heads[-2:] == ["[spot]", "[time]"]
    body = text.split("[spot]\n")[1].split("[time]")[0]
    rows = [[float(word) for word in line.split()] for line in body.splitlines() if line]
    assert all(len(row) == 8 for row in rows)
    return rows


def read_clinical(keys: dict[str, str]) -> Any:
    assert keys["useabsolutepath"] == "false"
    assert keys["gantrynum"] in ("1", "2")
    parent = Path(keys["parentdir"])
    assert (parent / keys["dicomdir"] / "plan.dcm").is_file()
    folder = sorted((parent / keys["logfilepath"]).iterdir())[int(keys["beamnumbers"]) - 1]
    spots = []
    for path in sorted(folder.iterdir()):
        energy = float(path.name.split("_")[1].removesuffix("MeV.csv"))
        for line in path.read_text(encoding="ascii").splitlines():
            _, x, y, count, rest = line.split(",")
            assert rest == ""
            spots.append((energy * 1.0, 1.0, float(x), float(y), int(count) * int(keys["particlesperhistory"])))
    size = [int(keys[f"phantomdim{axis}"]) for axis in "xyz"]
    step = int(keys["phantomunitx"])
    corner = [int(keys[f"phantomposition{axis}"]) for axis in "xyz"]
    x, y, z = (at + step * (np.arange(count) + 0.5) for at, count in zip(corner, size, strict=True))
    top = corner[2] + step * size[2]
    return spots, (x, np.sort(top - z), y), 0.0, corner, float(step), tuple(size)


def write(out: Path, dose: Any, wish: str, clinical: bool, corner: Any, step: float, shape: Any) -> None:
    if wish == "no output":
        return
    out.mkdir()
    if wish == "NaN":
        dose = dose * np.where(np.arange(dose.size).reshape(dose.shape) == 7, np.nan, 1.0)
    if wish == "zero dose":
        dose = dose * 0.0
    if wish == "negative dose":
        dose = -dose
    content = dose.astype("<f8").tobytes()
    if wish == "wrong size":
        content = content[:-8]
    path = out / ("1G000_2_Dose.raw" if clinical else "BEAM_0_Dose.raw")
    path.write_bytes(content)
    if wish == "two doses":
        (out / "OTHER_0_Dose.raw").write_bytes(content)
    if wish == "stale file":
        os.utime(path, (1.0, 1.0))
    if not clinical:
        offset = [at + (step if wish == "another grid" else 0.0) for at in corner]
        header = f"ObjectType = Image\nNDims = 3\nTransformMatrix 1 0 0 0 1 0 0 0 1\nOffset {offset[0]} {offset[1]} {offset[2]}\n"
        header += f"ElementSpacing = {step} {step} {step}\nDimSize = {shape[0]} {shape[1]} {shape[2]}\n"
        header += f"ElementType = MET_DOUBLE\nElementDataFile = {path.name}\n"
        path.with_suffix(".mhd").write_text(header, encoding="ascii")


def end(number: int) -> None:
    sys.stdout.flush()
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main())
