"""The report's figures: slices of two doses and their gamma, profiles, histograms of gamma, DVH. No patient data."""

from __future__ import annotations

import io
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from .dose_grid import DoseGrid

_INK, _QUIET, _GRID = "#1b2733", "#5c6b7a", "#e4e9ee"
_REFERENCE, _EVALUATED, _BAD = "#0b5fa5", "#c2410c", "#b42318"
_COLOURS = ("#0b5fa5", "#c2410c", "#14743c", "#7c3aed", "#b45309", "#0e7490", "#be185d", "#4d7c0f")
# Structure -> its polygons (n, 2) of x, y mm in the axial plane that is shown.
Outlines = Mapping[str, Sequence[Any]]


def _new(width: float, height: float, **margins: float) -> Any:
    """A figure of so many inches; `margins`: where its axes lie, as `Figure.subplots_adjust` takes them. All labels
    are known, and to let matplotlib measure them (layout "constrained") takes longer than everything else."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    figure.subplots_adjust(**margins)
    return figure


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()


def _tidy(axes: Any) -> None:
    axes.grid(color=_GRID, linewidth=0.6, zorder=0)
    axes.tick_params(labelsize=7, colors=_QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.label.set_size(8)
    axes.yaxis.label.set_size(8)


def centre_of(dose: Any) -> Tuple[int, int, int]:
    """The voxel (z, y, x) nearest to the centre of the dose above half of its maximum."""
    high = dose >= 0.5 * float(dose.max())
    places = np.argwhere(high)
    z, y, x = np.round(places.mean(axis=0)).astype(int)
    return int(z), int(y), int(x)


def slices(
    reference: DoseGrid, evaluated: DoseGrid, index: Any, names: Tuple[str, str], outlines: Outlines
) -> bytes:
    """Three planes through the centre of the dose: reference, evaluated, their difference, gamma."""
    figure = _new(9.0, 7.2, left=0.075, right=0.985, top=0.965, bottom=0.12, wspace=0.22, hspace=0.25)
    grid = figure.subplots(3, 4)
    centre = centre_of(reference.dose_gy)
    highest = float(reference.dose_gy.max())
    lower = evaluated.same_grid(reference)
    difference = 100.0 * (evaluated.dose_gy - reference.dose_gy) / highest if lower else None
    axes_mm = reference.axes_mm()
    planes = (("axial", 0, (0, 1)), ("coronal", 1, (0, 2)), ("sagittal", 2, (1, 2)))
    letters = "xyz"
    for row, (name, fixed, (across, up)) in enumerate(planes):
        place = centre[fixed]
        extent = _extent(axes_mm[across], axes_mm[up])
        there = {"vmin": 0.0, "vmax": highest, "cmap": "turbo"}
        pictures: List[Tuple[str, Any, Dict[str, Any]]] = [
            (names[0], _plane(reference.dose_gy, fixed, place), there),
            (names[1], _same_place(evaluated, reference, fixed, place), there),
        ]
        if difference is not None:
            look = {"vmin": -5.0, "vmax": 5.0, "cmap": "RdBu_r"}
            pictures.append(("difference (% of max)", _plane(difference, fixed, place), look))
        pictures.append(("gamma", _plane(index, fixed, place), {"vmin": 0.0, "vmax": 2.0, "cmap": "RdYlGn_r"}))
        for column in range(4):
            axes = grid[row][column]
            if column >= len(pictures):
                axes.set_axis_off()
                continue
            title, values, look = pictures[column]
            image = axes.imshow(values, origin="lower", extent=extent, interpolation="nearest", aspect="equal", **look)
            if up != 2:
                axes.invert_yaxis()  # patient y points to the back: anterior is at the top
            axes.tick_params(labelsize=6, colors=_QUIET)
            fixed_mm = axes_mm[2 - fixed][place]
            if column == 0:
                axes.set_ylabel(f"{name}, {letters[2 - fixed]} = {fixed_mm:.1f} mm\n{letters[up]} (mm)", fontsize=7)
            if row == 0:
                axes.set_title(title, fontsize=8, color=_INK)
            axes.set_xlabel(f"{letters[across]} (mm)", fontsize=7)
            if row == 0 and fixed == 0 and column < 2:
                _draw(axes, outlines)
            if row == 2:
                # One scale for each column: its three planes have the same range.
                left, _, width, _ = axes.get_subplotspec().get_position(figure).bounds
                bar = figure.colorbar(image, cax=figure.add_axes((left, 0.045, width, 0.012)), orientation="horizontal")
                bar.ax.tick_params(labelsize=6)
    return _png(figure)


def _draw(axes: Any, outlines: Outlines) -> None:
    for number, (name, polygons) in enumerate(outlines.items()):
        for place, polygon in enumerate(polygons):
            closed = np.vstack([polygon, polygon[:1]])
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(closed[:, 0], closed[:, 1], color=colour, linewidth=0.8, label=name if place == 0 else None)
    if outlines:
        axes.legend(fontsize=4, loc="lower right", framealpha=0.7)


def _plane(values: Any, fixed: int, place: int) -> Any:
    return np.take(values, place, axis=fixed)


def _same_place(grid: DoseGrid, reference: DoseGrid, fixed: int, place: int) -> Any:
    """The other dose in the reference's plane, interpolated; NaN outside its grid."""
    if grid.same_grid(reference):
        return _plane(grid.dose_gy, fixed, place)
    axes = list(reference.axes_mm())
    axes[2 - fixed] = axes[2 - fixed][place : place + 1]
    return np.take(resample(grid, axes), 0, axis=fixed)


