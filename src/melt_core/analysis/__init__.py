"""From tables to figures: groups, medians, intervals. Every definition is docs/measuring.md's, none is made up here."""
