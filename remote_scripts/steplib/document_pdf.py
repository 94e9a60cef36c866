"""The PDF of a document (steplib/document.py), A4, with ReportLab. The banner and a page number are on every page.

Text is set in DejaVu Sans, which matplotlib brings along: ReportLab's own fonts lack γ, σ and ≤.
"""

from __future__ import annotations

import io
from html import escape
from typing import Any, List

from .document import COLOURS, Badge, Block, Document, Figure, Heading, Table, Text

_FONT, _BOLD = "DejaVuSans", "DejaVuSans-Bold"
_INK, _QUIET, _LINE = "#1b2733", "#5c6b7a", "#cbd5e1"


def to_pdf(document: Document) -> bytes:
    """The whole file."""
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import SimpleDocTemplate

    _fonts()
    stream = io.BytesIO()
    template = SimpleDocTemplate(
        stream,
        pagesize=A4,
        leftMargin=15 * mm,
        rightMargin=15 * mm,
        topMargin=22 * mm,
        bottomMargin=18 * mm,
        title=document.title,
        author="mqi",
        invariant=True,
    )
    flow: List[Any] = [_paragraph(document.title, 17, bold=True, after=8)]
    for block in document.blocks:
        flow += _flow(block, template.width)

    def frame(canvas: Any, page: Any) -> None:
        _frame(canvas, document, A4, mm, page.page)

    template.build(flow, onFirstPage=frame, onLaterPages=frame)
    return stream.getvalue()


def _fonts() -> None:
    from pathlib import Path

    import matplotlib
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name in (_FONT, _BOLD):
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, str(folder / f"{name}.ttf")))


def _frame(canvas: Any, document: Document, size: Any, mm: float, page: int) -> None:
    width, height = size
    canvas.saveState()
    canvas.setFillColor("#fdf0d5")
    canvas.rect(15 * mm, height - 16 * mm, width - 30 * mm, 8 * mm, stroke=0, fill=1)
    canvas.setFillColor("#7a4b00")
    canvas.setFont(_BOLD, 8.5)
    canvas.drawCentredString(width / 2, height - 13 * mm, document.banner)
    canvas.setFillColor(_QUIET)
    canvas.setFont(_FONT, 7)
    canvas.drawString(15 * mm, 10 * mm, document.footer)
    canvas.drawRightString(width - 15 * mm, 10 * mm, f"page {page}")
    canvas.restoreState()


def _paragraph(
    text: str, size: float, *, bold: bool = False, colour: str = _INK, after: float = 4, before: float = 0,
    right: bool = False, keep: bool = False,
) -> Any:  # fmt: skip
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    style = ParagraphStyle(
        "own",
        fontName=_BOLD if bold else _FONT,
        fontSize=size,
        leading=1.35 * size,
        textColor=colour,
        spaceAfter=after,
        spaceBefore=before,
        alignment=2 if right else 0,
        keepWithNext=int(keep),
        splitLongWords=1,
    )
    # Characters without a glyph would end the document; a control character is none.
    return Paragraph(escape("".join(c if c.isprintable() else " " for c in text)), style)


def _flow(block: Block, width: float) -> List[Any]:
    from reportlab.platypus import Image, KeepTogether, PageBreak

    if isinstance(block, Heading):
        size = 12.5 if block.level == 1 else 10.0
        head = _paragraph(block.text, size, bold=True, before=10, after=4, keep=True)
        return [PageBreak(), head] if block.new_page else [head]
    if isinstance(block, Text):
        return [_paragraph(block.text, 7.5 if block.quiet else 9, colour=_QUIET if block.quiet else _INK)]
    if isinstance(block, Badge):
        return [_badge(block, width)]
    if isinstance(block, Figure):
        image = Image(io.BytesIO(block.png))
        scale = width * block.width / image.imageWidth
        image.drawWidth, image.drawHeight = width * block.width, image.imageHeight * scale
        return [KeepTogether([image, _paragraph(block.caption, 7.5, colour=_QUIET, after=6)])]
    return [_table(block, width)]


def _badge(block: Badge, width: float) -> Any:
    from reportlab.platypus import Table as Grid

    ink, paper = COLOURS[block.word]
    head = _paragraph(f"{block.title}  {block.word.upper()}", 11, bold=True, colour=ink, after=2)
    cell = [head, _paragraph(block.reason, 8.5, colour=ink, after=0)]
    style = [("BACKGROUND", (0, 0), (-1, -1), paper), ("LEFTPADDING", (0, 0), (-1, -1), 8)]
    style += [("TOPPADDING", (0, 0), (-1, -1), 5), ("BOTTOMPADDING", (0, 0), (-1, -1), 6)]
    return Grid([[cell]], colWidths=[width], style=style, spaceAfter=6)


def _table(table: Table, width: float) -> Any:
    from reportlab.platypus import Table as Grid

    total = sum(table.widths)
    style: List[Any] = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, -1), 0.3, _LINE),
        ("TOPPADDING", (0, 0), (-1, -1), 1.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
        ("LEFTPADDING", (0, 0), (-1, -1), 3),
        ("RIGHTPADDING", (0, 0), (-1, -1), 3),
    ]
    rows: List[List[Any]] = []
    if any(table.header):
        style.append(("LINEBELOW", (0, 0), (-1, 0), 0.8, "#94a3b8"))
        rows.append(
            [
                _paragraph(text, 7.5, bold=True, after=0, right=place in table.numbers)
                for place, text in enumerate(table.header)
            ]
        )
    for row in table.rows:
        for place, text in enumerate(row):
            if text in COLOURS:
                style.append(("BACKGROUND", (place, len(rows)), (place, len(rows)), COLOURS[text][1]))
        rows.append([_table_cell(text, place in table.numbers) for place, text in enumerate(row)])
    return Grid(
        rows,
        colWidths=[width * each / total for each in table.widths],
        style=style,
        repeatRows=1 if any(table.header) else 0,
        spaceAfter=6,
        spaceBefore=2,
    )


def _table_cell(text: str, right: bool) -> Any:
    if text in COLOURS:
        return _paragraph(text, 7.5, bold=True, colour=COLOURS[text][0], after=0)
    return _paragraph(text, 7.5, after=0, right=right)
