import pytest
import torch

from utils.guards import TrainingDiverged, check_all_finite

BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("value", BAD)
def test_one_bad_element_stops_and_is_named(value):
    loss = torch.zeros(3, 2)
    loss[1, 1] = value
    with pytest.raises(TrainingDiverged, match="policy_loss.*1234") as caught:
        check_all_finite({"policy_loss": loss}, 1234)
    assert (caught.value.step, caught.value.term) == (1234, "policy_loss")


@pytest.mark.parametrize("value", BAD)
def test_first_bad_term_of_several_is_named(value):
    terms = {"kl": torch.zeros(()), "reward": torch.tensor([1.0, value]), "policy": torch.tensor(value)}
    with pytest.raises(TrainingDiverged) as caught:
        check_all_finite(terms, 5)
    assert caught.value.term == "reward"


def test_finite_terms_pass_and_keep_their_graph():
    loss = torch.tensor(1.0, requires_grad=True)
    check_all_finite({"a": loss, "b": torch.full((2, 2), 1e30)}, 0)
    loss.backward()
