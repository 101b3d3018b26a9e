"""Records whole conversations with a checkpoint in float32, greedy, for `rxt verify`: the questions are those of generated
dialogues with values and wordings of the validation split, and small talk held out of training where DATA is given.

usage: python -m rxt_train.converse CHECKPOINT_FOLDER OUT COUNT TURNS [DATA]
       for d in OUT/*; do rxt verify $d --model CHECKPOINT_FOLDER --dtype f32; done
"""

import json
import os
import random
import sys

import torch

from .dialogue import PROFILES, Generator
from .entities import Entities
from .realtext import RealText
from .record import record
from .small_talk import SmallTalk
from .world import Templates


def questions(count, turns, data=None):
    """[[text of the user]]: conversations of both kinds that have small talk between facts."""
    entities = Entities("valid")
    real = RealText(data, "test") if data else None
    talk = SmallTalk(entities, real.singles, real.runs) if real else SmallTalk(entities)
    generator, rng = Generator(Templates("valid"), entities, talk), random.Random("converse")
    profiles = [PROFILES[name] for name in ("natural", "exam")]
    return [[t.q for t in generator.dialogue(profiles[i % 2], turns, rng)] for i in range(count)]


def main(folder, out, count, turns, data=None):
    torch.set_num_threads(1)
    for i, queries in enumerate(questions(int(count), int(turns), data)):
        found = record(folder, queries, 0)
        place = os.path.join(out, f"{i:02d}")
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, "conversation.json"), "w", encoding="utf-8") as f:
            f.write("[\n" + ",\n".join(json.dumps(turn) for turn in found) + "\n]\n")
        print(f"{place}: {len(found)} turns, smallest margin {min(t['min_margin'] for t in found)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