def resample(grid: DoseGrid, axes_mm: Sequence[Any]) -> Any:
    """The dose at the places of three axes x, y, z (mm), trilinear, float64 (nz, ny, nx); NaN outside."""
    values = np.asarray(grid.dose_gy, dtype=np.float64)
    for axis, (wanted, own) in enumerate(zip(axes_mm, grid.axes_mm())):
        at = np.interp(wanted, own, np.arange(len(own)), left=np.nan, right=np.nan)
        low = np.clip(np.floor(np.nan_to_num(at)).astype(int), 0, max(len(own) - 2, 0))
        share = at - low
        shape = [1, 1, 1]
        shape[2 - axis] = len(share)
        share = share.reshape(shape)
        ahead = np.minimum(low + 1, len(own) - 1)
        values = np.take(values, low, axis=2 - axis) * (1.0 - share) + np.take(values, ahead, axis=2 - axis) * share
    return values


def _extent(across: Any, up: Any) -> Tuple[float, float, float, float]:
    def half(axis: Any) -> float:
        return float(axis[1] - axis[0]) / 2.0 if len(axis) > 1 else 0.5

    left, right = float(across[0]) - half(across), float(across[-1]) + half(across)
    return left, right, float(up[0]) - half(up), float(up[-1]) + half(up)


def profiles(doses: Mapping[str, DoseGrid]) -> bytes:
    """Profiles along x, y and z through the centre of the first dose; the band is one standard deviation."""
    figure = _new(9.0, 2.7, left=0.07, right=0.99, top=0.91, bottom=0.17, wspace=0.17)
    first = next(iter(doses.values()))
    centre = centre_of(first.dose_gy)
    through = [float(axis[place]) for axis, place in zip(first.axes_mm(), centre[::-1])]
    for axis, axes in enumerate(figure.subplots(1, 3)):
        for (name, grid), colour, line in zip(doses.items(), (_REFERENCE, _EVALUATED, "#14743c"), ("-", "--", ":")):
            own = grid.axes_mm()
            places = [np.array([value]) for value in through]
            places[axis] = own[axis]
            dose = resample(grid, places).ravel()
            axes.plot(own[axis], dose, line, color=colour, linewidth=1.2, label=name, zorder=3)
            sigma = resample(DoseGrid(grid.sigma_gy, grid.sigma_gy, grid.origin_mm, grid.spacing_mm), places).ravel()
            if np.any(sigma > 0.0):
                axes.fill_between(own[axis], dose - sigma, dose + sigma, color=colour, alpha=0.18, linewidth=0)
        others = [f"{letter} = {through[at]:.1f}" for at, letter in enumerate("xyz") if at != axis]
        axes.set_title(", ".join(others) + " mm", fontsize=7, color=_QUIET)
        axes.set_xlabel(f"{'xyz'[axis]} (mm)")
        axes.set_ylabel("dose (Gy)" if axis == 0 else "")
        _tidy(axes)
    axes.legend(fontsize=7, frameon=False)
    return _png(figure)


def histogram(index: Any, cap: float) -> bytes:
    """How often which gamma occurs; what fails is red."""
    figure = _new(9.0, 2.2, left=0.07, right=0.98, top=0.97, bottom=0.21)
    axes = figure.subplots()
    values = index[~np.isnan(index)]
    counts, edges = np.histogram(values, bins=np.linspace(0.0, cap, 81))
    share = 100.0 * counts / max(1, values.size)
    colours = [_REFERENCE if left < 1.0 - 1e-9 else _BAD for left in edges[:-1]]
    axes.bar(edges[:-1], share, width=np.diff(edges), align="edge", color=colours, zorder=2)
    axes.axvline(1.0, color=_INK, linewidth=0.8)
    axes.set_xlim(0.0, cap)
    axes.set_xlabel("gamma")
    axes.set_ylabel("points (%)")
    _tidy(axes)
    return _png(figure)


def dvh(curves: Mapping[str, Mapping[str, Tuple[Any, Any]]]) -> bytes:
    """structure -> dose name -> (dose Gy, volume %)."""
    figure = _new(9.0, 4.2, left=0.07, right=0.99, top=0.97, bottom=0.12)
    axes = figure.subplots()
    for number, (structure, doses) in enumerate(curves.items()):
        for (name, (dose, volume)), line in zip(doses.items(), ("-", "--")):
            axes.plot(
                dose, volume, line, color=_COLOURS[number % len(_COLOURS)], linewidth=1.2, label=f"{structure}, {name}"
            )
    axes.set_xlabel("dose of one fraction (Gy)")
    axes.set_ylabel("volume (%)")
    axes.set_ylim(0.0, 102.0)
    _tidy(axes)
    axes.legend(fontsize=6, frameon=False, ncols=2)
    return _png(figure)
