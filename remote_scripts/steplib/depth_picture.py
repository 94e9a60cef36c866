"""depth_dose.png: a beam's depth doses, for a person to look at. No patient data on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

import numpy as np

from .dose_checks import Checked

_INK, _QUIET, _GRID = "#1b2733", "#5c6b7a", "#e4e9ee"
_COLOURS = {"planned": "#0b5fa5", "delivered": "#c2410c"}
_GOOD, _BAD = "#14743c", "#b42318"
_BANNER = "RESEARCH TOOL, NOT A MEDICAL DEVICE"
_LEFT, _RIGHT = 0.085, 0.97


def draw(path: Path, curves: Mapping[str, Checked], summary: Mapping[str, Any]) -> None:
    """Writes the picture as PNG, 1500 x 1000 pixels. `summary`: the content of summary.json."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {"font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10.0, 20.0 / 3.0), dpi=150, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        _plot(figure.add_axes((_LEFT, 0.175, _RIGHT - _LEFT, 0.675)), curves)
        _head(figure, curves, summary)
        _foot(figure, summary)
        canvas.print_png(str(path))  # type: ignore[no-untyped-call]


def _plot(axes: Any, curves: Mapping[str, Checked]) -> None:
    end = 10.0
    for which, checked in curves.items():
        if checked.curve is None or checked.expected is None:
            continue
        colour = _COLOURS[which]
        meant = checked.expected
        axes.plot(meant.depth_mm, meant.dose_gy_mm2, color=colour, linewidth=0.9, linestyle=":", alpha=0.8)
        axes.plot(
            checked.curve.depth_mm,
            checked.curve.dose_gy_mm2,
            color=colour,
            linewidth=2.0 if which == "planned" else 1.3,
            label=f"{which}: R80 {_mm(checked.curve.distal(0.8))}",
        )
        depths = checked.curve.depth_mm[checked.curve.dose_gy_mm2 > 0.005 * checked.curve.dose_gy_mm2.max()]
        end = max(end, float(np.max(depths)) * 1.08)
    axes.set_xlim(0.0, end)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("Water-equivalent depth (mm)", color=_INK)
    axes.set_ylabel("Dose integrated over the plane (Gy mm²)", color=_INK)
    axes.grid(color=_GRID, linewidth=0.7, zorder=0)
    axes.tick_params(colors=_QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", frameon=False)


def _head(figure: Any, curves: Mapping[str, Checked], summary: Mapping[str, Any]) -> None:
    geometry = "water phantom" if summary["geometry"]["kind"] == "water" else "CT"
    facts = (
        f"{summary['engine']['name']} in {geometry}",
        f"gantry {summary['geometry']['gantry_deg']:g}°, couch {summary['geometry']['couch_deg']:g}°",
        *(
            f"{which}: {each['primaries']:,} protons, ±{each['uncertainty_percent']:.1f} %"
            for which, each in summary["doses"].items()
        ),
    )
    checks = [each for checked in curves.values() for each in checked.checks]
    passed = sum(each.passed for each in checks)
    figure.text(_LEFT, 0.935, f"Beam {summary['beam']}: depth dose", fontsize=15, fontweight="bold")
    figure.text(_LEFT, 0.893, "   ·   ".join(facts), fontsize=9.5, color=_QUIET)
    figure.text(
        _RIGHT,
        0.935,
        f"{passed} of {len(checks)} checks passed",
        fontsize=9.5,
        fontweight="bold",
        color=_GOOD if passed == len(checks) else _BAD,
        ha="right",
    )


def _foot(figure: Any, summary: Mapping[str, Any]) -> None:
    from matplotlib.patches import Rectangle

    note = "one fraction, RBE 1   ·   dotted: analytic model, for comparison only"
    figure.text(_LEFT, 0.082, note, fontsize=8.5, color=_QUIET)
    model = f"beam model: {summary['machine']['beam_model']}"
    figure.text(_RIGHT, 0.082, model, fontsize=8.5, color=_QUIET, ha="right")
    strip = Rectangle((0.0, 0.0), 1.0, 0.055, transform=figure.transFigure, color="#fdf0d5", zorder=0)
    figure.add_artist(strip)
    figure.text(0.5, 0.0275, _BANNER, ha="center", va="center", fontweight="bold", color="#7a4b00")


def _mm(depth: Any) -> str:
    return "not on the curve" if depth is None else f"{depth:.1f} mm"
