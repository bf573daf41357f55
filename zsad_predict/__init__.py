"""Your own images: scores, decisions, heat maps and a report."""
