"""A document as a list of blocks, and the same as one self-contained HTML page that prints on A4.

Everything is escaped; figures travel in the page as data: URIs, and its policy lets it load nothing from anywhere.
steplib/document_pdf.py makes the PDF from the same blocks.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from typing import List, Sequence, Tuple, Union

# Ink and paper of each verdict.
COLOURS = {
    "pass": ("#14532d", "#dcfce7"),
    "conditional": ("#7a4b00", "#fdf0d5"),
    "not comparable": ("#334155", "#e2e8f0"),
    "fail": ("#7f1d1d", "#fee2e2"),
}


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 or 2; level 1 with `new_page` begins one when printed."""

    text: str
    level: int = 1
    new_page: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph; `quiet` ones are small and grey."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Badge:
    """A verdict: its word in its colour, a title, and the reason."""

    title: str
    word: str
    reason: str


@dataclass(frozen=True)
class Table:
    """Rows of texts. `widths`: shares of the page's width; columns in `numbers` are aligned to the right. A cell that
    is a verdict's word gets its colour."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    widths: Sequence[float]
    numbers: Sequence[int] = ()


@dataclass(frozen=True)
class Figure:
    """A PNG with a caption; `width`: share of the page's."""

    png: bytes
    caption: str
    width: float = 1.0


Block = Union[Heading, Text, Badge, Table, Figure]


@dataclass(frozen=True)
class Document:
    """`banner` stands on every page; `footer` below it."""

    title: str
    banner: str
    footer: str
    blocks: Tuple[Block, ...]


_STYLE = """
@page { size: A4; margin: 18mm 14mm 16mm 14mm }
* { box-sizing: border-box }
body { font: 10.5pt/1.4 "Segoe UI", "DejaVu Sans", Arial, sans-serif; color: #1b2733; background: #fff;
  max-width: 190mm; margin: 0 auto; padding: 6mm 4mm }
.banner { background: #fdf0d5; color: #7a4b00; font-weight: 700; text-align: center; padding: 2mm 3mm;
  border-radius: 1.5mm; margin-bottom: 5mm; print-color-adjust: exact; -webkit-print-color-adjust: exact }
h1 { font-size: 19pt; margin: 0 0 3mm } h2 { font-size: 14pt; margin: 8mm 0 2mm; border-bottom: .3mm solid #cbd5e1 }
h3 { font-size: 11.5pt; margin: 5mm 0 1.5mm } h2, h3 { break-after: avoid }
.quiet { color: #5c6b7a; font-size: 9pt }
.badge { border-radius: 2mm; padding: 3mm 4mm; margin: 2mm 0; break-inside: avoid; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; overflow-wrap: anywhere }
.badge b { font-size: 12pt; text-transform: uppercase; letter-spacing: .03em }
table { border-collapse: collapse; width: 100%; margin: 2mm 0 4mm; font-size: 9pt; table-layout: fixed }
th { text-align: left; border-bottom: .4mm solid #94a3b8; font-weight: 600 } thead { display: table-header-group }
th, td { padding: .8mm 1.5mm; vertical-align: top; overflow-wrap: anywhere } td { border-bottom: .2mm solid #e2e8f0 }
tr { break-inside: avoid } .number { text-align: right; font-variant-numeric: tabular-nums }
td.verdict { font-weight: 700; print-color-adjust: exact; -webkit-print-color-adjust: exact }
figure { margin: 2mm auto 4mm; break-inside: avoid } img { width: 100%; display: block }
figcaption { color: #5c6b7a; font-size: 9pt } .page { break-before: page }
@media print { body { max-width: none; padding: 0 } }
"""


def to_html(document: Document) -> str:
    """The page as text."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(document.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        f'<div class="banner">{escape(document.banner)}</div>\n<h1>{escape(document.title)}</h1>',
    ]
    parts += [_html(block) for block in document.blocks]
    parts.append(f'<p class="quiet">{escape(document.footer)}</p>\n</body>\n</html>\n')
    return "\n".join(parts)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        tag, kind = ("h2", "h3")[block.level - 1], ' class="page"' if block.new_page else ""
        return f"<{tag}{kind}>{escape(block.text)}</{tag}>"
    if isinstance(block, Text):
        return f"<p{' class=quiet' if block.quiet else ''}>{escape(block.text)}</p>"
    if isinstance(block, Badge):
        ink, paper = COLOURS[block.word]
        return (
            f'<div class="badge" style="color:{ink};background:{paper}">{escape(block.title)} '
            f"<b>{escape(block.word)}</b><br>{escape(block.reason)}</div>"
        )
    if isinstance(block, Figure):
        data = base64.b64encode(block.png).decode("ascii")
        return (
            f'<figure style="width:{100 * block.width:.0f}%"><img alt="{escape(block.caption)}" '
            f'src="data:image/png;base64,{data}"><figcaption>{escape(block.caption)}</figcaption></figure>'
        )
    return _table(block)


def _table(table: Table) -> str:
    total = sum(table.widths)
    columns = "".join(f'<col style="width:{100.0 * each / total:.1f}%">' for each in table.widths)
    head = "".join(_cell("th", text, place, table) for place, text in enumerate(table.header))
    lines: List[str] = []
    for row in table.rows:
        lines.append("<tr>" + "".join(_cell("td", text, place, table) for place, text in enumerate(row)) + "</tr>")
    top = f"<thead><tr>{head}</tr></thead>" if any(table.header) else ""
    return f"<table><colgroup>{columns}</colgroup>{top}<tbody>" + "\n".join(lines) + "</tbody></table>"


def _cell(tag: str, text: str, place: int, table: Table) -> str:
    if tag == "td" and text in COLOURS:
        ink, paper = COLOURS[text]
        return f'<td class="verdict" style="color:{ink};background:{paper}">{escape(text)}</td>'
    kind = ' class="number"' if place in table.numbers else ""
    return f"<{tag}{kind}>{escape(text)}</{tag}>"
