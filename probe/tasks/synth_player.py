"""Who plays, whatever the technique: the family of an instrument whose playing changes, on the embedded corpus.

The nearest that the embedded corpus has to telling singers apart: one voice, many ways of using it.
"""

from ..task import Question

TASK = Question(
    "synth_player", 1, "synth", "classes", ("instrument",), "Who plays, whatever the technique?", part="technique"
)
