"""Where published figures come from: the words under which reports show them, beside ours and never among them."""

MARBLE = "Yuan et al. 2023 (MARBLE), constrained track"
MUQ = "Zhu et al. 2025 (MuQ), MARBLE's protocol, mean of five runs"
JUKEMIR = "Castellon, Donahue and Liang 2021 (jukemir), their own grid"
TAGGERS = "Won et al. 2020, supervised taggers"
TZANETAKIS = "Tzanetakis and Cook 2002, 1,000 clips, ten-fold cross-validation (no artist filter)"
