"""Learners by the name a configuration gives in `learner`."""

from .gawm_learner import GAWMLearner
from .ppo_learner import PPOLearner
from .q_learner import QLearner

REGISTRY: dict[str, type] = {
    "ppo_learner": PPOLearner,
    "q_learner": QLearner,
    "gawm_learner": GAWMLearner,
}
