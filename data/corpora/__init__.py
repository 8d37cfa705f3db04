"""The field's data sets in their official layouts, one file each: `tracks(root) -> list[Track]`."""
