"""What a process tells of itself: metrics, traces, logs.

A leaf: whoever has done something hands over what it was. Every metric is defined in `metrics`,
nothing but `otlp` imports OpenTelemetry, and nothing here waits, fails or changes a decision.
`engine_metrics` reads what engines tell of themselves, `repeats` logs what others can cause.
"""
