"""Compares algorithms from recorded runs, cell by cell: open it as a notebook, or run it as it is.

python examples/compare_runs.py [FOLDER_OR_CSV ...]
"""

# %% What is there
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from records import query, statistics  # noqa: E402
from records.query import Filter  # noqa: E402

store = query.open_store(sys.argv[1:] or [ROOT / "benchmarks" / "results" / "study"])
chosen = query.select(store, Filter(map=("3m",)))
print(query.runs(chosen).to_string(index=False))
print(*query.notices(chosen), sep="\n")

# %% Curves, a row per test
metric = query.metric_of(chosen, None)
curves = query.curves(store, chosen, metric)
print(curves.head())

# %% How good at 35,000 steps: interquartile mean and its 95 % interval over seeds
print(query.table(curves, at=35_000).round(3).to_string(index=False))

# %% The area under each run's curve, with pandas alone
areas = curves.groupby(["alg", "seed"])[["t_env", "value"]].apply(
    lambda points: statistics.area(points["t_env"], points["value"])
)
print(areas.unstack().round(3))
