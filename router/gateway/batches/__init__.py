"""OpenAI's Batch API: files of requests, and what becomes of each of their lines.

`database` keeps everything, files too, so that gateways share nothing else; `files`, `batches` and
`lines` are its tables' questions. `api` is what clients see, `checking` looks at a new batch's
lines, `runner` claims those that wait, in the order that `planned` says, has them sent as requests
of the gateway's own (`under_way`, `inside`) and writes down what comes of them; `jobs` is what
takes time before and after. `backlog` tells metrics of all that is left. Of workers it knows what a
plan must, and of nobody how to reach them.
"""
