import logging
import os
import sys

import torch

from records.journal import Journal, read_journal
from utils.logging import RECENT, Logger, get_console_logger


def test_every_value_reaches_the_journal_as_a_plain_float(tmp_path):
    logger = Logger(logging.getLogger("test"))
    logger.setup_journal(Journal.create(tmp_path, config={}))
    logger.log_stat("loss", torch.tensor(0.5), 10)
    logger.log_stat("return_mean", 2, 20)
    metrics = read_journal(tmp_path).metrics
    assert (metrics["loss"].steps, metrics["loss"].values) == ([10], [0.5])
    assert (metrics["return_mean"].steps, metrics["return_mean"].values) == ([20], [2.0])
    assert all(type(value) is float for series in metrics.values() for value in series.values)


def test_only_recent_values_are_kept():
    logger = Logger(logging.getLogger("test"))
    for t in range(100):
        logger.log_stat("loss", t, t)
    assert len(logger.stats["loss"]) == RECENT
    assert logger.last("loss") == 99
    assert logger.last("unknown") is None


def test_console_shows_the_mean_of_recent_values_and_counts_as_they_are(caplog):
    logger = Logger(logging.getLogger("test"))
    for t in range(1, 101):
        logger.log_stat("loss", t % 2 + 0.5, t)
        logger.log_stat("won", t % 2, t)
        logger.log_stat("updates", 1_000_000 + t, t)
    with caplog.at_level(logging.INFO):
        logger.print_recent_stats()
    shown = caplog.text.split("last 5 values)")[1].split()
    assert shown == ["loss:", "0.9", "updates:", "1000100", "won:", "0.4"]


def test_tensorboard_files_are_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = Logger(logging.getLogger("test"))
    logger.setup_tb(str(tmp_path))
    logger.log_stat("loss", 0.25, 7)
    logger.finish()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(7, 0.25)]


def test_state_continues():
    first = Logger(logging.getLogger("test"))
    first.log_stat("loss", 3.0, 5)
    second = Logger(logging.getLogger("test"))
    second.load_state_dict(first.state_dict())
    assert list(second.stats["loss"]) == [(5, 3.0)]


def test_a_reader_that_went_away_is_no_error(monkeypatch):
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "w") as unread:
        monkeypatch.setattr(sys, "stderr", unread)
        get_console_logger().info("a line that nobody reads")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), theirs)  # closing flushes what couldn't be written
