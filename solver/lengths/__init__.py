"""How many output tokens a request will make, as a distribution, and what is left while it runs.

Decides from what finished requests have shown, told apart by model, tenant, size and beginning of
the prompt, and by `max_tokens`: never from text. `predictor` is for requests to come, `survival`
for those that run, `distribution` is what both speak in.

Invariants: a distribution never exceeds `max_tokens`; the same history gives the same prediction; a
new kind of request is predicted from the nearest kind that has been seen.

Must not know: workers, time. Begin with `predictor`.
"""
