"""spot_map_<beam>.png and spot_errors_<beam>.png, for a person to look at. No patient data on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Mapping

import numpy as np

from .spot_check import Comparison

_INK, _QUIET, _GRID = "#1b2733", "#5c6b7a", "#e4e9ee"
_PLANNED, _BAD = "#8a97a5", "#b42318"
_COLOUR = {"pass": "#14743c", "conditional": "#9a6700", "fail": _BAD}
_BANNER = "RESEARCH TOOL, NOT A MEDICAL DEVICE"


def draw(out: Path, entry: Mapping[str, Any], found: Comparison, limits: Mapping[str, float]) -> List[str]:
    """Writes both figures of a beam, 1500 pixels wide; their names. `entry`: the beam's of spot_check.json."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = []
    style: Any = {"font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK}
    with matplotlib.rc_context(style):
        for kind, plot in (("spot_map", _map), ("spot_errors", _errors)):
            figure = Figure(figsize=(10.0, 20.0 / 3.0), dpi=150, facecolor="white")
            canvas = FigureCanvasAgg(figure)
            plot(figure, entry, found, limits)
            _foot(figure, entry)
            name = f"{kind}_{entry['number']}.png"
            canvas.print_png(str(out / name))  # type: ignore[no-untyped-call]
            names.append(name)
    return names


def _map(figure: Any, entry: Mapping[str, Any], found: Comparison, limits: Mapping[str, float]) -> None:
    """All layers on top of each other, in the beam's eye view."""
    axes = figure.add_axes((0.075, 0.15, 0.895, 0.71))
    circle = {"marker": "o", "linestyle": "none"}
    axes.plot(found.x_mm, found.y_mm, markersize=7, fillstyle="none", color=_PLANNED, markeredgewidth=0.7, **circle)
    error = found.error_mm
    x_mm, y_mm = found.x_mm + found.dx_mm, found.y_mm + found.dy_mm
    low, high = limits["position_tolerance_mm"], limits["position_action_mm"]
    for own, colour in (
        (error <= low, _COLOUR["pass"]),
        ((error > low) & (error <= high), _COLOUR["conditional"]),
        (error > high, _COLOUR["fail"]),
    ):
        axes.plot(x_mm[own], y_mm[own], markersize=2.5, color=colour, markeredgewidth=0, **circle)
    axes.plot(found.x_mm[found.missing], found.y_mm[found.missing], "x", color=_BAD, markersize=8)
    axes.plot(found.extra_x_mm, found.extra_y_mm, "+", color=_BAD, markersize=6, markeredgewidth=0.9)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("x at the isocentre, IEC gantry (mm)")
    axes.set_ylabel("y at the isocentre, IEC gantry (mm)")
    _plain(axes)
    _head(figure, entry, "planned and delivered spots, all layers")
    words = (
        f"circle: planned   ·   dot: delivered (green within {low:g} mm, brown within {high:g} mm, red beyond)   ·   "
        "red x: missing   ·   red +: extra"
    )
    figure.text(0.075, 0.062, words, fontsize=8.5, color=_QUIET)


def _errors(figure: Any, entry: Mapping[str, Any], found: Comparison, limits: Mapping[str, float]) -> None:
    """One histogram per layer, as a row of cells: 40 layers must fit on a page."""
    layers = [each["layer"] for each in entry["layers"]]
    there = ~found.missing
    limit = 1.5 * limits["position_action_mm"]
    percent = 1.5 * limits["spot_mu_tolerance_percent"]
    plots = (
        ("position error (mm)", found.error_mm, np.linspace(0.0, limit, 31), (limits["position_tolerance_mm"],)),
        ("MU error of the spot (%)", found.mu_percent, np.linspace(-percent, percent, 41),
         (-limits["spot_mu_tolerance_percent"], limits["spot_mu_tolerance_percent"])),
    )  # fmt: skip
    for place, (label, values, edges, marks) in enumerate(plots):
        axes = figure.add_axes((0.075 + 0.445 * place, 0.15, 0.405, 0.71))
        rows = np.asarray(
            [
                np.histogram(np.clip(values[there & (found.layer == layer)], edges[0], edges[-1]), edges)[0]
                for layer in layers
            ],
            dtype=np.float64,
        )
        rows /= np.maximum(rows.sum(axis=1, keepdims=True), 1.0)
        rows[rows == 0.0] = np.nan
        centres = np.arange(len(layers) + 1) + 0.5
        cells = axes.pcolormesh(edges, centres, 100.0 * rows, cmap="Blues", vmin=0.0, zorder=2)
        for mark in marks:
            axes.axvline(mark, color=_BAD, linewidth=0.9, linestyle="--", zorder=3)
        axes.set_xlabel(label)
        axes.set_ylim(len(layers) + 0.5, 0.5)
        step = max(1, len(layers) // 20)
        axes.set_yticks(range(1, len(layers) + 1, step), [str(layer) for layer in layers[::step]])
        if place == 0:
            axes.set_ylabel("layer")
        if place == 1:
            bar = figure.colorbar(cells, cax=figure.add_axes((0.945, 0.15, 0.012, 0.71)))
            bar.set_ticks([])
            bar.set_label("share of the layer's spots", fontsize=8)
        _plain(axes)
    _head(figure, entry, "errors of the spots, layer by layer")
    words = "dashed: tolerance   ·   values beyond the scale are in the outermost cells"
    figure.text(0.075, 0.062, words, fontsize=8.5, color=_QUIET)


def _plain(axes: Any) -> None:
    axes.grid(color=_GRID, linewidth=0.6, zorder=0)
    axes.tick_params(colors=_QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)


def _head(figure: Any, entry: Mapping[str, Any], what: str) -> None:
    position, mu = entry["position_mm"], entry["mu_percent"]
    facts = [
        f"{entry['delivered_spots']} of {entry['planned_spots']} spots",
        f"missing {entry['missing']}, doubled {entry['doubled']}, extra {entry['extra']}",
    ]
    if position["n"]:
        facts.append(
            f"position {position['mean']:.2f} ± {position['sd']:.2f} mm, 95 % within {position['p95']:.2f} mm"
        )
    if mu["total"] is not None:
        facts.append(f"MU {mu['total']:+.2f} %")
    figure.text(0.075, 0.935, f"Beam {entry['number']}: {what}", fontsize=15, fontweight="bold")
    figure.text(0.075, 0.893, "   ·   ".join(facts), fontsize=9, color=_QUIET)
    colour = _COLOUR.get(entry["verdict"], _QUIET)
    figure.text(
        0.97, 0.938, entry["verdict"].upper(), fontsize=11, fontweight="bold", color=colour, ha="right"
    )


def _foot(figure: Any, entry: Mapping[str, Any]) -> None:
    from matplotlib.patches import Rectangle

    strip = Rectangle((0.0, 0.0), 1.0, 0.042, transform=figure.transFigure, color="#fdf0d5", zorder=0)
    figure.add_artist(strip)
    figure.text(0.5, 0.021, _BANNER, ha="center", va="center", fontweight="bold", color="#7a4b00")
