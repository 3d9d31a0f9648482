"""One self-contained HTML page about runs: opens offline, holds its pictures in itself."""

import base64
import html
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from records import plots, query
from records.store import Run, Store

MAX_ANIMATIONS = 12  # on one page
MEGABYTES = 4  # an animation may have

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem;
  padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem; }}
nav a {{ margin-right: 1rem; }}
div.wide {{ overflow-x: auto; max-height: 34rem; }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }}
thead th {{ position: sticky; top: 0; background: #fff; }}
img {{ max-width: 100%; }}
figure {{ display: inline-block; margin: 0 1rem 1rem 0; }} figure img {{ max-width: 22rem; }}
ul.notices {{ background: #fff6dd; padding: .6rem 2rem; }}
footer {{ margin-top: 3rem; color: #777; font-size: 13px; }}
</style>
</head>
<body>
<h1>{title}</h1>
<nav>{links}</nav>
{sections}
<footer>Made {when} UTC by <code>python src/results.py report</code>.</footer>
</body>
</html>
"""


def write(path: Path, store: Store, chosen: Sequence[Run], metric: str, title: str) -> None:
    """Write the page about the ``chosen`` runs, judged by ``metric``, to ``path``."""
    frame = query.curves(store, chosen, metric)
    sections = {
        "Notices": _notices(query.notices(chosen) + query.lengths(frame) + store.problems),
        f"Curves of {metric}": _picture(frame, metric),
        "Last values": _table(query.table(frame)),
        "Best runs": _table(query.best(frame).head(20)),
        "Losses of the world model": _losses(store, chosen),
        "Battles": _battles(chosen),
        "Configuration: what differs": _table(query.differences(chosen), index=True),
        "Runs": _table(query.runs(chosen)),
    }
    sections = {name: content for name, content in sections.items() if content}
    page = PAGE.format(
        title=html.escape(title),
        links=" ".join(f'<a href="#s{i}">{html.escape(name)}</a>' for i, name in enumerate(sections)),
        sections="\n".join(
            f'<h2 id="s{i}">{html.escape(name)}</h2>\n{content}'
            for i, (name, content) in enumerate(sections.items())
        ),
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _notices(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="notices">{items}</ul>' if lines else ""


def _table(frame: pd.DataFrame, index: bool = False) -> str:
    if frame.empty:
        return ""
    text = frame.to_html(index=index, border=0, na_rep="", float_format="{:.3f}".format)
    return f'<div class="wide">{text}</div>'


def _picture(frame: pd.DataFrame, metric: str) -> str:
    return _drawn({metric: frame}) if len(frame) else ""


def _losses(store: Store, chosen: Sequence[Run]) -> str:
    metrics = query.loss_metrics(chosen)
    return _drawn({metric: query.curves(store, chosen, metric) for metric in metrics}) if metrics else ""


def _drawn(frames: dict[str, pd.DataFrame]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "curves.png")
        plots.draw_curves(frames, path)
        return _image(path, html.escape(f"Curves of {', '.join(frames)}"))


def _battles(chosen: Sequence[Run]) -> str:
    figures: list[str] = []
    for run in chosen:
        for path in sorted(Path(run.where).glob("**/*.gif")):
            if path.stat().st_size <= MEGABYTES * 2**20 and len(figures) < MAX_ANIMATIONS:
                words = html.escape(f"{run.alg} on {run.map}, seed {run.seed}: {path.name}")
                figures.append(f"<figure>{_image(path, words)}<figcaption>{words}</figcaption></figure>")
    return "".join(figures)


def _image(path: Path, words: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{words}" src="data:image/{path.suffix[1:]};base64,{data}">'
