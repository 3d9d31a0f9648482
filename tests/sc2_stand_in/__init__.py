"""A stand-in for the StarCraft II process: it speaks the game's protocol and plays rough battles of its own.

It shows that the way from the command line to the record works where the game cannot be installed. What is
trained on it says nothing about StarCraft II, and a record of it carries ``game_version: stand-in``.
"""

from sc2_stand_in.installing import BUILD, FAULT_VARIABLE, GAME_VERSION, install

__all__ = ["BUILD", "FAULT_VARIABLE", "GAME_VERSION", "install"]
