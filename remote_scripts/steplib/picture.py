"""depth_dose.png: one beam's depth dose, for a person to look at. No patient data on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional

from .result import DepthDose

_INK, _QUIET, _GRID = "#1b2733", "#5c6b7a", "#e4e9ee"
_LINE, _LAYER, _MARK = "#0b5fa5", "#9db8d2", "#c2410c"
_GOOD, _BAD = "#14743c", "#b42318"
_BANNER = "RESEARCH TOOL, NOT A MEDICAL DEVICE  ·  analytic try-out model in water, not for clinical use"
_LEFT, _RIGHT = 0.075, 0.97


def draw(path: Path, result: DepthDose, summary: Mapping[str, Any]) -> None:
    """Writes the picture as PNG, 1500 x 1000 pixels. `summary`: the content of summary.json."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {"font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10.0, 20.0 / 3.0), dpi=150, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        _plot(figure.add_axes((_LEFT, 0.175, _RIGHT - _LEFT, 0.675)), result, summary)
        _head(figure, summary)
        _foot(figure)
        canvas.print_png(str(path))  # type: ignore[no-untyped-call]


def _plot(axes: Any, result: DepthDose, summary: Mapping[str, Any]) -> None:
    highest = float(result.energy_mev_per_mm.max()) or 1.0
    depth, total = result.depth_mm, 100.0 * result.energy_mev_per_mm / highest
    if len(result.layers) > 1:
        for row in result.layers:
            axes.plot(depth, 100.0 * row / highest, color=_LAYER, linewidth=0.8, zorder=2)
    axes.fill_between(depth, total, color=_LINE, alpha=0.08, linewidth=0, zorder=1)
    axes.plot(depth, total, color=_LINE, linewidth=2.2, zorder=4)
    # Room for the labels on the right of the curve.
    axes.set_xlim(0.0, max(depth[-1], 1.2 * (summary["r80_mm"] or 0.0)))
    axes.set_ylim(0.0, 112.0)
    axes.set_xlabel("Depth in water (mm)", color=_INK)
    axes.set_ylabel("Laterally integrated dose (% of maximum)", color=_INK)
    axes.grid(color=_GRID, linewidth=0.7, zorder=0)
    axes.tick_params(colors=_QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    for name, level in (("r90_mm", 90.0), ("r80_mm", 80.0)):
        _mark(axes, summary[name], level, name[:3].upper())


def _mark(axes: Any, depth: Optional[float], level: float, name: str) -> None:
    if depth is None:
        return
    axes.plot([depth], [level], marker="o", markersize=5, color=_MARK, zorder=5)
    axes.annotate(
        f"{name}  {depth:.1f} mm",
        (depth, level),
        xytext=(10, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        color=_MARK,
        fontweight="bold",
        bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        zorder=6,
    )


def _head(figure: Any, summary: Mapping[str, Any]) -> None:
    low, high, wet_mm = summary["min_energy_MeV"], summary["max_energy_MeV"], summary["range_shifter_wet_mm"]
    facts = (
        f"{summary['layers']} {'layer' if summary['layers'] == 1 else 'layers'}, "
        + (f"{high:.1f} MeV" if low == high else f"{low:.1f} to {high:.1f} MeV"),
        f"{summary['spots']} {'spot' if summary['spots'] == 1 else 'spots'}",
        f"{summary['total_mu']:.1f} MU per fraction",
        f"range shifter {wet_mm:.1f} mm water" if wet_mm else "no range shifter",
    )
    passed, checks = sum(bool(each["passed"]) for each in summary["checks"]), len(summary["checks"])
    color = _GOOD if passed == checks else _BAD
    figure.text(_LEFT, 0.935, f"Beam {summary['beam']}: depth dose in water", fontsize=15, fontweight="bold")
    figure.text(_LEFT, 0.893, "   ·   ".join(facts), fontsize=9.5, color=_QUIET)
    outcome = f"{passed} of {checks} checks passed"
    figure.text(_RIGHT, 0.935, outcome, fontsize=9.5, fontweight="bold", color=color, ha="right")


def _foot(figure: Any) -> None:
    from matplotlib.patches import Rectangle

    figure.text(_LEFT, 0.082, "thick: whole beam   ·   thin: energy layers", fontsize=8.5, color=_QUIET)
    source = "Bortfeld 1997, ranges from NIST PSTAR"
    figure.text(_RIGHT, 0.082, source, fontsize=8.5, color=_QUIET, ha="right")
    strip = Rectangle((0.0, 0.0), 1.0, 0.055, transform=figure.transFigure, color="#fdf0d5", zorder=0)
    figure.add_artist(strip)
    figure.text(0.5, 0.0275, _BANNER, ha="center", va="center", fontweight="bold", color="#7a4b00")
