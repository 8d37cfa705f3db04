"""Parameters of encoders that stand beside the hidden states: heads of their own, and what replaces masked frames.

Who learns on the hidden states, by labels or by contrast, never reaches them: left trainable, ranks would wait for
gradients that never come. Who begins with an encoder's weights for other labels leaves its head out.
"""

from __future__ import annotations

from torch import nn

UNHEARD = (
    "masked_spec_embed", "head.", "predictor.", "hidden_embedding", "network.dense", "network.bn.", "network.pooler.",
    "network.mlp_head.", "network.fc1.", "network.fc_audioset.", "network.att_block.", "network.tscam_conv.",
)  # fmt: skip
"""How their names begin: mask embeddings and heads of their own, those of taggers too."""


def freeze_unheard(encoder: nn.Module) -> None:
    """Let what no hidden state depends on be as it is."""
    for name, parameter in encoder.named_parameters():
        if name.startswith(UNHEARD) or "mask" in name.rpartition(".")[2]:
            parameter.requires_grad_(False)
