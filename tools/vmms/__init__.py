"""Real VMMs, unmodified, under 'quire run': what they are asked to do, and what came of it."""
