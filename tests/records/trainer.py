"""Stands in for training: logs POINTS points of two metrics through a journal that is copied to MongoDB.

python tests/records/trainer.py ROOT URI POINTS INTERVAL [RUN_DIRECTORY KEEP]
"""

import logging
import sys
import time
from pathlib import Path

from sacred import SETTINGS, Experiment

from records.mongo import connect
from records.observer import JournalObserver
from records.replicator import MongoReplicator

root, uri, points, interval, *resumed = sys.argv[1:]
SETTINGS.CAPTURE_MODE = "no"
logging.basicConfig(format="%(message)s", level=logging.WARNING)
observer = JournalObserver(
    Path(root),
    ["trainer"],
    {"python": "3.11", "ruamel.yaml": "1"},
    resumed=Path(resumed[0]) if resumed else None,
    keep=int(resumed[1]) if resumed else 0,
)
experiment = Experiment("qmix", save_git_info=False)
experiment.add_config(
    {"name": "qmix", "seed": 3, "large": 2**70, "env": "smax", "env_args": {"map_name": "3m"}}
)
experiment.observers = [observer, MongoReplicator(observer, connect(uri), uri)]


@experiment.main
def train() -> None:
    print(f"started {observer.dir}", flush=True)
    logging_took = 0.0
    for step in range(observer.journal.metrics_written, int(points)):
        begin = time.monotonic()
        observer.journal.metric("loss" if step % 2 else "test_return_mean", step, step / 7)
        logging_took += time.monotonic() - begin
        time.sleep(float(interval))
    print(f"took {logging_took}", flush=True)


experiment.run()
