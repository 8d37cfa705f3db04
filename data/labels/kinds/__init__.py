"""One file per kind of label, each with a `KIND`; `lookup.kinds` finds them."""
