"""Cutting episodes into chunks."""

import torch

from components.chunks import Chunks, split


def test_split_keeps_the_order_and_pads_behind():
    steps = torch.arange(1, 11).view(2, 5, 1)
    assert split(steps, 2).squeeze(2).tolist() == [[1, 2], [3, 4], [5, 0], [6, 7], [8, 9], [10, 0]]
    assert split(steps, 5).shape == (2, 5, 1)


def test_chunks_hold_every_real_step_once_and_drop_empty_ones():
    lengths = [7, 2, 5]
    mask = torch.zeros(3, 7, 1)
    for i, length in enumerate(lengths):
        mask[i, :length] = 1
    numbers = torch.arange(21).view(3, 7, 1)
    chunks = Chunks({"mask": mask, "number": numbers}, {"start": numbers.float()}, 3)
    assert len(chunks) == 3 + 1 + 2
    assert chunks["number"][chunks["mask"] > 0].tolist() == numbers[mask > 0].tolist()
    assert chunks["start"].squeeze(1).tolist() == chunks["number"][:, 0, 0].tolist()


def test_length_zero_keeps_whole_episodes():
    fields = {"mask": torch.ones(4, 6, 1), "x": torch.randn(4, 6, 2)}
    chunks = Chunks(fields, {}, 0)
    assert torch.equal(chunks["x"], fields["x"])


def test_a_selection_holds_the_selected_rows_of_all_fields():
    chunks = Chunks({"mask": torch.ones(2, 4, 1), "x": torch.arange(8).view(2, 4)}, {}, 2)
    picked = chunks.select(torch.tensor([3, 0]))
    assert picked["x"].tolist() == [[6, 7], [0, 1]]
    assert len(picked) == 2
    assert "x" in picked
    assert "y" not in picked
