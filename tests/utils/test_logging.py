import logging

import torch

from utils.logging import RECENT, Logger


class Record:
    def __init__(self) -> None:
        self.points: list[tuple[str, float, int]] = []

    def log_scalar(self, key: str, value: float, t: int) -> None:
        self.points.append((key, value, t))


def test_every_value_reaches_sacred_as_a_plain_float():
    logger, record = Logger(logging.getLogger("test")), Record()
    logger.setup_sacred(record)
    logger.log_stat("loss", torch.tensor(0.5), 10)
    logger.log_stat("return_mean", 2, 20)
    assert record.points == [("loss", 0.5, 10), ("return_mean", 2.0, 20)]
    assert all(type(value) is float for _, value, _ in record.points)


def test_only_recent_values_are_kept():
    logger = Logger(logging.getLogger("test"))
    for t in range(100):
        logger.log_stat("loss", t, t)
    assert len(logger.stats["loss"]) == RECENT
    assert logger.last("loss") == 99
    assert logger.last("unknown") is None


def test_console_shows_the_mean_of_recent_values(caplog):
    logger = Logger(logging.getLogger("test"))
    for t in range(1, 101):
        logger.log_stat("loss", t, t)
    with caplog.at_level(logging.INFO):
        logger.print_recent_stats()
    assert "loss: 98" in caplog.text


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
