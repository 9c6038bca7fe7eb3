"""Pictures as SVG: schedules, curves, scatters."""
