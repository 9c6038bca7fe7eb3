"""OpenAI's Batch API: files of requests, and what becomes of each of their lines.

`database` keeps everything, files too, so that gateways share nothing else; `files`, `batches` and
`lines` are its tables' questions. `api` is what clients see, `checking` looks at a new batch's
lines, `runner` sends those that wait as requests of the gateway's own (`inside`), in the order that
`order` says, and `recorder` writes down what came of them. Knows no worker and no plan.
"""
