"""From tables to figures: groups, medians, intervals, as docs/measuring_honestly.md defines them."""
