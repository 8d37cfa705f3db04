"""What a label is: kinds of labels, folders with labels, splits. Nothing here knows encoders or heads."""
