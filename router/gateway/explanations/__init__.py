"""Why each request went where it went, in numbers, kept for as many requests as asked for.

`plan_record` is what is remembered of a plan, `choice` what it said of one request,
`request_record` what is remembered of that request, and `request_log` the latest of them by id.
"""
