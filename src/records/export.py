"""Curves and tables in the forms that other programs read: CSV, LaTeX, and marl-eval's JSON."""

from collections.abc import Mapping
from typing import Any

import pandas as pd


def curve_csv(frame: pd.DataFrame, metric: str) -> str:
    """Return curves as CSV, the value's column named after the metric; FolderStore reads it again."""
    return frame.rename(columns={"value": metric}).to_csv(index=False, lineterminator="\n")


def latex(table: pd.DataFrame) -> str:
    """Return the table of ``query.table`` in LaTeX (booktabs): a row per map, a column per algorithm.

    A cell holds the interquartile mean and its 95 % interval; the best mean of a map is bold.
    """
    algs = sorted(table["alg"].unique())
    lines = [
        rf"\begin{{tabular}}{{l{'c' * len(algs)}}}",
        r"\toprule",
        " & ".join(["map", *map(_escape, algs)]) + r" \\",
        r"\midrule",
    ]
    for task, group in table.groupby("map"):
        rows = group.set_index("alg")
        cells = [_cell(rows.loc[alg], rows["iqm"].max()) if alg in rows.index else "--" for alg in algs]
        lines.append(" & ".join([_escape(str(task)), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _cell(row: pd.Series, top: float) -> str:
    if pd.isna(row["iqm"]):
        return "--"
    mean = f"{row['iqm']:.2f}"
    mean = rf"\mathbf{{{mean}}}" if row["iqm"] == top else mean
    between = "" if pd.isna(row["low"]) else rf"\;[{row['low']:.2f}, {row['high']:.2f}]"
    return f"${mean}{between}$"


def _escape(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&")


def marl_eval(frame: pd.DataFrame, metric: str, environments: Mapping[str, str]) -> dict[str, Any]:
    """Return curves in marl-eval's form: environment, task, algorithm, seed, then an entry per test.

    ``environments`` names the environment of each run. A further run with the same seed has its id behind
    it; the absolute metrics are those of the last test.
    """
    tree: dict[str, Any] = {}
    for (run, alg, task, seed), points in frame.groupby(["run", "alg", "map", "seed"], sort=False):
        algs = tree.setdefault(environments[str(run)], {}).setdefault(str(task), {})
        steps: dict[str, Any] = {}
        for i, (step, seconds, value) in enumerate(
            points[["t_env", "seconds", "value"]].itertuples(index=False)
        ):
            elapsed = {} if pd.isna(seconds) else {"elapsed_time": seconds}
            steps[f"step_{i}"] = {"step_count": int(step), **elapsed, metric: [value]}
        steps["absolute_metrics"] = {metric: [float(points["value"].iloc[-1])]}
        seeds = algs.setdefault(str(alg), {})
        key = f"seed_{seed}"
        seeds[f"{key}_{run}" if key in seeds else key] = steps
    return tree
