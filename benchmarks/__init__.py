"""How fast and how large XLSS is: medians and ratios, all in one run in one lab node."""
